"""Windows: what is cut out can be put back where it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.engines.embedded.views import SIDE, Window, around, look, near, put_back, whole
from prompts.geometry import Size

EXTENTS = st.integers(1, 200)
PLACES = st.integers(-150, 250)


@given(EXTENTS, EXTENTS, PLACES, PLACES, st.integers(1, 300))
def test_a_window_looks_at_its_part_and_nothing_else(height: int, width: int, x: int, y: int, length: int) -> None:
    window = Window(x, y, length)
    view = look(np.ones((height, width), np.float32), window, side=32, outside=0)
    size = Size(height, width)
    x0, y0, x1, y1 = window.inside(size)
    share = max(x1 - x0, 0) * max(y1 - y0, 0) / length**2
    assert view.shape == (32, 32)
    if length <= 32 or length % 32 == 0:
        assert view.mean() == pytest.approx(share, abs=0.08)
    back = put_back(np.ones((32, 32), np.float32), window, size, outside=-1)
    assert (back > 0).sum() == max(x1 - x0, 0) * max(y1 - y0, 0)


@given(st.integers(20, 120), st.integers(20, 120))
def test_a_smooth_picture_survives_looking_and_putting_back(height: int, width: int) -> None:
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    ramp = down / height + across / width
    back = put_back(
        look(ramp, whole(Size(height, width)), outside=0).astype(np.float32), whole(Size(height, width)), Size(height, width), 0
    )
    inner = (slice(4, -4), slice(4, -4))
    assert np.abs(back - ramp)[inner].max() < 0.05


@given(st.floats(0, 99), st.floats(0, 59), st.integers(1, 150))
def test_a_window_near_a_point_holds_it_and_stays_on_the_image(x: float, y: float, length: int) -> None:
    window = near((x, y), length, Size(60, 100))
    assert window.x <= x <= window.x + length
    assert window.y <= y <= window.y + length
    if length <= 60:
        assert window.inside(Size(60, 100)) == (window.x, window.y, window.x + length, window.y + length)


def test_a_window_around_a_box_is_as_long_as_its_long_side_times_the_margin() -> None:
    assert around((10, 20, 50, 30), 1.5) == Window(0, -5, 60)


def test_a_point_of_the_image_is_found_in_the_view() -> None:
    assert Window(10, 20, 64).to_view(np.array([[42.0, 52.0]])).tolist() == [[SIDE / 2, SIDE / 2]]
