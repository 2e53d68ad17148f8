"""The joint space over the colour encoder, where every meaning can be computed by hand."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.engines.colour import ColourTextEncoder, embed_colours
from prompts.geometry import BoolArray, FloatArray, size_of
from prompts.kinds import (
    BoxPrompt,
    KeyedImage,
    MaskPrompt,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    PromptSet,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from prompts.phrases import LabelPhrases, Vocabulary
from prompts.space import MAX_POINTS, JointSpace, PromptTokens, sample_points

SPACE = JointSpace("colour", ColourTextEncoder())
RED, BLUE, LIME = (255, 0, 0), (0, 0, 255), (0, 255, 0)


class Colours:
    """The features of an image: every pixel's own colour."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self.size = size_of(image)
        self.sampled = 0
        self._image = image

    def sample(self, points: FloatArray) -> Tensor:
        self.sampled += 1
        columns, rows = np.floor(points).astype(int).T
        return embed_colours(torch.from_numpy(self._image[rows, columns].astype(np.float32) / 255))

    def pool(self, mask: BoolArray) -> Tensor:
        raise AssertionError("tokens are sampled, not pooled")


def flag() -> NDArray[np.uint8]:
    """20 x 30 pixels: a red, a blue and a lime stripe from left to right."""
    return np.broadcast_to(np.array([RED, BLUE, LIME], np.uint8).repeat(10, axis=0), (20, 30, 3)).copy()


def stripe(number: int) -> BoolArray:
    mask = np.zeros((20, 30), np.bool_)
    mask[:, 10 * number : 10 * number + 10] = True
    return mask


def meaning(colour: tuple[int, int, int]) -> Tensor:
    return embed_colours(torch.tensor([colour]) / 255)


def embed(*prompts: Prompt, references: tuple[Colours, ...] = ()) -> PromptTokens:
    return SPACE.embed(PromptSet(prompts), Colours(flag()), references)


def test_a_prompt_set_without_prompts_has_no_rows_anywhere() -> None:
    tokens = embed()
    assert tokens.phrases == ()
    for name in ("text", "negative_text", "reference", "negative_reference"):
        assert getattr(tokens, name).shape == (0, 4), name


def test_a_phrase_means_its_colour() -> None:
    tokens = embed(TextPrompt("a blue thing"), TextPrompt("red"), TextPrompt("lime", positive=False))
    assert tokens.phrases == ("a blue thing", "red")
    assert torch.allclose(tokens.text, torch.cat([meaning(BLUE), meaning(RED)]))
    assert torch.allclose(tokens.negative_text, meaning(LIME))
    assert len(tokens.reference) == 0


ON_BLUE: list[Prompt] = [
    PointPrompt((15.0, 10.0)),
    BoxPrompt((11.0, 2.0, 19.0, 9.0)),
    ScribblePrompt(stripe(1)),
    MaskPrompt(stripe(1)),
    PolygonPrompt(np.array([[11.0, 1.0], [19.0, 1.0], [15.0, 18.0]])),
    ReferencePrompt(KeyedImage.of(np.full((8, 9, 3), BLUE, np.uint8)), np.ones((8, 9), np.bool_)),
    TextPrompt("blue"),
    PointPrompt((15.0, 10.0), positive=False),
    ScribblePrompt(stripe(1), positive=False),
]


@pytest.mark.parametrize("prompt", ON_BLUE, ids=lambda prompt: type(prompt).__name__)
def test_a_phrase_a_drawing_and_a_region_of_another_image_are_the_same_row(prompt: Prompt) -> None:
    others = (Colours(prompt.image.pixels),) if isinstance(prompt, ReferencePrompt) else ()
    assert torch.allclose(embed(prompt, references=others).of(prompt), meaning(BLUE), atol=1e-6)


def test_every_kind_of_prompt_has_a_token() -> None:
    assert {type(prompt) for prompt in ON_BLUE} == set(get_args(Prompt))


def test_a_box_and_a_rough_outline_mean_what_is_in_their_middle() -> None:
    """Their edges lie on what is around the object: here blue is the middle third."""
    wide, outline = BoxPrompt((1.0, 1.0, 29.0, 19.0)), PolygonPrompt(np.array([[1.0, 1], [29, 1], [29, 19], [1, 19]]))
    for prompt in (wide, outline):
        assert torch.allclose(embed(prompt).of(prompt), meaning(BLUE), atol=1e-6)


def test_a_stroke_over_two_colours_means_both() -> None:
    stroke = MaskPrompt(stripe(0) | stripe(1))
    between = torch.nn.functional.normalize(meaning(RED) + meaning(BLUE), dim=1)
    assert SPACE.similarity(embed(stroke).of(stroke), between).item() == pytest.approx(1, abs=1e-3)


