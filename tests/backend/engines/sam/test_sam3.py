"""SAM 3: a phrase or exemplars to all instances, on this image and across images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.engines.catalogue import Placement, find_engine
from backend.engines.sam import sam3
from backend.engines.sam.engine import load_network
from backend.engines.sam.references import Likeness
from backend.engines.sam.sam3 import (
    EXEMPLARS_ALONE,
    MOST_FOUND,
    Concepts,
    ExemplarFinder,
    Exemplars,
    Sam3Network,
    _findings,
    exemplars_of,
    load_lite_text,
    share_canvas,
)
from backend.engines.sam.transforms import Geometry, SquashFrame, decode_objects
from backend.segmenter import Segmenter
from backend.values.errors import SetupError
from backend.values.features import FeatureCache, ImageFeatures
from backend.values.session import ForPrompts, Round
from prompts.geometry import Size, size_of
from prompts.kinds import KeyedImage, PromptSet, ReferencePrompt
from prompts.space import Prototypes
from tests.backend.engines import tiny_bundles, tiny_models
from tests.backend.engines.tiny_models import SAM3_SIDE
from tests.backend.pictures import square

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torchvision 0.28, when it is imported
SHAPES = [(48, 90), (1, 40), (200, 133)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_sam3(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="module")
def network(folder: Path) -> Sam3Network:
    loaded = load_network(folder, Placement("cpu", "float32"))
    assert isinstance(loaded, Sam3Network)
    return loaded


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    from transformers import AutoTokenizer, Sam3ImageProcessor, Sam3Processor

    images = Sam3ImageProcessor(size={"height": SAM3_SIDE, "width": SAM3_SIDE})
    return Sam3Processor(images, AutoTokenizer.from_pretrained(folder), target_size=SAM3_SIDE)


@pytest.fixture(scope="module")
def detector(folder: Path) -> Any:
    from transformers import Sam3Model

    return Sam3Model.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def tracker(folder: Path) -> Any:
    from transformers import Sam3TrackerModel

    return Sam3TrackerModel.from_pretrained(folder).eval()


def picture(shape: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)


@torch.inference_mode()
def encode(network: Sam3Network, image: NDArray[np.uint8]) -> dict[str, torch.Tensor]:
    (embeddings,) = network.encode(network.frame.pixels(image, network.device)[None])
    return embeddings


@torch.inference_mode()
def expected(detector: Any, processor: Any, image: NDArray[np.uint8], **prompts: Any) -> Any:
    inputs = processor(images=image, return_tensors="pt", input_data_format="channels_last", **prompts)
    names = ("pixel_values", "input_ids", "attention_mask", "input_boxes", "input_boxes_labels")
    with torch.compiler.set_stance("force_eager"):
        return detector(**{name: inputs[name] for name in names if name in inputs})


def assert_same(found: Any, theirs: Any) -> None:
    scores = theirs.pred_logits[0].sigmoid() * theirs.presence_logits[0].sigmoid()
    torch.testing.assert_close(found.logits, theirs.pred_masks[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.scores, scores, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_a_phrase_has_the_same_masks_and_scores(
    network: Sam3Network, detector: Any, processor: Any, shape: tuple[int, int]
) -> None:
    image = picture(shape)
    assert_same(network.find(encode(network, image), "red cup"), expected(detector, processor, image, text="red cup"))


@pytest.mark.slow
def test_exemplars_of_both_signs_have_the_same_masks(network: Sam3Network, detector: Any, processor: Any) -> None:
    image, boxes, labels = picture((48, 90)), [[5.0, 5, 40, 30], [50.0, 10, 88, 47]], [1, 0]
    ours = network.find(encode(network, image), EXEMPLARS_ALONE, exemplars_of(boxes, labels, (48, 90)))
    assert_same(ours, expected(detector, processor, image, input_boxes=[boxes], input_boxes_labels=[labels]))


@pytest.mark.parametrize("shape", SHAPES)
def test_clicks_on_the_shared_trunk_have_the_same_masks(
    network: Sam3Network, tracker: Any, processor: Any, shape: tuple[int, int]
) -> None:
    """transformers 5.23 adds the embedding of "nothing remembered" to a level that Sam3TrackerModel does not use; its video
    model adds it to the coarsest one that is used, as is done here.
    """
    image, (height, width) = picture(shape), shape
    points, box = [[width * 0.5, height * 0.5], [width * 0.1, height * 0.9]], [width * 0.2, 0.0, float(width), height * 0.8]
    with torch.inference_mode():
        geometry = Geometry(np.array(points), np.array([1, 0]), np.array(box))
        (ours,) = decode_objects(network, encode(network, image), [geometry], size_of(image), 1)
        scale = torch.tensor([SAM3_SIDE / width, SAM3_SIDE / height])
        pixels = processor.image_processor(image, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        *finer, coarse = tracker.get_image_embeddings(pixels)
        theirs = tracker(
            image_embeddings=[*finer, coarse + tracker.no_memory_embedding.reshape(1, -1, 1, 1)],
            input_points=torch.tensor([[points]]) * scale,
            input_labels=torch.tensor([[[1, 0]]]),
            input_boxes=torch.tensor([[box]]) * scale.repeat(2),
            multimask_output=False,
        )
    torch.testing.assert_close(ours.logits, theirs.pred_masks[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.iou_predictions, theirs.iou_scores[0], atol=1e-4, rtol=0)


def test_both_models_hold_the_same_trunk(network: Sam3Network) -> None:
    assert network._tracker.vision_encoder.backbone is network._detector.model.vision_encoder.backbone


def test_a_canvas_holds_the_reference_with_context_on_the_left_and_the_target_on_the_right() -> None:
    reference, target = picture((100, 200)), picture((60, 80))
    canvas, box, seam = share_canvas(reference, [80, 40, 120, 60], target)
    assert canvas.shape[0] == 60
    assert np.array_equal(canvas[:, seam:], target)
    left, top, right, bottom = box
    assert 0 < left < right < seam
    assert 0 < top < bottom < 60
    assert (right - left) / (bottom - top) == pytest.approx(2)


@pytest.mark.slow
def test_regions_of_the_image_itself_are_exemplars_of_their_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They never were: the image and its own region came as two objects out of the cache, and were taken for two images."""
    engine = find_engine("sam3").load(tiny_bundles.write_bundle("sam3", tmp_path), Placement("cpu", "float32"))
    asked: list[tuple[str, list[int], list[list[float]]]] = []

    def find(self: Sam3Network, embeddings: Any, phrase: str, exemplars: Exemplars | None = None) -> Concepts:
        assert exemplars is not None
        asked.append((phrase, exemplars.labels.tolist(), exemplars.boxes.tolist()))
        return Concepts(torch.zeros(0, 72, 72), torch.zeros(0), 0.9)

    monkeypatch.setattr(Sam3Network, "find", find)
    image, mask, other = picture((40, 80)), np.zeros((40, 80), np.bool_), np.zeros((40, 80), np.bool_)
    mask[10:20, 40:60] = other[30:40, 0:8] = True
    shown = (ReferencePrompt(KeyedImage.of(image), mask), ReferencePrompt(KeyedImage.of(image), other, positive=False))
    (done,) = Segmenter(engine, FeatureCache(1 << 28)).segment([ForPrompts(KeyedImage.of(image), PromptSet(shown))])
    assert isinstance(done, Round), done
    ((phrase, labels, boxes),) = asked
    assert (phrase, labels) == (EXEMPLARS_ALONE, [1, 0])
    assert np.allclose(boxes, [[0.625, 0.375, 0.25, 0.25], [0.05, 0.875, 0.1, 0.25]])


