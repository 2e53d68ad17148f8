"""Percent, pixels and outlines, each against a truth that is computed another way."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from prompts.geometry import (
    BoolArray,
    FloatArray,
    Size,
    bounding_box,
    box_mask,
    check_length,
    clip_box,
    ellipse_outline,
    mask_box,
    outline_runs,
    percent_to_pixels,
    pixels_to_percent,
    polygon_mask,
    rotated_rectangle,
    size_of,
    stroke_mask,
)

sizes = st.builds(Size, st.integers(1, 5000), st.integers(1, 5000))
small_sizes = st.builds(Size, st.integers(1, 40), st.integers(1, 40))
coordinates = st.integers(-800, 1440).map(lambda sixteenths: sixteenths / 16)


def outlines(least: int = 1, most: int = 12) -> st.SearchStrategy[FloatArray]:
    return st.integers(least, most).flatmap(lambda count: arrays.arrays(np.float64, (count, 2), elements=coordinates))


def centres(size: Size) -> FloatArray:
    rows, columns = np.mgrid[: size.height, : size.width] + 0.5
    return np.stack([columns, rows], axis=-1)


def distance_to_path(points: FloatArray, path: FloatArray) -> FloatArray:
    """The distance of every pixel centre ``(H, W, 2)`` to the nearest segment of a path ``(N, 2)``."""
    nearest = np.linalg.norm(points - path[0], axis=-1)
    for start, end in pairwise(path):
        along = end - start
        length = float(along @ along)
        share = np.clip((points - start) @ along / length, 0, 1) if length > 0 else np.zeros(points.shape[:2])
        nearest = np.minimum(nearest, np.linalg.norm(points - start - share[..., None] * along, axis=-1))
    return nearest


@given(sizes, arrays.arrays(np.float64, (5, 2), elements=st.floats(-200, 200)))
def test_percents_survive_the_way_to_pixels_and_back(size: Size, percents: FloatArray) -> None:
    np.testing.assert_allclose(pixels_to_percent(percent_to_pixels(percents, size), size), percents, atol=1e-9)


def test_a_hundred_percent_is_the_far_corner() -> None:
    assert percent_to_pixels(np.array([[100.0, 100.0]]), Size(480, 640)).tolist() == [[640.0, 480.0]]


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (-1, 5)])
def test_a_size_without_pixels_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1 x 1 pixel"):
        Size(*shape)


def test_the_size_of_an_image_is_its_height_and_width() -> None:
    assert size_of(np.zeros((3, 4, 3), np.uint8)) == Size(3, 4)
    assert Size(3, 4).pixels == 12


def test_a_rectangle_turns_clockwise_on_the_screen_around_its_own_corner() -> None:
    corners = rotated_rectangle(10, 20, 8, 4, 90)
    np.testing.assert_allclose(corners, [[10, 20], [10, 28], [6, 28], [6, 20]], atol=1e-12)


@given(st.floats(1, 50), st.floats(1, 50), st.floats(-360, 360))
def test_turning_keeps_the_sides_of_a_rectangle(width: float, height: float, degrees: float) -> None:
    corners = rotated_rectangle(3, 4, width, height, degrees)
    sides = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    np.testing.assert_allclose(sides, [width, height, width, height], rtol=1e-9)


@given(st.floats(1, 30), st.floats(1, 30), st.floats(-360, 360))
def test_the_outline_of_an_ellipse_fulfils_its_equation(radius_x: float, radius_y: float, degrees: float) -> None:
    angle = math.radians(degrees)
    dx, dy = (ellipse_outline(7, 9, radius_x, radius_y, degrees) - (7, 9)).T
    across, down = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
    np.testing.assert_allclose((across / radius_x) ** 2 + (down / radius_y) ** 2, 1, rtol=1e-6)


@given(arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_the_box_of_a_mask_holds_it_and_no_empty_edge(mask: np.ndarray) -> None:
    box = mask_box(mask)
    if box is None:
        assert not mask.any()
        return
    x0, y0, x1, y1 = box
    inside = mask[y0:y1, x0:x1]
    assert inside.sum() == mask.sum()
    assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


@given(st.tuples(coordinates, coordinates, st.floats(0, 50), st.floats(0, 50)), small_sizes)
def test_a_clipped_box_keeps_at_least_one_pixel_of_the_image(box: tuple[float, float, float, float], size: Size) -> None:
    x, y, width, height = box
    x0, y0, x1, y1 = clip_box((x, y, x + width, y + height), size)
    assert 0 <= x0 < x1 <= size.width
    assert 0 <= y0 < y1 <= size.height
    assert box_mask((x, y, x + width, y + height), size).sum() == (x1 - x0) * (y1 - y0)


def test_a_box_covers_every_pixel_that_it_touches() -> None:
    assert mask_box(box_mask((2.5, 3.0, 4.1, 5.0), Size(10, 10))) == (2, 3, 5, 5)


def test_the_box_around_points_is_their_extremes() -> None:
    assert bounding_box(np.array([[3.0, 9.0], [1.0, 2.0], [2.0, 4.0]])) == (1.0, 2.0, 3.0, 9.0)


def test_a_polygon_along_pixel_edges_covers_exactly_these_pixels() -> None:
    """OpenCV's own filling also takes the pixels that the outline touches: 11 x 11 instead of 10 x 10 here."""
    square = np.array([[10, 10], [20, 10], [20, 20], [10, 20]], np.float64)
    assert np.array_equal(polygon_mask(square, Size(40, 40)), box_mask((10, 10, 20, 20), Size(40, 40)))


