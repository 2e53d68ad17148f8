"""What is done to masks, against set algebra in numpy and geometry in shapely."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.values import morphology
from backend.values.masks import RunLengths
from backend.values.morphology import fill_holes, grow, in_its_box, parts_of, shrink, smooth, smooth_runs, without
from tests.backend.pictures import disc, square

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14)))
RADII = st.sampled_from([1.0, 1.5, 2.0, 3.0])


def offsets(radius: float) -> list[tuple[int, int]]:
    reach = range(-int(radius), int(radius) + 1)
    return [(dy, dx) for dy in reach for dx in reach if dy * dy + dx * dx <= radius * radius]


def shifted_union(mask: np.ndarray, radius: float) -> np.ndarray:
    """Every pixel that a disc around a pixel of the mask reaches, one shift at a time."""
    reach = int(radius)
    padded = np.pad(mask, reach)
    height, width = mask.shape
    found = np.zeros_like(mask)
    for dy, dx in offsets(radius):
        found |= padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
    return found


@given(MASKS, RADII)
def test_grow_is_the_union_of_all_shifts_within_the_radius(mask: np.ndarray, radius: float) -> None:
    assert np.array_equal(grow(mask, radius), shifted_union(mask, radius))


@given(MASKS, RADII)
def test_shrink_is_grow_of_what_is_outside(mask: np.ndarray, radius: float) -> None:
    assert np.array_equal(shrink(mask, radius), ~shifted_union(~mask, radius))


@pytest.mark.parametrize("change", [grow, shrink, smooth])
@pytest.mark.parametrize("radius", [1.0, 1.5, 3.0])
def test_a_mask_in_strips_is_changed_as_a_whole_one(
    change: Callable[[np.ndarray, float], np.ndarray], radius: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = np.random.default_rng(4)
    masks = [cv2.blur(chance.random((150, 20)), (width, width)) > 0.5 for width in (2, 3, 5)]
    whole = [change(mask, radius) for mask in [*masks, np.zeros((150, 20), np.bool_), np.ones((150, 20), np.bool_)]]
    monkeypatch.setattr(morphology, "_STRIP_PIXELS", 1)
    for mask, expected in zip([*masks, np.zeros((150, 20), np.bool_), np.ones((150, 20), np.bool_)], whole, strict=True):
        assert np.array_equal(change(mask, radius), expected)


@pytest.mark.slow
def test_a_large_mask_is_smoothed_in_little_more_memory_than_it_takes() -> None:
    mask = disc(3000, 4000, 2000, 1500, 1400)
    tracemalloc.start()
    smooth(mask, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * mask.nbytes


@pytest.mark.parametrize("radius", [2, 5, 9])
def test_grow_and_shrink_are_buffers_of_shapely_to_within_a_pixel(radius: int) -> None:
    mask = disc(120, 120, 60, 60, 30) | square(120, 120, 60, 50, 30)
    rows, columns = np.nonzero(mask)
    area = shapely.union_all(shapely.box(columns, rows, columns + 1, rows + 1))
    for found, buffered in ((grow(mask, radius), area.buffer(radius)), (shrink(mask, radius), area.buffer(-radius))):
        wrong = abs(found.sum() - buffered.area)
        assert wrong < 1.0 * buffered.length


@given(MASKS)
def test_fill_holes_leaves_nothing_enclosed_and_adds_nothing_else(mask: np.ndarray) -> None:
    filled = fill_holes(mask)
    assert (filled >= mask).all()
    assert np.array_equal(fill_holes(filled), filled)
    outside = np.pad(~filled, 1, constant_values=True)
    seen = np.zeros_like(outside)
    todo = [(0, 0)]
    while todo:
        row, column = todo.pop()
        if 0 <= row < outside.shape[0] and 0 <= column < outside.shape[1] and outside[row, column] and not seen[row, column]:
            seen[row, column] = True
            todo += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    assert np.array_equal(seen, outside)


@given(MASKS)
def test_parts_are_disjoint_connected_make_up_the_mask_and_come_the_largest_first(mask: np.ndarray) -> None:
    runs = parts_of(RunLengths.of(mask))
    parts = [part.decode() for part in runs]
    assert np.array_equal(np.sum(parts, axis=0) if parts else np.zeros(mask.shape, int), mask.astype(int))
    assert [part.area for part in runs] == sorted((part.area for part in runs), reverse=True)
    assert all(len(parts_of(part)) == 1 for part in runs)
    assert all(not (grow(one, 1.5) & other).any() for one in parts for other in parts if one is not other)


@given(arrays(np.bool_, st.tuples(st.just(2), st.integers(1, 14), st.integers(1, 14))), RADII)
def test_in_the_box_around_a_mask_everything_is_as_on_the_whole_image(two: np.ndarray, radius: float) -> None:
    mask, other = two
    runs, taken = RunLengths.of(mask), RunLengths.of(other)
    assert np.array_equal(in_its_box(runs, int(radius) + 1, lambda part: grow(part, radius)).decode(), grow(mask, radius))
    assert np.array_equal(in_its_box(runs, 1, lambda part: shrink(part, radius)).decode(), shrink(mask, radius))
    assert np.array_equal(in_its_box(runs, 1, fill_holes).decode(), fill_holes(mask))
    assert np.array_equal(smooth_runs(runs, radius).decode(), smooth(mask, radius))
    assert np.array_equal(without(runs, [taken, taken]).decode(), mask & ~other)


@given(MASKS, RADII)
def test_smooth_never_makes_a_mask_vanish_and_leaves_a_wide_box_but_for_its_corners(mask: np.ndarray, radius: float) -> None:
    assert smooth(mask, radius).any() == mask.any()
    box = square(60, 60, 10, 10, 40)
    changed = smooth(box, radius) ^ box
    assert changed.sum() <= 4 * radius * radius


def test_smooth_takes_hairs_away_and_closes_cracks() -> None:
    mask = square(80, 80, 20, 20, 40)
    hairy, cracked = mask.copy(), mask.copy()
    hairy[40, 60:75] = True
    cracked[40, 20:50] = False
    for damaged in (hairy, cracked):
        wrong = smooth(damaged, 3) ^ mask
        assert wrong.sum() < 40
        assert not smooth(damaged, 3)[40, 65:].any()
