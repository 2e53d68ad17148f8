"""What every engine promises of what it answers, whatever it is made of; that it answers is in test_engine_answers."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.engines.base import Engine
from backend.engines.catalogue import Placement, find_engine
from backend.segmenter import Segmenter
from backend.values.features import FeatureCache
from backend.values.masks import Masks, MaskSet, overlaps
from backend.values.session import ForPrompts, Round
from prompts.geometry import Size
from prompts.kinds import (
    BoxPrompt,
    KeyedImage,
    MaskPrompt,
    ObjectMemory,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    PromptSet,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from tests.backend.engines import tiny_bundles
from tests.backend.pictures import square, two_red_discs, two_shapes

HERE, THERE = two_shapes(), two_red_discs()
BLUE = HERE.shapes["blue square"]
STROKE = square(80, 120, 80, 38, 4)
DRAWN: dict[str, tuple[Prompt, ...]] = {
    "point": (PointPrompt((85, 40)),),
    "points of both signs": (PointPrompt((85, 40)), PointPrompt((30, 40), positive=False)),
    "box": (BoxPrompt((70, 20, 110, 60)),),
    "box and point": (BoxPrompt((70, 20, 110, 60)), PointPrompt((85, 40))),
    "scribble": (ScribblePrompt(STROKE),),
    "scribble and negative scribble": (ScribblePrompt(STROKE), ScribblePrompt(square(80, 120, 28, 38, 4), positive=False)),
    "polygon": (PolygonPrompt(np.array([[72.0, 22], [108, 22], [108, 58], [72, 58]])),),
    "mask": (MaskPrompt(square(80, 120, 78, 28, 24)),),
    "text and point": (TextPrompt("blue square"), PointPrompt((85, 40))),
    "reference and point": (ReferencePrompt(KeyedImage.of(THERE.image), THERE.shapes["blue square"]), PointPrompt((85, 40))),
}
SAID: dict[str, tuple[Prompt, ...]] = {
    "text": (TextPrompt("blue square"),),
    "two texts": (TextPrompt("blue square"), TextPrompt("red disc")),
    "text and negative text": (TextPrompt("blue square"), TextPrompt("red disc", positive=False)),
    "reference": (ReferencePrompt(KeyedImage.of(THERE.image), THERE.shapes["blue square"]),),
    "text and negative reference": (
        TextPrompt("blue"),
        ReferencePrompt(KeyedImage.of(THERE.image), THERE.shapes["large"], positive=False),
    ),
}


NAMES = ("colour", "embedded", *tiny_bundles.FAMILIES)


@functools.cache
def engine(name: str) -> Engine:
    """An engine by name; those of published models with tiny random ones in their place."""
    recipe = find_engine(name)
    if not recipe.models:
        return recipe.load(None)
    with tempfile.TemporaryDirectory() as folder:
        return recipe.load(tiny_bundles.write_bundle(name, Path(folder)), Placement("cpu", "float32"))


@functools.cache
def segmenter_of(name: str) -> Segmenter:
    """An engine with a cache in which every image stays, as in a server: what must not depend on it is asked of another one."""
    return Segmenter(engine(name), FeatureCache(1 << 28))


@pytest.fixture(params=tiny_bundles.by_speed(NAMES))
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    return segmenter_of(request.param)


def ask(segmenter: Segmenter, *prompts: Prompt, memory: ObjectMemory | None = None) -> MaskSet:
    (done,) = segmenter.segment([ForPrompts(KeyedImage.of(HERE.image), PromptSet(prompts), memory=memory)])
    assert isinstance(done, Round), done
    return done.masks


@pytest.mark.parametrize("kind", DRAWN)
def test_something_drawn_gives_one_mask_of_the_image_s_size(segmenter: Segmenter, kind: str) -> None:
    masks = ask(segmenter, *DRAWN[kind])
    assert masks.masks.decode().shape == (1, 80, 120)
    assert np.isfinite(masks.scores).all()


def test_a_negative_click_alone_gives_nothing(segmenter: Segmenter) -> None:
    assert len(ask(segmenter, PointPrompt((85, 40), positive=False))) == 0


@pytest.mark.parametrize("kind", [*DRAWN, *SAID])
def test_the_same_question_has_the_same_answer(segmenter: Segmenter, kind: str) -> None:
    prompts = {**DRAWN, **SAID}[kind]
    first = ask(segmenter, *prompts)
    second = ask(Segmenter(segmenter.engine, FeatureCache(1)), *prompts)
    assert np.array_equal(first.masks, second.masks)
    assert np.array_equal(first.scores, second.scores)
    assert first.labels == second.labels


@pytest.mark.parametrize("kind", ["point", "mask", "reference and point"])
def test_masks_from_features_in_float16_agree_with_those_from_float32(segmenter: Segmenter, kind: str) -> None:
    whole = ask(segmenter, *DRAWN[kind])
    half = ask(Segmenter(segmenter.engine, FeatureCache(1 << 28, torch.float16)), *DRAWN[kind])
    assert overlaps(Masks.of([whole.masks[0], half.masks[0]], whole.size))[0][0, 1] >= 0.97
    assert np.allclose(whole.scores, half.scores, atol=0.02)


def test_two_boxes_give_two_masks_in_their_order(segmenter: Segmenter) -> None:
    both = ask(segmenter, BoxPrompt((10, 20, 50, 60)), BoxPrompt((70, 20, 110, 60)))
    left, right = (ask(segmenter, BoxPrompt(box)) for box in ((10, 20, 50, 60), (70, 20, 110, 60)))
    assert np.array_equal(both.masks, np.concatenate([left.masks, right.masks]))


def test_a_batch_is_answered_like_its_questions_one_by_one(segmenter: Segmenter) -> None:
    questions = [
        ForPrompts(KeyedImage.of(picture.image), PromptSet((PointPrompt((85, 40)),))) for picture in (HERE, THERE, HERE)
    ]
    together = segmenter.segment(questions)
    for question, done in zip(questions, together, strict=True):
        (alone,) = Segmenter(segmenter.engine, FeatureCache(1)).segment([question])
        assert isinstance(done, Round)
        assert isinstance(alone, Round)
        assert np.array_equal(done.masks.masks, alone.masks.masks)


def test_an_answer_can_be_handed_back_as_memory(segmenter: Segmenter) -> None:
    first = ask(segmenter, PointPrompt((85, 40)))
    memory = ObjectMemory(first.low_res_logits[0], segmenter.engine.version)
    second = ask(segmenter, PointPrompt((85, 40)), PointPrompt((100, 50)), memory=memory)
    assert second.masks.decode().shape == (1, 80, 120)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (7, 300), (301, 33)])
def test_images_of_odd_shapes_are_answered(segmenter: Segmenter, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    centre = PointPrompt((shape[1] / 2, shape[0] / 2))
    for prompts in ((centre,), (TextPrompt("blue square"),), (BoxPrompt((0, 0, shape[1], shape[0])),)):
        (done,) = segmenter.segment([ForPrompts(KeyedImage.of(image), PromptSet(prompts))])
        assert isinstance(done, Round), done
        assert done.masks.size == Size(*shape)


def test_embeddings_are_unit_vectors_of_the_engine_s_space(segmenter: Segmenter) -> None:
    masks = ask(segmenter, PointPrompt((85, 40)))
    (meaning,) = segmenter.engine.space.embed_phrases(["blue square"]).numpy()
    assert masks.embeddings.shape == (1, len(meaning))
    assert np.allclose(np.linalg.norm(masks.embeddings, axis=1), 1, atol=1e-3)
