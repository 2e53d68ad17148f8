"""Prompts as values: what is refused, what a set of them covers, and which objects they ask for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts.geometry import Size, box_mask
from prompts.kinds import (
    BoxPrompt,
    KeyedImage,
    MaskPrompt,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    PromptError,
    PromptSet,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)

SIZE = Size(20, 30)
NAN, INF = float("nan"), float("inf")
IMAGE = np.zeros((20, 30, 3), np.uint8)
SQUARE = box_mask((2, 2, 6, 6), SIZE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TextPrompt("  "),
        lambda: PointPrompt((NAN, 1)),
        lambda: PointPrompt((1, INF)),
        lambda: BoxPrompt((5, 0, 4, 9)),
        lambda: BoxPrompt((0, 9, 4, 8)),
        lambda: BoxPrompt((0, NAN, 4, 8)),
        lambda: PolygonPrompt(np.zeros((2, 2))),
        lambda: PolygonPrompt(np.zeros((4, 3))),
        lambda: PolygonPrompt(np.array([[0, 0], [1, NAN], [2, 2]])),
        lambda: ScribblePrompt(np.zeros((4, 4), np.uint8)),  # type: ignore[arg-type]
        lambda: MaskPrompt(np.zeros((4, 4, 1), np.bool_)),
        lambda: ReferencePrompt(KeyedImage.of(IMAGE), np.zeros((30, 20), np.bool_)),
    ],
)
def test_a_prompt_that_means_nothing_is_refused(make: object) -> None:
    with pytest.raises(PromptError, match="expected"):
        make()  # type: ignore[operator]


def test_prompts_with_arrays_can_be_compared() -> None:
    """A comparison of arrays is an array, which has no truth value: these prompts are equal only to themselves."""
    scribble = ScribblePrompt(SQUARE)
    assert PromptSet((scribble,)) == PromptSet((scribble,))
    assert PromptSet((scribble,)) != PromptSet((ScribblePrompt(SQUARE.copy()),))


def test_an_empty_set_has_empty_arrays_and_never_none() -> None:
    empty = PromptSet()
    assert (len(empty), empty.phrases, empty.drawn, empty.said) == (0, (), (), ())
    assert empty.point_coords.shape == (0, 2)
    assert empty.point_labels.shape == (0,)
    assert empty.boxes.shape == (0, 4)
    assert not empty.region(SIZE).any()
    assert list(empty.objects()) == []


def test_a_set_shows_its_points_boxes_and_phrases_in_order() -> None:
    prompts = PromptSet(
        (
            TextPrompt("cup"),
            PointPrompt((1, 2)),
            BoxPrompt((0, 1, 2, 3)),
            TextPrompt("saucer", positive=False),
            PointPrompt((3, 4), False),
        )
    )
    assert prompts.phrases == ("cup",)
    assert prompts.point_coords.tolist() == [[1, 2], [3, 4]]
    assert prompts.point_labels.tolist() == [1, 0]
    assert prompts.boxes.tolist() == [[0, 1, 2, 3]]
    assert len(prompts.drawn) == 3
    assert len(prompts.said) == 2


def test_the_region_of_a_set_is_what_its_prompts_of_that_sign_cover() -> None:
    triangle = np.array([[10, 10], [18, 10], [10, 18]], np.float64)
    against = ScribblePrompt(box_mask((20, 2, 24, 4), SIZE), positive=False)
    prompts = PromptSet(
        (BoxPrompt((2, 2, 6, 6)), PolygonPrompt(triangle), against, PointPrompt((29.5, 19.5)), TextPrompt("cup"))
    )
    positive, negative = prompts.region(SIZE), prompts.region(SIZE, positive=False)
    assert np.array_equal(negative, against.mask)
    assert positive[SQUARE].all()
    assert [positive[spot] for spot in ((19, 29), (11, 11), (17, 17))] == [True, True, False]
    assert not (positive & negative).any()


def test_a_click_on_the_far_edge_belongs_to_the_last_pixel() -> None:
    PromptSet((PointPrompt((30.0, 20.0)),)).check_against(SIZE)
    assert np.argwhere(PromptSet((PointPrompt((30.0, 20.0)),)).region(SIZE)).tolist() == [[19, 29]]


@pytest.mark.parametrize(
    "prompt",
    [
        PointPrompt((30.1, 5)),
        PointPrompt((5, -0.1)),
        BoxPrompt((31, 0, 35, 5)),
        BoxPrompt((-9, -9, -1, -1)),
        PolygonPrompt(np.array([[40.0, 0], [50, 0], [50, 9]])),
        MaskPrompt(np.zeros((30, 20), np.bool_)),
        ScribblePrompt(np.zeros((1, 1), np.bool_)),
    ],
)
def test_a_prompt_off_the_image_is_refused(prompt: PointPrompt) -> None:
    with pytest.raises(PromptError):
        PromptSet((prompt,)).check_against(SIZE)


def test_a_box_that_reaches_over_the_edge_is_accepted() -> None:
    PromptSet((BoxPrompt((-5, -5, 3, 3)), BoxPrompt((28, 18, 40, 40)))).check_against(SIZE)


def test_without_boxes_everything_drawn_is_one_object() -> None:
    prompts = PromptSet((PointPrompt((1, 1)), PointPrompt((8, 8)), TextPrompt("cup")))
    assert list(prompts.objects()) == [prompts]


def test_text_alone_draws_no_object() -> None:
    assert list(PromptSet((TextPrompt("cup"),)).objects()) == []


def test_each_box_is_an_object_with_the_clicks_inside_it() -> None:
    left, right = BoxPrompt((0, 0, 9, 9)), BoxPrompt((15, 0, 25, 9))
    inside, against, loose, text = PointPrompt((3, 3)), PointPrompt((20, 3), False), PointPrompt((12, 15)), TextPrompt("cup")
    objects = list(PromptSet((left, inside, right, text, against, loose)).objects())
    assert objects == [PromptSet((left, inside, text)), PromptSet((right, against, text)), PromptSet((loose, text))]


def test_a_click_against_something_outside_all_boxes_makes_no_object() -> None:
    boxes = (BoxPrompt((0, 0, 9, 9)), BoxPrompt((15, 0, 25, 9)))
    assert len(list(PromptSet((*boxes, PointPrompt((12, 15), positive=False))).objects())) == 2


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 20), st.booleans()), max_size=6), st.integers(0, 4))
def test_no_drawn_prompt_is_asked_twice(clicks: list[tuple[float, float, bool]], boxes: int) -> None:
    drawn = [PointPrompt((x, y), sign) for x, y, sign in clicks]
    prompts = PromptSet((*drawn, *(BoxPrompt((k * 7.0, 0, k * 7.0 + 5, 19)) for k in range(boxes))))
    asked = [id(prompt) for group in prompts.objects() for prompt in group.prompts]
    assert len(asked) == len(set(asked))
    assert {id(box) for box in prompts.of(BoxPrompt)} <= set(asked)


def test_the_key_is_the_content_and_the_shape_of_an_image() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert KeyedImage.of(image) == KeyedImage.of(image.copy())
    assert KeyedImage.of(image) == KeyedImage.of(np.asfortranarray(image))
    changed = image.copy()
    changed[1, 3, 2] ^= 1
    assert len({KeyedImage.of(image), KeyedImage.of(changed), KeyedImage.of(image.reshape(4, 2, 3))}) == 3


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (PointPrompt((900.0, 5.5)), "the point at (900, 5.5)"),
        (BoxPrompt((700.0, 1.0, 800.0, 2.0)), "the box at (700, 1)"),
        (PolygonPrompt(np.array([[1.0, 900.0], [5.0, 990.0], [9.0, 900.0]])), "the polygon at (1, 900)"),
    ],
)
def test_what_lies_outside_an_image_is_said_in_words(prompt: Prompt, words: str) -> None:
    with pytest.raises(PromptError) as caught:
        PromptSet((prompt,)).check_against(Size(480, 640))
    assert str(caught.value) == f"{words} lies outside the image of 640 x 480 pixels"