@given(outlines(least=3), small_sizes)
def test_a_polygon_covers_the_pixels_whose_centres_a_ray_finds_inside(outline: FloatArray, size: Size) -> None:
    crossings = np.zeros((size.height, size.width), np.int64)
    x, y = np.moveaxis(centres(size), -1, 0)
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = ((y0 <= y) & (y < y1)) | ((y1 <= y) & (y < y0))
            crossings += crosses & (x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x)
    inside = crossings % 2 == 1
    mask = polygon_mask(outline, size)
    assert np.array_equal(mask, inside) or not inside.any()


def test_the_area_of_a_disc_is_close_to_pi_r_squared() -> None:
    area = polygon_mask(ellipse_outline(50, 50, 30, 30, 0), Size(100, 100)).sum()
    assert area == pytest.approx(math.pi * 900, rel=0.01)


@pytest.mark.parametrize("points", [[[4.4, 6.7]], [[2, 3], [9, 3]], [[2.6, 2.6], [2.6, 9], [2.6, 2.6]]])
def test_a_polygon_without_area_covers_the_pixels_on_its_way(points: list[list[float]]) -> None:
    outline = np.array(points)
    mask = polygon_mask(outline, Size(20, 20))
    assert mask.any()
    assert distance_to_path(centres(Size(20, 20)), outline)[mask].max() <= math.sqrt(2)


@given(outlines(most=6), st.floats(1, 25), small_sizes)
def test_a_stroke_covers_the_pixels_within_half_its_width(path: FloatArray, width: float, size: Size) -> None:
    mask, distance = stroke_mask(path, width, size), distance_to_path(centres(size), path)
    if (distance < width / 2 * 0.98 - 1e-6).any():
        assert mask[distance < width / 2 * 0.98 - 1e-6].all(), "a brush leaves no gap"
        assert not mask[distance > width / 2 + 1e-6].any(), "a brush paints no farther than its radius"


def test_a_stroke_that_crosses_itself_leaves_no_gap() -> None:
    """GEOS 3.14 leaves the second pixel out where it buffers this path as a whole."""
    path = np.array([[1, 0], [0, 0], [1, 1], [0, 1], [1, 0]], np.float64)
    assert stroke_mask(path, 2, Size(2, 1)).all()


def test_a_stroke_around_something_leaves_it_free() -> None:
    mask = stroke_mask(np.array([[10, 10], [30, 10], [30, 30], [10, 30], [10, 10]], np.float64), 4, Size(40, 40))
    assert mask[10, 20]
    assert not mask[20, 20]


def test_a_stroke_thinner_than_a_pixel_is_a_pixel_wide() -> None:
    mask = stroke_mask(np.array([[2.0, 5.5], [12.0, 5.5]]), 0.01, Size(20, 20))
    assert mask[5, 3:11].all()
    assert mask.any(axis=1).sum() == 1


@given(outlines())
def test_shapes_wholly_outside_the_image_cover_nothing(outline: FloatArray) -> None:
    away = outline + 1000
    assert not polygon_mask(away, Size(30, 30)).any()
    assert not stroke_mask(away, 5, Size(30, 30)).any()


def test_absurd_coordinates_neither_warn_nor_fail() -> None:
    everything = np.array([[-1e300, -1e300], [1e300, -1e300], [1e300, 1e300], [-1e300, 1e300]])
    assert polygon_mask(everything, Size(5, 5)).all()


coordinates = st.floats(-3, 25, allow_nan=False).map(lambda value: round(value * 2) / 2)


@given(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=9), st.integers(1, 20), st.integers(1, 20))
def test_the_runs_of_an_outline_are_those_of_its_mask(corners: list[tuple[float, float]], height: int, width: int) -> None:
    points, size = np.array(corners, np.float64), Size(height, width)
    edges = outline_runs(points, size)
    if edges is None:
        return
    mask = np.zeros(height * width, np.bool_)
    for start, end in edges.reshape(-1, 2):
        assert not mask[start:end].any()
        mask[start:end] = True
    assert np.array_equal(mask.reshape(height, width), polygon_mask(points, size))
    assert (np.diff(edges) > 0).all(), "runs neither touch nor are empty"


def test_an_outline_that_holds_no_pixel_or_winds_too_much_has_no_runs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outline_runs(np.array([[0.1, 0.1], [0.2, 0.1], [0.2, 0.2]]), Size(5, 5)) is None
    monkeypatch.setattr("prompts.geometry._CROSSINGS", 10)
    zigzag = np.array([[k % 2 * 50, k % 3 * 50] for k in range(60)], np.float64)
    assert outline_runs(zigzag, Size(50, 50)) is None


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))), st.integers(1, 9))
def test_the_run_lengths_of_a_mask_are_for_its_pixels_and_for_no_other_number(mask: BoolArray, other: int) -> None:
    code = coco.encode(np.asfortranarray(mask, np.uint8))["counts"]
    check_length(code, mask.size)
    check_length(code.decode("ascii"), mask.size)
    for wrong in (mask.size + other, mask.size - other):
        with pytest.raises(ValueError, match="the run lengths are for"):
            check_length(code, wrong)


@pytest.mark.parametrize("code", ["", "o", "!", "\x7f", "P" * 9])
def test_what_is_no_run_length_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match="run lengths"):
        check_length(code, 1)
