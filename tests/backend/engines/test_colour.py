from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageColor

from backend.engines import colour
from backend.engines.base import MOST_FOUND, SMALL_SIDE
from backend.engines.colour import SPACE, ColourDecoder, ColourTextEncoder, embed_colours
from backend.values.masks import MaskSet
from prompts.kinds import (
    BoxPrompt,
    MaskPrompt,
    ObjectMemory,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    PromptSet,
    ScribblePrompt,
    TextPrompt,
)

channel = st.floats(0, 1, width=32)


@given(st.tuples(channel, channel, channel))
def test_every_colour_is_a_unit_vector(rgb: tuple[float, float, float]) -> None:
    assert torch.isclose(embed_colours(torch.tensor(rgb)).norm(), torch.tensor(1.0), atol=1e-5)


@given(st.tuples(channel, channel, channel), st.tuples(channel, channel, channel))
def test_no_colour_is_more_like_another_than_like_itself(one: tuple[float, ...], other: tuple[float, ...]) -> None:
    a, b = embed_colours(torch.tensor([one, other]))
    assert a @ b <= a @ a + 1e-5


def test_a_phrase_is_its_colour_words() -> None:
    red, ball, both = ColourTextEncoder().encode_text(["red", "a red ball", "red and blue"])
    assert torch.equal(red, ball)
    assert torch.allclose(red, embed_colours(torch.tensor([1.0, 0.0, 0.0])))
    assert torch.isclose(both @ red, both @ embed_colours(torch.tensor([0.0, 0.0, 1.0])))


def test_a_phrase_without_a_colour_resembles_nothing() -> None:
    (cat,) = ColourTextEncoder().encode_text(["cat"])
    assert cat.tolist() == [0, 0, 0, 0]


def squares(rows: int, columns: int, side: int = 10) -> np.ndarray:
    """Red squares in a grid on white."""
    image = np.full((rows * side, columns * side, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            image[row * side + 2 : row * side + 8, column * side + 2 : column * side + 8] = (255, 0, 0)
    return image


def decode(image: np.ndarray, *prompts: Prompt) -> MaskSet:
    decoder, asked = ColourDecoder(), PromptSet(prompts)
    (features,) = decoder.encode_images([image])
    return decoder.decode(features, asked, SPACE.embed(asked, features), None)


def test_the_colours_of_an_image_do_not_depend_on_the_strips_they_are_made_in() -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 7, 3), np.uint8)
    (features,) = ColourDecoder().encode_images([image])
    assert torch.allclose(features.grid, embed_colours(torch.from_numpy(image) / 255).permute(2, 0, 1))


SECOND = np.zeros((39, 39), np.bool_)
SECOND[15, 14:16] = True


@pytest.mark.parametrize(
    "prompts",
    [
        (PointPrompt((15.5, 15.5)),),
        (PointPrompt((15.5, 15.5)), PointPrompt((35.5, 35.5)), PointPrompt((25.5, 25.5), positive=False)),
        (BoxPrompt((12, 12, 18, 18)), BoxPrompt((22, 22, 29, 29))),
        (PolygonPrompt(np.array([[11.0, 11], [19, 11], [15, 19]])),),
        (ScribblePrompt(SECOND),),
        (MaskPrompt(SECOND), PointPrompt((35.5, 35.5))),
        (TextPrompt("red"),),
        (TextPrompt("red"), PointPrompt((15.5, 15.5), positive=False)),
    ],
    ids=str,
)
def test_every_second_pixel_of_an_image_that_is_too_large_tells_what_all_tell(
    prompts: tuple[Prompt, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The squares begin and end at even pixels; the image does not."""
    image, decoder = squares(4, 4)[:39, :39], ColourDecoder()
    whole = decode(image, *prompts)
    monkeypatch.setattr(colour, "MOST_PIXELS", 400)
    (features,) = decoder.encode_images([image])
    assert features.grid.shape == (4, 20, 20)
    found = decode(image, *prompts)
    assert np.array_equal(found.masks.decode(), whole.masks.decode())
    assert found.labels == whole.labels
    if len(found) == 1:
        asked = PromptSet((PointPrompt((5.5, 5.5)),))
        again = decoder.decode(features, asked, SPACE.embed(asked, features), ObjectMemory(found.low_res_logits[0], "colour-1"))
        assert again.masks[0].sum() == found.masks[0].sum() + 36


def test_what_a_click_may_mean_on_an_image_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    image, asked = squares(4, 4)[:39, :39], PromptSet((PointPrompt((15.5, 15.5)),))
    monkeypatch.setattr(colour, "MOST_PIXELS", 400)
    (features,) = ColourDecoder().encode_images([image])
    one, all_of_it = ColourDecoder().decode_alternatives(features, asked).masks
    assert one.sum() == 36
    assert np.array_equal(all_of_it, (image == (255, 0, 0)).all(axis=2))


def test_labels_of_one_meaning_cost_what_one_costs() -> None:
    """Twelve hundred labels that all match took more than a minute and gigabytes."""
    image = squares(8, 8, 40)
    one = decode(image, TextPrompt("red thing 0"))
    tracemalloc.start()
    started = time.process_time()
    many = decode(image, *(TextPrompt(f"red thing {number}") for number in range(1203)))
    assert time.process_time() - started < 3
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()
    assert len(many) == len(one) == 64
    assert set(many.labels) == {"red thing 0"}
    assert all(np.array_equal(left, right) for left, right in zip(many.masks, one.masks, strict=True))


def test_one_region_under_many_names_is_that_of_the_nearest_colour() -> None:
    reds = ["crimson", "firebrick", "red", "tomato", "indian red brown"]
    found = decode(squares(2, 2), *map(TextPrompt, reds))
    assert list(found.labels) == ["red"] * 4
    assert np.allclose(found.embeddings, embed_colours(torch.tensor([1.0, 0.0, 0.0])).numpy(), atol=1e-6)


def test_what_all_phrases_find_together_is_bounded() -> None:
    """Each of a dozen colours a hundred times."""
    names = list(ImageColor.colormap)[:108:9]
    image = np.full((120, 1200, 3), 255, np.uint8)
    for row, name in enumerate(names):
        for column in range(100):
            image[row * 10 + 2 : row * 10 + 8, column * 12 + 2 : column * 12 + 8] = ImageColor.getrgb(name)[:3]
    found = decode(image, *map(TextPrompt, names))
    assert 100 < len(found) <= MOST_FOUND
    assert max(found.low_res_logits.shape[1:]) == SMALL_SIDE


@pytest.mark.parametrize(("objects", "side"), [(1, 400), (2, SMALL_SIDE)])
def test_a_single_drawn_object_is_remembered_as_it_is_and_several_are_not(objects: int, side: int) -> None:
    boxes = [BoxPrompt((10.0 * number, 0.0, 10.0 * number + 10, 10.0)) for number in range(objects)]
    found = decode(squares(1, 40), *boxes)
    assert [mask.sum() for mask in found.masks] == [36] * objects
    assert max(found.low_res_logits.shape[1:]) == side
