"""Every shape that a mask is written as, drawn again and compared with the mask."""

from __future__ import annotations

import base64
import io
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from shapely import Polygon

from backend.labelstudio.shapes import marks, outlined, painted, read_number, runs_of
from backend.labelstudio.shapes import painted as rle
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from prompts.geometry import (
    BoolArray,
    Size,
    box_mask,
    ellipse_outline,
    mask_box,
    percent_to_pixels,
    polygon_mask,
    size_of,
    stroke_mask,
)

masks = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(lambda shape: arrays.arrays(np.bool_, shape))
filled_masks = masks.filter(np.any)
WRITERS = [
    painted.write_brush,
    outlined.write_polygon,
    marks.write_rectangle,
    outlined.write_ellipse,
    painted.write_bitmask,
    marks.write_keypoint,
]


def iou(left: BoolArray, right: BoolArray) -> float:
    return float((left & right).sum() / (left | right).sum())


def redraw(shapes: list[Any], size: Size) -> BoolArray:
    """The union of polygons in percent."""
    return np.logical_or.reduce(
        [polygon_mask(percent_to_pixels(np.array(shape.value["points"]), size), size) for shape in shapes]
    )


@pytest.mark.parametrize("write", WRITERS)
def test_an_empty_mask_has_no_shape(write: Any) -> None:
    assert write(RunLengths.of(np.zeros((5, 7), np.bool_))) == []


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 2)])
def test_a_mask_that_fills_its_image_has_a_shape_inside_the_image(write: Any, shape: tuple[int, int]) -> None:
    (found,) = write(RunLengths.of(np.ones(shape, np.bool_)))
    numbers = [number for key in ("x", "y") if isinstance(number := found.value.get(key), float)]
    numbers += [number for corner in found.value.get("points", []) for number in corner]
    assert all(0 <= number <= 100 for number in numbers)


@given(masks)
def test_a_brush_mask_is_the_mask(mask: BoolArray) -> None:
    for shape in painted.write_brush(RunLengths.of(mask)):
        assert shape.value["format"] == "rle"
        assert np.array_equal(rle.decode(shape.value["rle"], size_of(mask)), mask)