def test_an_empty_stroke_has_no_token() -> None:
    nothing = ScribblePrompt(np.zeros((20, 30), np.bool_))
    assert embed(nothing).of(nothing).shape == (0, 4)


class CountingEncoder(ColourTextEncoder):
    """Counts how often it is asked."""

    asked = 0

    def encode_text(self, phrases: Sequence[str]) -> Tensor:
        self.asked += 1
        return super().encode_text(phrases)


def test_tokens_that_nobody_reads_are_not_computed_and_those_that_are_read_are_computed_once() -> None:
    encoder, here, there = CountingEncoder(), Colours(flag()), Colours(np.full((8, 9, 3), RED, np.uint8))
    reference = ReferencePrompt(KeyedImage.of(np.full((8, 9, 3), RED, np.uint8)), np.ones((8, 9), np.bool_))
    prompts = PromptSet((TextPrompt("red"), MaskPrompt(stripe(0)), BoxPrompt((1, 1, 9, 9)), reference))
    tokens = JointSpace("colour", encoder).embed(prompts, here, [there])
    assert (encoder.asked, here.sampled, there.sampled) == (0, 0, 0)
    for _ in range(2):
        assert len(tokens.text) == len(tokens.reference) == 1
    assert (encoder.asked, there.sampled) == (1, 1)


def test_references_are_read_in_their_own_images_and_kept_apart_by_sign() -> None:
    images = [np.full((4, 5, 3), colour, np.uint8) for colour in (BLUE, LIME, RED)]
    whole = np.ones((4, 5), np.bool_)
    tokens = embed(
        ReferencePrompt(KeyedImage.of(images[0]), whole),
        ReferencePrompt(KeyedImage.of(images[1]), whole, positive=False),
        ReferencePrompt(KeyedImage.of(images[2]), whole),
        references=tuple(Colours(image) for image in images),
    )
    assert torch.allclose(tokens.reference, torch.cat([meaning(BLUE), meaning(RED)]), atol=1e-6)
    assert torch.allclose(tokens.negative_reference, meaning(LIME), atol=1e-6)


def test_an_empty_reference_region_says_nothing() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    tokens = embed(ReferencePrompt(KeyedImage.of(image), np.zeros((4, 5), np.bool_)), references=(Colours(image),))
    assert tokens.reference.shape == (0, 4)


def test_references_without_their_features_are_an_error() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(ValueError, match="zip"):
        embed(ReferencePrompt(KeyedImage.of(image), np.ones((4, 5), np.bool_)))


def test_a_label_means_the_mean_of_its_phrases() -> None:
    vocabulary = Vocabulary((LabelPhrases("ball", ("red", "blue")), LabelPhrases("leaf", ("lime",))))
    vectors = SPACE.embed_vocabulary(vocabulary)
    between = torch.nn.functional.normalize(meaning(RED) + meaning(BLUE), dim=1)
    assert torch.allclose(vectors, torch.cat([between, meaning(LIME)]), atol=1e-6)


def test_similarity_is_the_cosine_of_every_pair() -> None:
    left, right = torch.cat([meaning(RED), meaning(BLUE), meaning(LIME)]), torch.cat([meaning(RED), meaning((255, 255, 255))])
    similarity = SPACE.similarity(left, right)
    assert similarity.shape == (3, 2)
    assert similarity[0, 0].item() == pytest.approx(1)
    for row, one in enumerate(left):
        for column, other in enumerate(right):
            assert similarity[row, column].item() == pytest.approx(torch.cosine_similarity(one, other, dim=0).item(), abs=1e-6)


def test_points_of_a_mask_are_a_seeded_choice_of_its_pixels() -> None:
    mask = np.random.default_rng(3).random((90, 70)) > 0.6
    mask[10:20] = False
    inside = np.flatnonzero(mask)
    chosen = np.sort(np.random.default_rng(0).choice(inside, MAX_POINTS, replace=False))
    assert np.array_equal(sample_points(mask), np.stack([chosen % 70, chosen // 70], axis=1) + 0.5)
    few = np.flatnonzero(mask[:2])
    assert np.array_equal(sample_points(mask[:2]), np.stack([few % 70, few // 70], axis=1) + 0.5)


def test_points_of_a_large_mask_take_less_memory_than_the_mask() -> None:
    mask = np.ones((3000, 4000), np.bool_)
    tracemalloc.start()
    assert len(sample_points(mask)) == MAX_POINTS
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < mask.nbytes
