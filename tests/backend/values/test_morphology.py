"""What is done to masks, against set algebra in numpy and geometry in shapely."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.values.morphology import fill_holes, grow, largest_part, parts_of, shrink, smooth
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
def test_parts_are_disjoint_and_make_up_the_mask_and_the_largest_is_one_of_them(mask: np.ndarray) -> None:
    parts = parts_of(mask)
    assert np.array_equal(np.sum(parts, axis=0) if parts else np.zeros(mask.shape, int), mask.astype(int))
    if parts:
        assert largest_part(mask).sum() == max(part.sum() for part in parts)
    else:
        assert not largest_part(mask).any()


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
