"""What every shape of the table keeps of a mask, says as a prompt, and does with what cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.answer import write_prediction
from backend.labelstudio.config import read_config
from backend.labelstudio.shapes import SHAPES, covers_pixels, mask_of, read_regions
from backend.labelstudio.shapes.marks import SMART, read_smart
from backend.labelstudio.tags import SHAPE_NAMES, Role
from backend.values.errors import RequestError
from backend.values.masks import Masks, MaskSet, RunLengths
from prompts.geometry import BoolArray, Size, mask_box, size_of
from prompts.kinds import MaskPrompt, PromptSet
from tests.backend.labelstudio.captured import body, only_task
from tests.backend.pictures import disc, square


def box_around(mask: BoolArray) -> BoolArray:
    (x0, y0), (x1, y1) = np.array(mask_box(mask)).reshape(2, 2)
    around = np.zeros_like(mask)
    around[y0:y1, x0:x1] = True
    return around


@dataclass(frozen=True)
class Kept:
    """What a shape keeps of a mask, and with which IoU at least; of other masks than these nothing is promised."""

    of: Callable[[BoolArray], BoolArray] = lambda mask: mask
    least: float = 1.0
    masks: frozenset[str] = frozenset({"disc", "box", "ring", "two parts", "one pixel"})


KEPT = {
    "brush": Kept(),
    "bitmask": Kept(),
    "polygon": Kept(least=0.9),
    "vector": Kept(least=0.9),
    "ellipse": Kept(least=0.95, masks=frozenset({"disc"})),
    "rectangle": Kept(of=box_around),
    "keypoint": Kept(masks=frozenset()),
}
MASKS: dict[str, Callable[[int, int], BoolArray]] = {
    "disc": lambda height, width: disc(height, width, width * 0.4, height * 0.5, 0.3 * min(height, width)),
    "box": lambda height, width: square(height, width, 2, 1, min(height, width) // 2),
    "ring": lambda height, width: (
        disc(height, width, width * 0.5, height * 0.5, 0.45 * min(height, width))
        & ~disc(height, width, width * 0.5, height * 0.5, 0.2 * min(height, width))
    ),
    "two parts": lambda height, width: (
        square(height, width, 0, 0, min(height, width) // 3)
        | square(height, width, width // 2, height // 2, min(height, width) // 3)
    ),
    "one pixel": lambda height, width: square(height, width, width // 2, height // 2, 1),
}
SIZES = [(97, 131), (131, 97), (61, 301)]


def iou(left: BoolArray, right: BoolArray) -> float:
    return float((left & right).sum() / (left | right).sum())


def read_back(name: str, mask: BoolArray) -> BoolArray:
    """What all values that a mask was written as cover together."""
    values = [shape.value for shape in SHAPES[name].write(RunLengths.of(mask))]
    return np.logical_or.reduce([SHAPES[name].read(value, size_of(mask)) for value in values])


def test_every_shape_says_here_what_it_keeps() -> None:
    assert KEPT.keys() == SHAPES.keys()
    assert tuple(SHAPES) == SHAPE_NAMES


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("which", MASKS)
@pytest.mark.parametrize("name", SHAPES)
def test_a_mask_is_read_back_as_it_was_written(name: str, which: str, size: tuple[int, int]) -> None:
    mask = MASKS[which](*size)
    found = read_back(name, mask)
    assert found.shape == size
    if which in KEPT[name].masks:
        assert iou(found, KEPT[name].of(mask)) >= KEPT[name].least


@pytest.mark.parametrize("name", SHAPES)
def test_a_spot_lies_in_the_mask_and_an_area_meets_it(name: str) -> None:
    mask = MASKS["ring"](97, 131)
    rows, columns = np.nonzero(found := read_back(name, mask))
    assert (found & mask).any()
    assert SHAPES[name].covers or mask[round(rows.mean()), round(columns.mean())]


@pytest.mark.parametrize("name", SHAPES)
def test_an_empty_mask_has_no_shape(name: str) -> None:
    assert SHAPES[name].write(RunLengths.of(np.zeros((5, 7), np.bool_))) == []


@pytest.mark.parametrize("role", [Role.FOR, Role.AGAINST, Role.REFINE])
@pytest.mark.parametrize("name", SHAPES)
def test_a_drawn_region_is_a_prompt_about_what_it_covers(name: str, role: Role) -> None:
    mask = MASKS["disc"](97, 131)
    (shape,) = SHAPES[name].write(RunLengths.of(mask))
    prompt = SHAPES[name].prompt(shape.value, size_of(mask), role)
    assert prompt is not None
    prompts = PromptSet((prompt,))
    prompts.check_against(size_of(mask))
    assert prompts.drawn
    assert getattr(prompt, "positive", True) is (role is not Role.AGAINST)
    assert isinstance(prompt, MaskPrompt) is (role is Role.REFINE and SHAPES[name].covers)


@pytest.mark.parametrize("name", SMART)
def test_a_smart_tool_sends_the_same_place_that_its_region_shows(name: str) -> None:
    mask = MASKS["box"](97, 131)
    (shape,) = SHAPES[name].write(RunLengths.of(mask))
    mark = read_smart({"type": f"{name}labels", "id": "a", "is_positive": True, "value": shape.value})
    assert mark is not None
    assert mark.id == "a"
    PromptSet((mark.prompt(size_of(mask)),)).check_against(size_of(mask))


@pytest.mark.parametrize("labels", ["", "Labels"])
@pytest.mark.parametrize("name", SHAPES)
def test_an_answer_in_every_shape_is_read_as_regions_with_the_label(name: str, labels: str) -> None:
    inner, outer = '<Label value="Cat"/>', "" if labels else '<Labels name="l" toName="image"><Label value="Cat"/></Labels>'
    tag = f'<{name.title()}{labels} name="out" toName="image">{inner if labels else ""}</{name.title()}{labels}>'
    request = body("predict_preannotation_batch")
    request["tasks"], request["label_config"] = (
        request["tasks"][:1],
        f'<View><Image name="image" value="$image"/>{tag}{outer}</View>',
    )
    assert read_config(request["label_config"]).vocabulary.labels == ("Cat",)
    mask = MASKS["two parts"](97, 131)
    masks = MaskSet(
        Masks.of_stack(mask[None]), np.array([0.5]), ("Cat",), np.zeros((1, 4, 4), np.float32), np.zeros((1, 2), np.float32)
    )
    items = write_prediction(only_task(request), masks, "v")["result"]
    assert items
    found = read_regions(items)
    assert {region.label for region in found} == ({"Cat"} if SHAPES[name].covers else set())
    assert all(covers_pixels(item) is SHAPES[name].covers for item in items if item["type"] != "labels")


KEYS = ["points", "rle", "touches", "imageDataURL", "vertices", "closed", "x", "y", "width", "height", "radiusX", "radiusY"]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "y", "id", *KEYS]), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
@given(st.sampled_from(sorted(SHAPES)), st.dictionaries(st.sampled_from(KEYS), anything))
def test_any_value_is_a_mask_of_the_image_or_refused(name: str, value: dict[str, object]) -> None:
    try:
        mask = mask_of({"type": name, "value": value}, Size(7, 9))
    except RequestError:
        return
    assert (mask.dtype, mask.shape) == (np.bool_, (7, 9))
