"""The ring around a mask fills to the mask, whatever parts and holes it has."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.export.formats import outline
from prompts.geometry import Size, polygon_mask
from tests.backend.bulk.runs import same
from tests.backend.pictures import square


@given(arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24))))
def test_any_mask_comes_back_from_its_outline(mask: np.ndarray) -> None:
    ring = outline(mask)
    if mask.any():
        assert same(polygon_mask(ring, Size(*mask.shape)), mask)
    else:
        assert ring.shape == (0, 2)


def test_the_way_to_another_part_leads_over_no_centre_of_a_pixel() -> None:
    mask = np.eye(15, 16, dtype=np.bool_) & (np.arange(15) % 14 == 0)[:, None]
    assert mask.sum() == 2
    assert same(polygon_mask(outline(mask), Size(15, 16)), mask)


def test_a_box_has_four_corners_and_one_with_a_hole_a_bridge_to_it() -> None:
    box = square(40, 40, 10, 10, 20)
    assert sorted(map(tuple, outline(box))) == [(10, 10), (10, 30), (30, 10), (30, 30)]
    hollow = box & ~square(40, 40, 15, 15, 5)
    assert len(outline(hollow)) == 4 + 4 + 2 + 2