@given(filled_masks)
def test_a_bitmask_is_opaque_exactly_where_the_mask_is(mask: BoolArray) -> None:
    (shape,) = painted.write_bitmask(RunLengths.of(mask))
    head, _, data = shape.value["imageDataURL"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == mask.shape[::-1]
        alpha = np.array(picture.convert("RGBA"))[..., 3]
    assert np.array_equal(alpha, mask * np.uint8(255))


@given(filled_masks)
def test_a_bitmask_is_unpacked_as_it_was_packed_and_one_of_others_is_left_to_its_reader(mask: BoolArray) -> None:
    (shape,) = painted.write_bitmask(RunLengths.of(mask))
    packed = painted.packed_runs(shape.value, size_of(mask))
    assert packed is not None
    assert np.array_equal(packed.edges, RunLengths.of(mask).edges)
    assert painted.packed_runs(shape.value, Size(mask.shape[0] + 1, mask.shape[1])) is None
    data = base64.b64decode(shape.value["imageDataURL"].partition(",")[2])
    for broken in (data[:-30], b"", b"\x89PNG"):
        url = "data:image/png;base64," + base64.b64encode(broken).decode()
        assert painted.packed_runs({"imageDataURL": url}, size_of(mask)) is None


@pytest.mark.slow
def test_a_bitmask_of_a_giant_image_is_written_and_read_a_few_lines_at_a_time() -> None:
    """Of 30,000 x 30,000 pixels a mask takes 900 MB."""
    giant = Size(30_000, 30_000)
    runs = RunLengths.placed(polygon_mask(ellipse_outline(20, 20, 15, 15, 0), Size(40, 40)), (29_900, 12_000), giant)
    tracemalloc.start()
    (shape,) = painted.write_bitmask(runs)
    item = {"type": "bitmask", "value": shape.value}
    assert np.array_equal(runs_of(item, giant).edges, runs.edges)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()


def test_a_bitmask_is_small() -> None:
    (shape,) = painted.write_bitmask(RunLengths.of(polygon_mask(ellipse_outline(320, 240, 150, 150, 0), Size(480, 640))))
    assert len(shape.value["imageDataURL"]) < 3000


@given(filled_masks)
def test_a_rectangle_read_again_is_the_box_around_the_mask(mask: BoolArray) -> None:
    (shape,) = marks.write_rectangle(RunLengths.of(mask))
    box = marks.read_box({"value": shape.value}).prompt(size_of(mask))
    assert box.xyxy == pytest.approx(mask_box(mask))


def test_a_rectangle_turns_around_its_own_corner() -> None:
    value = {"x": 50, "y": 50, "width": 10, "height": 10, "rotation": 45}
    side = 20 / math.sqrt(2)
    box = marks.read_box({"value": value}).prompt(Size(200, 200))
    assert box.xyxy == pytest.approx((100 - side, 100, 100 + side, 100 + 2 * side))


@given(filled_masks)
def test_a_key_point_read_again_lies_in_the_mask(mask: BoolArray) -> None:
    (shape,) = marks.write_keypoint(RunLengths.of(mask))
    mark = marks.read_point({"is_positive": True, "value": shape.value})
    assert mark is not None
    x, y = mark.prompt(size_of(mask)).xy
    assert mask[int(y), int(x)]


def test_a_key_point_is_deep_inside_and_not_at_the_centroid() -> None:
    ring = box_mask((0, 0, 60, 60), Size(60, 60)) & ~box_mask((8, 8, 60, 52), Size(60, 60))
    (shape,) = marks.write_keypoint(RunLengths.of(ring))
    x, y = percent_to_pixels(np.array([[shape.value["x"], shape.value["y"]]]), Size(60, 60))[0]
    assert ring[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4].all()


def ellipse_of(value: dict[str, float], size: Size) -> BoolArray:
    across, down = size.width / 100, size.height / 100
    centre, radii = (value["x"] * across, value["y"] * down), (value["radiusX"] * across, value["radiusY"] * down)
    return polygon_mask(ellipse_outline(*centre, *radii, value["rotation"]), size)


@pytest.mark.parametrize("degrees", [0, 30, 60, 90, 135])
@pytest.mark.parametrize("size", [Size(200, 300), Size(300, 200)])
def test_an_ellipse_is_found_again(size: Size, degrees: float) -> None:
    mask = polygon_mask(ellipse_outline(110, 90, 60, 25, degrees), size)
    (shape,) = outlined.write_ellipse(RunLengths.of(mask))
    assert iou(ellipse_of(shape.value, size), mask) > 0.97
    radii = (shape.value["radiusX"] * size.width / 100, shape.value["radiusY"] * size.height / 100)
    assert sorted(radii) == pytest.approx([25, 60], rel=0.02)


def test_a_tall_ellipse_in_a_tall_image_has_radii_that_the_format_allows() -> None:
    size = Size(1000, 100)
    mask = polygon_mask(ellipse_outline(50, 500, 400, 30, 90), size)
    (shape,) = outlined.write_ellipse(RunLengths.of(mask))
    assert (shape.value["radiusX"], shape.value["radiusY"]) == pytest.approx((30, 40), rel=0.02)


@given(filled_masks)
def test_the_radii_of_an_ellipse_are_positive_and_at_most_half_the_image(mask: BoolArray) -> None:
    (shape,) = outlined.write_ellipse(RunLengths.of(mask))
    assert all(math.isfinite(number) for number in shape.value.values())
    assert 0 < shape.value["radiusX"] <= 50
    assert 0 < shape.value["radiusY"] <= 50


@given(filled_masks)
def test_polygons_are_valid_rings_inside_the_image_within_the_budget(mask: BoolArray) -> None:
    shapes = outlined.write_polygon(RunLengths.of(mask))
    assert shapes
    for shape in shapes:
        points = np.array(shape.value["points"])
        assert shape.value["closed"] is True
        assert 3 <= len(points) <= outlined.MOST_POINTS
        assert points.min() >= 0
        assert points.max() <= 100
        assert not np.array_equal(points[0], points[-1]), "the page would keep a repeated point as a second vertex"
        assert Polygon(points).is_valid


@given(filled_masks)
def test_the_note_tells_the_iou_of_what_was_drawn(mask: BoolArray) -> None:
    shapes = outlined.write_polygon(RunLengths.of(mask))
    drawn = redraw(shapes, size_of(mask))
    assert {shape.note for shape in shapes} == {f"polygon IoU {iou(mask, drawn):.3f}"}


@pytest.mark.parametrize("box", [(3, 4, 4, 5), (3, 4, 9, 5), (3, 4, 4, 9), (0, 0, 30, 20), (5, 5, 25, 15)])
def test_a_rectangular_region_loses_nothing(box: tuple[float, float, float, float]) -> None:
    mask = box_mask(box, Size(20, 30))
    (shape,) = outlined.write_polygon(RunLengths.of(mask))
    assert len(shape.value["points"]) == 4
    assert np.array_equal(redraw([shape], Size(20, 30)), mask)


def test_a_smooth_region_keeps_its_shape_with_few_points() -> None:
    size = Size(480, 640)
    mask = polygon_mask(ellipse_outline(300, 200, 150, 90, 30), size)
    (shape,) = outlined.write_polygon(RunLengths.of(mask))
    assert len(shape.value["points"]) <= 60
    assert iou(redraw([shape], size), mask) > 0.985


def test_a_large_hole_is_opened_and_a_small_one_is_filled() -> None:
    size = Size(100, 100)
    mask = box_mask((10, 10, 90, 90), size) & ~box_mask((30, 30, 60, 60), size) & ~box_mask((70, 70, 75, 75), size)
    (shape,) = outlined.write_polygon(RunLengths.of(mask))
    drawn = redraw([shape], size)
    assert not drawn[31:59, 31:59].any()
    assert drawn[70:75, 70:75].all()
    assert shape.note == f"polygon IoU {iou(mask, drawn):.3f}"


def test_several_large_holes_are_all_opened() -> None:
    size = Size(100, 200)
    mask = box_mask((10, 10, 190, 90), size)
    for x in (30, 90, 150):
        mask &= ~box_mask((x, 30, x + 30, 70), size)
    (shape,) = outlined.write_polygon(RunLengths.of(mask))
    assert iou(redraw([shape], size), mask) > 0.97
    assert Polygon(shape.value["points"]).is_valid


def test_large_parts_are_polygons_of_their_own_and_specks_are_dropped() -> None:
    size = Size(100, 100)
    mask = box_mask((0, 0, 40, 40), size) | box_mask((60, 60, 90, 80), size) | box_mask((95, 5, 97, 7), size)
    large, small = outlined.write_polygon(RunLengths.of(mask))
    assert np.array_equal(redraw([large], size), box_mask((0, 0, 40, 40), size))
    assert np.array_equal(redraw([small], size), box_mask((60, 60, 90, 80), size))


def test_an_island_in_a_hole_is_a_part() -> None:
    size = Size(100, 100)
    mask = box_mask((0, 0, 100, 100), size) & ~box_mask((20, 20, 80, 80), size) | box_mask((35, 35, 65, 65), size)
    shapes = outlined.write_polygon(RunLengths.of(mask))
    assert len(shapes) == 2
    assert iou(redraw(shapes, size), mask) > 0.97


def test_a_frayed_region_stays_within_the_budget() -> None:
    rng, size = np.random.default_rng(0), Size(300, 300)
    mask = stroke_mask(rng.uniform(20, 280, (40, 2)), 9, size)
    for shape in outlined.write_polygon(RunLengths.of(mask)):
        assert len(shape.value["points"]) <= outlined.MOST_POINTS


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6])
def test_noise_becomes_a_polygon_in_bounded_time(share: float) -> None:
    """A mask of noise at 1080p once took half a minute."""
    mask = np.random.default_rng(0).random((700, 700)) < share
    shapes = outlined.write_polygon(RunLengths.of(mask))
    assert shapes
    assert sum(len(shape.value["points"]) for shape in shapes) <= outlined.MOST_POINTS * 20


@pytest.mark.parametrize("found", [None, "5", True, [], float("nan"), float("inf"), 10**400, 2e6])
def test_a_number_that_is_none_is_refused(found: object) -> None:
    with pytest.raises(RequestError, match="'x'"):
        read_number({"x": found}, "x")


def test_a_missing_number_has_its_default_if_there_is_one() -> None:
    assert read_number({}, "rotation", 0.0) == 0.0
    assert read_number({"rotation": 7}, "rotation", 0.0) == 7.0
