"""The joint space over the colour encoder, where every meaning can be computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from prompts.encoders.colour import ColourTextEncoder, embed_colours
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
from prompts.space import JointSpace, Queries

SPACE = JointSpace("colour", ColourTextEncoder())
RED, BLUE, LIME = (255, 0, 0), (0, 0, 255), (0, 255, 0)


class Colours:
    """The features of an image: every pixel's own colour."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self.size = size_of(image)
        self._image = image

    def sample(self, points: FloatArray) -> Tensor:
        columns, rows = np.floor(points).astype(int).T
        return embed_colours(torch.from_numpy(self._image[rows, columns].astype(np.float32) / 255))

    def pool(self, mask: BoolArray) -> Tensor:
        raise AssertionError("queries are sampled, not pooled")


def flag() -> NDArray[np.uint8]:
    """20 x 30 pixels: a red, a blue and a lime stripe from left to right."""
    return np.broadcast_to(np.array([RED, BLUE, LIME], np.uint8).repeat(10, axis=0), (20, 30, 3)).copy()


def stripe(number: int) -> BoolArray:
    mask = np.zeros((20, 30), np.bool_)
    mask[:, 10 * number : 10 * number + 10] = True
    return mask


def meaning(colour: tuple[int, int, int]) -> Tensor:
    return embed_colours(torch.tensor([colour]) / 255)


def embed(*prompts: Prompt, references: tuple[Colours, ...] = ()) -> Queries:
    return SPACE.embed(PromptSet(prompts), Colours(flag()), references)


def test_a_prompt_set_without_prompts_has_no_rows_anywhere() -> None:
    queries = embed()
    assert queries.phrases == ()
    for name in ("text", "negative_text", "visual", "negative_visual", "reference", "negative_reference"):
        assert getattr(queries, name).shape == (0, 4), name


def test_a_phrase_means_its_colour() -> None:
    queries = embed(TextPrompt("a blue thing"), TextPrompt("red"), TextPrompt("lime", positive=False))
    assert queries.phrases == ("a blue thing", "red")
    assert torch.allclose(queries.text, torch.cat([meaning(BLUE), meaning(RED)]))
    assert torch.allclose(queries.negative_text, meaning(LIME))
    assert len(queries.visual) == len(queries.reference) == 0


@pytest.mark.parametrize(
    "prompt",
    [
        PointPrompt((15.0, 10.0)),
        BoxPrompt((11.0, 2.0, 19.0, 9.0)),
        ScribblePrompt(stripe(1)),
        MaskPrompt(stripe(1)),
        PolygonPrompt(np.array([[11.0, 1.0], [19.0, 1.0], [15.0, 18.0]])),
    ],
    ids=lambda prompt: type(prompt).__name__,
)
def test_whatever_is_drawn_on_blue_means_blue(prompt: Prompt) -> None:
    queries = embed(prompt)
    assert torch.allclose(queries.visual, meaning(BLUE), atol=1e-6)
    assert len(queries.text) == len(queries.negative_visual) == len(queries.reference) == 0


def test_a_phrase_a_click_and_a_region_of_another_image_are_the_same_row() -> None:
    other = np.full((8, 9, 3), RED, np.uint8)
    reference = ReferencePrompt(KeyedImage.of(other), np.ones((8, 9), np.bool_))
    queries = embed(TextPrompt("red"), PointPrompt((5.0, 5.0)), reference, references=(Colours(other),))
    for rows in (queries.text, queries.visual, queries.reference):
        assert torch.allclose(rows, meaning(RED), atol=1e-6)


def test_negative_clicks_and_scribbles_are_kept_apart_from_positive_ones() -> None:
    queries = embed(PointPrompt((5.0, 5.0)), PointPrompt((15.0, 5.0), positive=False))
    assert torch.allclose(queries.visual, meaning(RED))
    assert torch.allclose(queries.negative_visual, meaning(BLUE))
    queries = embed(ScribblePrompt(stripe(2), positive=False))
    assert len(queries.visual) == 0
    assert torch.allclose(queries.negative_visual, meaning(LIME), atol=1e-6)


def test_what_is_drawn_together_is_one_region() -> None:
    queries = embed(MaskPrompt(stripe(0)), MaskPrompt(stripe(1)))
    between = torch.nn.functional.normalize((meaning(RED) + meaning(BLUE)) / 2, dim=1)
    assert queries.visual.shape == (1, 4)
    assert SPACE.similarity(queries.visual, between).item() == pytest.approx(1, abs=1e-6)


def test_references_are_read_in_their_own_images_and_kept_apart_by_sign() -> None:
    images = [np.full((4, 5, 3), colour, np.uint8) for colour in (BLUE, LIME, RED)]
    whole = np.ones((4, 5), np.bool_)
    queries = embed(
        ReferencePrompt(KeyedImage.of(images[0]), whole),
        ReferencePrompt(KeyedImage.of(images[1]), whole, positive=False),
        ReferencePrompt(KeyedImage.of(images[2]), whole),
        references=tuple(Colours(image) for image in images),
    )
    assert torch.allclose(queries.reference, torch.cat([meaning(BLUE), meaning(RED)]), atol=1e-6)
    assert torch.allclose(queries.negative_reference, meaning(LIME), atol=1e-6)


def test_an_empty_reference_region_says_nothing() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    queries = embed(ReferencePrompt(KeyedImage.of(image), np.zeros((4, 5), np.bool_)), references=(Colours(image),))
    assert queries.reference.shape == (0, 4)


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