def test_a_long_thin_reference_makes_the_canvas_no_wider_than_twice_the_target() -> None:
    """A line of 1000 x 2 pixels was enlarged to the target's height, which took gigabytes."""
    canvas, box, seam = share_canvas(picture((300, 1200)), [100, 150, 1100, 152], picture((600, 800)))
    assert canvas.shape[0] == 600
    assert seam <= 800
    assert canvas.shape[1] == seam + 800
    left, top, right, bottom = box
    assert 0 <= left < right <= seam
    assert 0 <= top < bottom <= 600


@pytest.fixture(scope="module")
def lite_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_sam3_lite_text(tmp_path_factory.mktemp("lite"))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_lite_text_has_the_masks_and_scores_of_transformers_in_the_frame_of_the_click_decoder(
    lite_folder: Path, processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    from transformers import Sam3LiteTextModel

    clicks = load_network(tiny_models.write_sam2(tmp_path), Placement("cpu", "float32"))
    finder = load_lite_text(lite_folder, clicks, Placement("cpu", "float32"))
    image = picture(shape)
    seen: list[Concepts] = []
    monkeypatch.setattr(sam3, "_findings", lambda concepts, side, _: seen.append(concepts) or [side])
    features = ImageFeatures(Size(*shape), torch.zeros(1, 1, 1), {"pixels": torch.from_numpy(image)})
    assert finder.find(features, ["red cup", "sky"]) == [seen[0].logits.shape[-1]] * 2, "in their own resolution"
    theirs = Sam3LiteTextModel.from_pretrained(lite_folder).eval()
    for found, phrase in zip(seen, ("red cup", "sky"), strict=True):
        assert_same(found, expected(theirs, processor, image, text=phrase))


def test_lite_text_asks_for_a_click_decoder_that_squashes_images_as_it_does(lite_folder: Path, tmp_path: Path) -> None:
    padding = load_network(tiny_models.write_sam(tmp_path), Placement("cpu", "float32"))
    with pytest.raises(SetupError, match=r"goes with a decoder of SAM 2\.1"):
        load_lite_text(lite_folder, padding, Placement("cpu", "float32"))


def concepts(*scores: float, presence: float = 0.9) -> Concepts:
    return Concepts(torch.full((len(scores), 6, 6), 8.0), torch.tensor(scores), presence)


def test_sure_ones_come_best_first_in_the_resolution_of_the_next_round() -> None:
    found = _findings(concepts(0.4, 0.2, 0.8, 0.29), 12, "cup")
    assert [round(finding.meaning, 2) for finding in found] == [0.8, 0.4]
    assert {finding.phrase for finding in found} == {"cup"}
    assert {tuple(finding.logits.shape) for finding in found} == {(12, 12)}


def test_of_a_concept_that_is_not_on_the_image_nothing_is_found() -> None:
    assert _findings(concepts(0.9, presence=0.29), 6, "cup") == []
    assert len(_findings(concepts(0.9, presence=0.31), 6, "cup")) == 1


def test_a_hundred_are_enough() -> None:
    assert len(_findings(concepts(*[0.5] * (MOST_FOUND + 20)), 6, None)) == MOST_FOUND


class TwoOnACanvas:
    """A network on a GPU, as it says, that finds one thing on the left half of a canvas and one at its right edge."""

    device, frame, low_res_side = torch.device("meta"), SquashFrame(20), 12

    def to(self, device: torch.device) -> None: ...

    def encode(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        return [{} for _ in pixels]

    def find(self, embeddings: object, phrase: str, exemplars: Exemplars) -> Concepts:
        self.asked = phrase, exemplars
        logits = torch.full((2, 20, 20), -8.0)
        logits[0, :, :10] = logits[1, :, 15:] = 8
        return Concepts(logits, torch.tensor([0.9, 0.8]), 0.9)


class Nothing:
    def find_like(self, features: ImageFeatures, likenesses: Sequence[Likeness], phrases: Sequence[str]) -> list[object]:
        raise AssertionError("a GPU has a canvas")


def test_of_a_canvas_only_the_target_is_answered() -> None:
    """The reference is as wide as the target here, so that what is left of the second thing is the target's right half."""
    network, pixels = TwoOnACanvas(), np.zeros((30, 40, 3), np.uint8)
    target = ImageFeatures(Size(30, 40), torch.zeros(1, 1, 1), {"pixels": torch.from_numpy(pixels)})
    nowhere = Prototypes(torch.zeros(0, 1), torch.zeros(0, 1), torch.zeros(1, 1, 1), np.zeros((1, 1), np.bool_))
    example = ReferencePrompt(KeyedImage.of(pixels.copy()), square(30, 40, 5, 5, 30))
    elsewhere = ImageFeatures(Size(30, 40), torch.zeros(1, 1, 1))
    finder = ExemplarFinder(network, Nothing())  # type: ignore[arg-type]
    left, right = finder.find_like(target, [Likeness(example, elsewhere, nowhere, None)], ["cup"])
    assert not (left.logits > 0).any()
    assert (right.logits > 0).nonzero()[:, 1].unique().tolist() == list(range(6, 12))
    phrase, exemplars = network.asked
    assert phrase == "cup"
    assert exemplars.labels.tolist() == [1]
