"""Every registered engine answers whatever it can be asked: a click, a box, a phrase, a reference, and nothing at all.

Each is built by its own recipe. The engines around a decoder of the SAM family see through a network and a CLIP that tell
colours apart, in the frame of their own family; those of SEEM have small networks of their own kind, whose random weights are
made sure of what they see; the others are as they are.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from backend.engines.base import Engine
from backend.engines.catalogue import ENGINES, Placement
from backend.engines.sam import engine as sam
from backend.engines.sam.transforms import PadFrame
from backend.engines.seem.engine import Release, assemble
from backend.engines.seem.inputs import NAMES, InputSize
from backend.segmenter import Segmenter
from backend.values.features import FeatureCache
from backend.values.masks import MaskSet
from backend.values.session import ForEverything, ForNames, ForPrompts, Question, Round
from prompts.kinds import BoxPrompt, KeyedImage, ObjectMemory, PointPrompt, Prompt, PromptSet, ReferencePrompt, TextPrompt
from prompts.phrases import Vocabulary
from tests.backend.engines import tiny_bundles
from tests.backend.engines.colour_network import SIDE, ColourClip, ColourNetwork
from tests.backend.engines.seem.checkpoints import save_checkpoint
from tests.backend.engines.seem.conftest import CONFIGS as SEEM_CONFIGS
from tests.backend.engines.seem.conftest import give_weights
from tests.backend.pictures import disc, two_red_discs, two_shapes

CPU = Placement("cpu", "float32")
FINDS_NOTHING_BY_ITSELF = {"colour"}
READS_NO_MEMORY_OF_WHAT_IS_DRAWN = {"colour", "seem-focal-t-demo", "seem-focal-l-demo"}
"""They look at it only where an object has nothing else that shows it."""
SEEM_BACKBONES = {"seem-focal-t": "focaldw", "seem-focal-l": "focal4", "seem-samvit": "samvit"}
SEEM_LIMITS = {"samvit": InputSize(125, 128, 128)}
SURENESS = {"focaldw": 4, "focal4": 4, "samvit": -4}
"""What the mask vectors of random networks are multiplied by, so that masks are sure and references fit some of them."""
ROUNDING = 0.02
"""Of logits, which are kept as float16."""
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """An image, phrases of which one at least is on it, the boxes of two things from left to right, and another image with the
    region of one of them.
    """

    image: KeyedImage
    phrases: tuple[str, ...]
    boxes: tuple[Box, Box]
    reference: ReferencePrompt

    def click(self, which: int = 0) -> PointPrompt:
        x0, y0, x1, y1 = self.boxes[which]
        return PointPrompt(((x0 + x1) / 2, (y0 + y1) / 2))


@functools.cache
def drawing() -> Scene:
    """A blue square and a red disc."""
    here, there = two_shapes(), two_red_discs()
    reference = ReferencePrompt(KeyedImage.of(there.image), there.shapes["blue square"])
    return Scene(KeyedImage.of(here.image), ("blue square",), ((12, 22, 48, 58), (75, 25, 105, 55)), reference)


@functools.cache
def photo() -> Scene:
    """An astronaut beside a model of a shuttle, and the same photo turned with a disc around her head."""
    there = np.ascontiguousarray(skimage.data.astronaut())
    region = disc(*there.shape[:2], 220, 130, 110)
    turned = ReferencePrompt(KeyedImage.of(np.ascontiguousarray(there[:, ::-1])), np.ascontiguousarray(region[:, ::-1]))
    return Scene(KeyedImage.of(there), ("person",), ((150, 40, 290, 210), (330, 20, 500, 280)), turned)


def scene_of(name: str) -> Scene:
    """For an engine of SEEM every name that it was trained with: nobody knows what random layers take for what."""
    if name.startswith("seem-"):
        return replace(photo(), phrases=NAMES)
    return photo() if name == "embedded" else drawing()


@functools.cache
def segmenter_of(name: str) -> Segmenter:
    """An engine by its own recipe, with a cache in which every image stays."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        if name.startswith("seem-"):
            engine = seem(name, Path(folder))
        elif ENGINES[name].models:
            engine = sam_family(name, Path(folder), patch)
        else:
            engine = ENGINES[name].load(None)
    return Segmenter(engine, FeatureCache(1 << 28))


def sam_family(name: str, folder: Path, patch: pytest.MonkeyPatch) -> Engine:
    """The engine of a bundle whose decoder and CLIP are replaced by those that tell colours apart."""

    def tells_colours(part: Path, placement: Placement) -> ColourNetwork:
        pads = isinstance(load(part, placement).frame, PadFrame)
        return ColourNetwork(PadFrame(SIDE, (0, 0, 0), (1, 1, 1)) if pads else None)

    load = sam.load_network
    patch.setattr(sam, "load_network", tells_colours)
    patch.setattr(sam, "load_clip", lambda *_: ColourClip())
    bundle = tiny_bundles.write_bundle(name, folder)
    shutil.rmtree(bundle / "dino")
    return ENGINES[name].load(bundle, CPU)


