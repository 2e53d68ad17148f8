"""From an image to the network's input and back, for any size of image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.engines.seem.frame import Frame, InputSize
from prompts.geometry import Size

LIMITS = InputSize(short=64, longest=128, divisor=32)
SIZES = st.builds(Size, st.integers(1, 300), st.integers(1, 300))


@given(SIZES)
def test_the_input_keeps_the_proportions_within_its_limits(size: Size) -> None:
    frame = Frame.of(size, LIMITS)
    short, long = sorted((frame.content.height, frame.content.width))
    assert short <= 64
    assert long <= 128
    assert short == 64 or long == 128
    for inner, outer in ((frame.content.height, frame.padded.height), (frame.content.width, frame.padded.width)):
        assert outer % 32 == 0
        assert 0 <= outer - inner < 32
    scale = frame.content.height / size.height, frame.content.width / size.width
    assert abs(scale[0] * size.width - frame.content.width) <= scale[0] / scale[1] * 0.5 + size.width / size.height * 0.5 + 0.5


@given(SIZES, st.data())
def test_no_drawn_pixel_is_lost_however_thin(size: Size, data: st.DataObject) -> None:
    frame = Frame.of(size, LIMITS)
    row, column = data.draw(st.integers(0, size.height - 1)), data.draw(st.integers(0, size.width - 1))
    mask = np.zeros((size.height, size.width), np.bool_)
    mask[row, column] = True
    placed = frame.place(mask)
    assert placed.shape == (frame.padded.height, frame.padded.width)
    y, x = placed.nonzero().float().mean(dim=0).tolist()
    assert abs((y + 0.5) * size.height / frame.content.height - (row + 0.5)) <= 1 + size.height / frame.content.height
    assert abs((x + 0.5) * size.width / frame.content.width - (column + 0.5)) <= 1 + size.width / frame.content.width


@given(SIZES, st.floats(0, 1), st.floats(0, 1))
def test_a_click_is_a_small_square_around_its_pixel(size: Size, across: float, down: float) -> None:
    frame = Frame.of(size, LIMITS)
    placed = frame.place_clicks(np.array([[across * size.width, down * size.height]]))
    assert 1 <= int(placed.sum()) <= 9
    row = min(int(down * size.height * frame.content.height / size.height), frame.content.height - 1)
    column = min(int(across * size.width * frame.content.width / size.width), frame.content.width - 1)
    assert placed[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].any()


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_a_mask_comes_back_to_where_it_was_drawn(how: str) -> None:
    frame = Frame.of(Size(90, 150), LIMITS)
    mask = np.zeros((90, 150), np.bool_)
    mask[20:60, 40:120] = True
    logits = torch.nn.functional.avg_pool2d(frame.place(mask)[None].float(), 4) * 10 - 5
    back = frame.enlarge(logits, how).numpy()[0] > 0  # type: ignore[arg-type]
    assert (back & mask).sum() / (back | mask).sum() > 0.85


def test_padding_is_zero_after_normalising() -> None:
    frame = Frame.of(Size(60, 100), LIMITS)
    prepared = frame.prepare(np.full((60, 100, 3), 255, np.uint8))
    assert prepared.shape == (1, 3, 64, 128)
    assert (prepared[..., : frame.content.width] > 1).all()
    assert (prepared[..., frame.content.width :] == 0).all()
