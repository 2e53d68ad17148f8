"""Brush strokes of a draft: what the page draws with them, pixel for pixel within what a round brush allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.shapes import brush, mask_of
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from prompts.geometry import Size
from tests.backend.labelstudio.captured import body

SIZE = Size(100, 200)


def touch(*path: float, kind: str = "add", width: float = 5.0) -> dict[str, Any]:
    return {"type": kind, "relativePoints": list(path), "relativeStrokeWidth": width}


def region(*touches: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "brushlabels", "value": {"format": "rle", "touches": list(touches), **more}}


def test_a_stroke_is_a_bar_with_round_ends_as_wide_as_percents_of_the_width_say() -> None:
    mask = mask_of(region(touch(25, 50, 75, 50)), SIZE)
    rows, columns = np.mgrid[:100, :200]
    nearest = np.clip(columns + 0.5, 50, 150)
    true = (columns + 0.5 - nearest) ** 2 + (rows + 0.5 - 50) ** 2 <= 5**2
    assert (mask & true).sum() / (mask | true).sum() > 0.99


def test_the_eraser_takes_away_and_a_later_stroke_paints_over_it() -> None:
    bar, gap, dab = touch(25, 50, 75, 50), touch(50, 50, kind="eraser", width=10), touch(50, 50, width=2)
    erased = mask_of(region(bar, gap), SIZE)
    assert not erased[40:60, 95:105].any()
    assert erased[50, 60]
    again = mask_of(region(bar, gap, dab), SIZE)
    assert again[50, 100]
    assert not again[50, 106]


def test_strokes_go_over_the_mask_that_the_server_had_kept() -> None:
    kept = np.zeros((100, 200), np.bool_)
    kept[10:20, 10:20] = True
    (shape,) = brush.write(RunLengths.of(kept))
    mask = mask_of(region(touch(50, 50), rle=shape.value["rle"]), SIZE)
    assert mask[15, 15]
    assert mask[50, 100]


def test_the_captured_scribble_lies_where_it_was_drawn() -> None:
    (item,) = body("interactive_with_scribble_in_draft")["tasks"][0]["drafts"][0]["result"]
    mask = mask_of(item, Size(480, 640))
    rows, columns = np.nonzero(mask)
    assert (columns.min(), columns.max()) == (pytest.approx(137 - 5.5, abs=1.5), pytest.approx(258.5 + 5.5, abs=1.5))
    assert (rows.min(), rows.max()) == (pytest.approx(193.7 - 5.5, abs=1.5), pytest.approx(239.4 + 5.5, abs=1.5))


@pytest.mark.parametrize(
    "broken",
    [touch(), touch(1), touch(1, 2, 3), touch(1, float("nan")), touch(1e9, 2), {"type": "add"}, touch(1, 2, width=10**400)],
)
def test_a_broken_stroke_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        mask_of(region(broken), SIZE)


def test_a_brush_region_without_anything_is_refused() -> None:
    with pytest.raises(RequestError, match="neither 'rle' nor strokes"):
        mask_of(region(), SIZE)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    path=anything | st.lists(st.floats(-1e7, 1e7), max_size=6), width=anything | st.floats(-1e7, 1e7), kind=st.text(max_size=3)
)
def test_any_stroke_is_painted_or_refused(path: Any, width: Any, kind: str) -> None:
    try:
        mask = mask_of(region({"type": kind, "relativePoints": path, "relativeStrokeWidth": width}), Size(7, 9))
    except RequestError:
        return
    assert mask.shape == (7, 9)