def seem(name: str, folder: Path) -> Engine:
    """The release of a name with small layers of its own kind, whose similarities are as sharp as a trained model's."""
    backbone = next(kind for prefix, kind in SEEM_BACKBONES.items() if name.startswith(prefix))
    release: Release = EntryPoint("release", ENGINES[name].build.removesuffix(".build"), "").load()
    network = assemble(SEEM_CONFIGS[backbone], release.wiring)
    give_weights(network)
    network.predictor.lang_encoder.logit_scale.fill_(5.0)
    for vector in network.predictor.mask_embed.layers[-1].parameters():
        vector.mul_(SURENESS[backbone])
    save_checkpoint(network, folder / "seem.pt")
    limits = SEEM_LIMITS.get(backbone, InputSize(96, 256, 32))
    return replace(release, config=SEEM_CONFIGS[backbone], limits=limits).build(folder / "seem.pt", CPU)


@pytest.fixture(params=tiny_bundles.by_speed(sorted(ENGINES)))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scene(name: str) -> Scene:
    return scene_of(name)


def ask(name: str, *prompts: Prompt, memory: ObjectMemory | None = None) -> MaskSet:
    return answer(name, ForPrompts(scene_of(name).image, PromptSet(prompts), memory=memory))


def answer(name: str, question: Question) -> MaskSet:
    (done,) = segmenter_of(name).segment([question])
    assert isinstance(done, Round), done
    return done.masks


def test_a_click_is_answered_with_one_mask(name: str, scene: Scene) -> None:
    found = ask(name, scene.click())
    assert found.masks.decode().shape == (1, *scene.image.pixels.shape[:2])
    assert found.masks.decode().any()


def test_a_box_is_answered_with_one_mask(name: str, scene: Scene) -> None:
    found = ask(name, BoxPrompt(scene.boxes[0]))
    assert len(found) == 1
    assert found.masks.decode().any()


def test_phrases_are_answered_with_masks_that_bear_them(name: str, scene: Scene) -> None:
    found = ask(name, *map(TextPrompt, scene.phrases))
    assert len(found) >= 1
    assert set(found.labels) <= set(scene.phrases)
    assert found.masks.decode().any(axis=(1, 2)).all()


def test_a_reference_is_answered_with_masks_without_a_name(name: str, scene: Scene) -> None:
    found = ask(name, scene.reference)
    assert len(found) >= 1
    assert set(found.labels) == {None}
    assert found.masks.decode().any(axis=(1, 2)).all()


def test_a_vocabulary_is_answered_in_its_labels(name: str, scene: Scene) -> None:
    vocabulary = Vocabulary.from_names(list(dict.fromkeys((*scene.phrases, "giraffe"))))
    found = answer(name, ForNames(scene.image, vocabulary))
    assert len(found) >= 1
    assert set(found.labels) <= set(vocabulary.labels)
    assert found.masks.decode().any(axis=(1, 2)).all()


def test_nothing_said_is_answered_with_what_can_be_told_apart(name: str, scene: Scene) -> None:
    found = answer(name, ForEverything(scene.image))
    assert (len(found) == 0) == (name in FINDS_NOTHING_BY_ITSELF)
    assert found.masks.decode().any(axis=(1, 2)).all()


def test_memory_is_given_to_the_object_that_it_is_of_alone(name: str, scene: Scene) -> None:
    """What was remembered lies in the right half, which is where the second box is."""
    boxes = [BoxPrompt(box) for box in scene.boxes]
    without = ask(name, *boxes)
    logits = np.full_like(without.low_res_logits[1], -6)
    logits[:, logits.shape[1] // 2 :] = 6
    found = ask(name, *boxes, memory=ObjectMemory(logits, segmenter_of(name).engine.version))
    change = np.abs(found.low_res_logits.astype(np.float32) - without.low_res_logits).max(axis=(1, 2))
    assert change[0] < ROUNDING
    assert (change[1] < ROUNDING) == (name in READS_NO_MEMORY_OF_WHAT_IS_DRAWN)


@pytest.mark.parametrize("shape", [(7, 300), (301, 33)])
def test_images_of_odd_shapes_are_answered_at_their_size(name: str, shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 255, np.uint8)
    pixels[:, : shape[1] // 2] = (0, 0, 255)
    image = KeyedImage.of(pixels)
    box = BoxPrompt((0, 0, shape[1] // 2, shape[0]))
    for prompt in (PointPrompt((shape[1] / 4, shape[0] / 2)), box, TextPrompt("blue")):
        found = answer(name, ForPrompts(image, PromptSet((prompt,))))
        assert found.masks.decode().shape == (len(found), *shape)
        assert len(found) >= (0 if isinstance(prompt, TextPrompt) else 1)
