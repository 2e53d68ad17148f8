"""The embedded decoder with its shipped weights: what any weights owe, and what these must be able to do."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backend.engines.base import Engine, SeesAtAGlance
from backend.engines.embedded import build, from_text, views
from backend.engines.embedded.evidence import Classed, Evidence
from backend.engines.embedded.from_text import Found
from backend.engines.embedded.views import Answer, Canvas, Reader, Window, around
from backend.values.features import ImageFeatures
from backend.values.masks import Masks, MaskSet, overlaps
from prompts.geometry import size_of
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
from tests.backend.pictures import BLUE, RED, disc, paint, square

PICTURE = paint({"disc": (disc(240, 320, 80, 120, 50), RED), "square": (square(240, 320, 190, 70, 90), BLUE)})
DISC, SQUARE = PICTURE.shapes["disc"], PICTURE.shapes["square"]
DISC_BOX = BoxPrompt((30, 70, 130, 170))


@functools.cache
def engine() -> Engine:
    return build(None)


@functools.cache
def features() -> ImageFeatures:
    return engine().decoder.encode_images([PICTURE.image])[0]


def decode(*prompts: Prompt, memory: ObjectMemory | None = None, references: int = 0) -> MaskSet:
    asked = PromptSet(prompts)
    with torch.inference_mode():
        queries = engine().space.embed(asked, features(), [features()] * references)
        return engine().decoder.decode(features(), asked, queries, memory)


def iou(masks: MaskSet, truth: NDArray[np.bool_]) -> float:
    return float(overlaps(Masks.of([masks.masks.union(), truth], masks.size))[0][0, 1])


def test_a_phrase_loses_no_place_to_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, heard = engine().decoder, []
    surely = Evidence(0.999, 0.9, 0.9, 0.0, 0.999, Classed(0.9, 0.9, 0.9))
    everywhere = Answer(np.full((240, 320), 5, np.float32), 0.9)

    def find(canvas: Canvas, logits: torch.Tensor, vectors: torch.Tensor, shown: object, wanted: object) -> list[Found]:
        heard.append(logits)
        return [Found(0, everywhere, surely)]

    monkeypatch.setattr(decoder, "find", find)
    assert set(decode(TextPrompt("apple"), TextPrompt("tomato")).labels) == {"apple"}
    assert set(decode(TextPrompt("apple")).labels) == {"apple"}
    together, apple_again, alone = heard
    assert (together[0] < alone[0] - 0.1).any(), "they compete"
    assert torch.allclose(apple_again, alone, atol=1e-4)


def test_without_a_word_things_are_looked_at_again_where_they_are_and_none_is_found_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    windows: list[Window] = []
    answers: list[Answer] = []

    def decode_views(reader: Reader, canvas: Canvas, some: list[Window], maps: NDArray[np.float32]) -> list[Answer]:
        found = views.decode_views(reader, canvas, some, maps)
        windows.extend(some)
        answers.extend(found)
        return found

    monkeypatch.setattr(from_text, "decode_views", decode_views)
    found = decode()
    first = next(n for n in range(1, len(windows)) if windows[n] == around(answers[0].box() or (0, 0, 1, 1), 1.4, least=32))
    boxes = [answer.box() for answer in answers[:first]]
    assert windows[first:] == [around(box, 1.4, least=32) for box in boxes if box is not None]
    shared = overlaps(found.masks)[0] - np.eye(len(found))
    assert (shared < 0.8).all()
    assert max(iou(found[[row]], SQUARE) for row in range(len(found))) > 0.8


def test_a_box_finds_the_disc_in_it_rather_than_the_whole_box() -> None:
    filled = np.pi / 4
    assert iou(decode(DISC_BOX), DISC) > filled + 0.08


def test_a_click_finds_the_shape_that_was_clicked() -> None:
    assert iou(decode(PointPrompt((80, 120))), DISC) > 0.7
    assert iou(decode(PointPrompt((235, 115))), SQUARE) > 0.7


def test_a_scribble_a_polygon_and_a_rough_mask_find_the_disc_too() -> None:
    stroke = square(240, 320, 60, 116, 40) & square(240, 320, 0, 116, 320) & (np.arange(240)[:, None] < 124)
    rough = PolygonPrompt(np.array([[40.0, 80], [125, 75], [128, 160], [35, 168]]))
    for prompt in (ScribblePrompt(stroke), rough, MaskPrompt(disc(240, 320, 86, 126, 44))):
        assert iou(decode(prompt), DISC) > 0.7, type(prompt)


def test_a_negative_click_takes_pixels_away() -> None:
    both = BoxPrompt((20, 60, 290, 180))
    before = decode(both)
    memory = ObjectMemory(before.low_res_logits[0], engine().version)
    after = decode(both, PointPrompt((235, 115), positive=False), memory=memory)
    near_the_click = square(240, 320, 225, 105, 20)
    assert (after.masks[0] & near_the_click).sum() <= (before.masks[0] & near_the_click).sum()
    assert not after.masks[0][115, 235]


def test_every_box_gets_its_own_mask() -> None:
    masks = decode(DISC_BOX, BoxPrompt((190, 70, 280, 160)))
    assert len(masks) == 2
    assert iou(masks[[0]], DISC) > 0.7
    assert iou(masks[[1]], SQUARE) > 0.7


def test_what_is_remembered_of_one_box_says_nothing_about_another() -> None:
    """The memory is of the disc alone, which is drawn upon it: the square is answered as if nothing were remembered."""
    square_box = BoxPrompt((190, 70, 280, 160))
    memory = ObjectMemory(decode(PointPrompt((80, 120))).low_res_logits[0], engine().version)
    remembered = decode(DISC_BOX, square_box, memory=memory)
    assert len(remembered) == 2
    assert np.array_equal(remembered.masks[1], decode(square_box).masks[0])
    assert np.array_equal(remembered.masks[0], decode(DISC_BOX, memory=memory).masks[0])
    assert np.array_equal(decode(square_box, DISC_BOX, memory=memory).masks[1], remembered.masks[0])
    assert remembered.scores[0] != decode(DISC_BOX).scores[0], "what is remembered is heard, though the outline is the same"


def test_something_drawn_bears_the_phrase_that_was_said_with_it() -> None:
    assert decode(DISC_BOX, TextPrompt("red disc")).labels == ("red disc",)
    assert decode(DISC_BOX).labels == (None,)
    assert decode(DISC_BOX, TextPrompt("red disc"), TextPrompt("ball")).labels == (None,)


def test_a_negative_click_alone_asks_for_nothing() -> None:
    assert len(decode(PointPrompt((80, 120), positive=False))) == 0


def test_a_remembered_mask_is_found_again_without_a_prompt() -> None:
    first = decode(DISC_BOX)
    again = decode(memory=ObjectMemory(first.low_res_logits[0], engine().version))
    assert iou(again, DISC) > 0.7


def test_a_reference_and_a_memory_ask_for_that_one_object() -> None:
    first = decode(DISC_BOX)
    memory = ObjectMemory(first.low_res_logits[0], engine().version)
    assert len(decode(ReferencePrompt(KeyedImage.of(PICTURE.image), DISC), memory=memory, references=1)) == 1


@pytest.mark.slow
def test_without_any_prompt_the_things_of_the_image_are_found_without_labels() -> None:
    found = decode()
    assert set(found.labels) <= {None}
    for shape in (DISC, SQUARE):
        assert max(iou(found[[k]], shape) for k in range(len(found))) > 0.6


def test_a_negative_phrase_alone_asks_for_nothing() -> None:
    assert len(decode(TextPrompt("cat", positive=False))) == 0


def test_a_string_that_is_no_word_is_nowhere() -> None:
    assert len(decode(TextPrompt("wxqzkf"))) == 0


@pytest.mark.slow
def test_a_panorama_and_a_single_column_are_answered_at_their_own_size() -> None:
    wide = np.tile(PICTURE.image[:, :160], (1, 12, 1))[:120]
    for image in (wide, PICTURE.image[:, :1]):
        (seen,) = engine().decoder.encode_images([image])
        asked = PromptSet((PointPrompt((image.shape[1] / 2, image.shape[0] / 2)),))
        with torch.inference_mode():
            masks = engine().decoder.decode(seen, asked, engine().space.embed(asked, seen), None)
        assert len(masks) == 1
        assert masks.size == size_of(image)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(8000, 700), (700, 8000)])
def test_a_click_on_a_disc_of_a_panorama_finds_about_the_disc(width: int, height: int) -> None:
    """A hundredth of the long side; what it covers on the canvas must not be a few pixels."""
    x, y = width * 7 // 12, height * 7 // 12
    shape = disc(height, width, x, y, 60)
    (seen,) = engine().decoder.encode_images([paint({"disc": (shape, RED)}).image])
    asked = PromptSet((PointPrompt((x, y)),))
    with torch.inference_mode():
        assert iou(engine().decoder.decode(seen, asked, engine().space.embed(asked, seen), None), shape) > 0.85


@pytest.mark.slow
def test_hundreds_of_phrases_are_asked_together_without_paying_for_their_square() -> None:
    words = [f"{colour} {thing}" for colour in ("red", "green", "old") for thing in ("cat", "cup", "car", "tree", "dog")] * 20
    asked = [TextPrompt(f"{word} {k}") for k, word in enumerate(words)]
    assert len(decode(*asked)) < 200


def test_every_row_has_a_unit_vector_and_a_small_memory() -> None:
    masks = decode(DISC_BOX)
    assert masks.embeddings.shape == (1, 128)
    assert abs(float(np.linalg.norm(masks.embeddings)) - 1) < 1e-4
    assert max(masks.low_res_logits.shape[1:]) == 256
    assert np.array_equal(masks.size, size_of(PICTURE.image)) or masks.size == size_of(PICTURE.image)


def test_a_large_photo_is_answered_at_its_own_size() -> None:
    large = np.repeat(np.repeat(PICTURE.image, 8, axis=0), 8, axis=1)
    (seen,) = engine().decoder.encode_images([large])
    asked = PromptSet((BoxPrompt((240, 560, 1040, 1360)),))
    with torch.inference_mode():
        masks = engine().decoder.decode(seen, asked, engine().space.embed(asked, seen), None)
    assert masks.masks.decode().shape == (1, 1920, 2560)
    assert iou(masks, np.repeat(np.repeat(DISC, 8, axis=0), 8, axis=1)) > 0.85
    assert seen.nbytes < 8e6


def test_a_small_thing_stands_out_on_a_large_plain_image_where_it_lies_and_nothing_does_without_words() -> None:
    """What is asked for is no claim yet: a closer look decides."""
    image = np.random.default_rng(0).integers(150, 170, (768, 768, 1), np.uint8).repeat(3, 2)
    image[disc(768, 768, 500, 300, 20)] = RED
    (seen,) = engine().decoder.encode_images([image])
    decoder = engine().decoder
    assert isinstance(decoder, SeesAtAGlance)
    (first, *_) = decoder.outstanding(seen, engine().space.embed(PromptSet((TextPrompt("red ball"),)), seen))
    assert np.abs(first - (500, 300)).max() < 40
    assert decoder.outstanding(seen, engine().space.embed(PromptSet(), seen)).shape == (0, 2)
