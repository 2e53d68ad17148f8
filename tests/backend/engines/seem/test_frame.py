"""From an image of any size to the network's input and back, and what every place of it means in the joint space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.engines.seem.inputs import InputFrame, InputSize, SeemImage
from backend.engines.seem.pixel_decoders import PixelFeatures
from backend.engines.seem.predictor import Prediction
from prompts.geometry import Size

LIMITS = InputSize(short=64, longest=128, divisor=32)
SIZES = st.builds(Size, st.integers(1, 300), st.integers(1, 300))


@given(SIZES)
def test_the_input_keeps_the_proportions_within_its_limits(size: Size) -> None:
    frame = InputFrame.of(size, LIMITS)
    short, long = sorted((frame.content.height, frame.content.width))
    assert short <= 64
    assert long <= 128
    assert short == 64 or long == 128
    for inner, outer in ((frame.content.height, frame.padded.height), (frame.content.width, frame.padded.width)):
        assert outer % 32 == 0
        assert 0 <= outer - inner < 32
    factor = min(64 / min(size.height, size.width), 128 / max(size.height, size.width))
    for inner, side in ((frame.content.height, size.height), (frame.content.width, size.width)):
        assert abs(inner - max(side * factor, 1)) <= 0.5 + 1e-9


@given(SIZES, st.data())
def test_no_drawn_pixel_is_lost_however_thin(size: Size, data: st.DataObject) -> None:
    frame = InputFrame.of(size, LIMITS)
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
    frame = InputFrame.of(size, LIMITS)
    placed = frame.place_clicks(np.array([[across * size.width, down * size.height]]))
    assert 1 <= int(placed.sum()) <= 9
    row = min(int(down * size.height * frame.content.height / size.height), frame.content.height - 1)
    column = min(int(across * size.width * frame.content.width / size.width), frame.content.width - 1)
    assert placed[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].any()


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_a_mask_comes_back_to_where_it_was_drawn(how: str) -> None:
    frame = InputFrame.of(Size(90, 150), LIMITS)
    mask = np.zeros((90, 150), np.bool_)
    mask[20:60, 40:120] = True
    logits = torch.nn.functional.avg_pool2d(frame.place(mask)[None].float(), 4) * 10 - 5
    back = frame.enlarge(logits, how).numpy()[0] > 0  # type: ignore[arg-type]
    assert (back & mask).sum() / (back | mask).sum() > 0.85


def test_padding_is_zero_after_normalising() -> None:
    frame = InputFrame.of(Size(60, 100), LIMITS)
    prepared = frame.prepare(np.full((60, 100, 3), 255, np.uint8))
    assert prepared.shape == (1, 3, 64, 128)
    assert (prepared[..., : frame.content.width] > 1).all()
    assert (prepared[..., frame.content.width :] == 0).all()


SMALL_LIMITS = InputSize(64, 128, 32)


def two_halves() -> SeemImage:
    """An image of 64 x 96 pixels: the first query covers its left half and means (1, 0, 0), the second its right half and
    means (0, 1, 0); the third covers everything and means (0, 0, 1).
    """
    from prompts.geometry import Size

    mask_features = torch.zeros(1, 3, 16, 24)
    mask_features[:, 0, :, :12] = mask_features[:, 1, :, 12:] = mask_features[:, 2] = 1
    levels = tuple(torch.randn(1, 3, 16 // step, 24 // step) for step in (8, 4, 2))
    place = torch.zeros(3, dtype=torch.long)
    said = Prediction(3 * torch.eye(3), 20 * torch.eye(3) - torch.tensor([[0, 20, 0], [20, 0, 0], [0, 0, 0]]), place, place)
    return SeemImage(InputFrame.of(Size(64, 96), SMALL_LIMITS), PixelFeatures(levels, mask_features), said)  # type: ignore[arg-type]


def test_a_region_means_what_the_queries_that_cover_it_mean() -> None:
    features = two_halves().pack(objectness=torch.tensor([1.0, 1.0, 0.0]))
    left = np.zeros((64, 96), np.bool_)
    left[:, :40] = True
    torch.testing.assert_close(features.pool(left), torch.tensor([1.0, 0.0, 0.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(features.sample(np.array([[90.0, 10.0]]))[0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-3, rtol=0)


def test_a_query_that_shows_nothing_has_no_say() -> None:
    sure, unsure = (two_halves().pack(torch.tensor([1.0, 1.0, weight])).grid for weight in (1.0, 0.0))
    assert float(sure[2].mean()) > 0.5
    assert float(unsure[2].abs().max()) < 1e-3


def test_an_image_comes_out_of_the_cache_as_it_went_in() -> None:
    image = two_halves()
    again = SeemImage.unpack(image.pack(torch.ones(3)), SMALL_LIMITS, torch.device("cpu"))
    assert again.frame == image.frame
    for before, after in zip(
        (*image.pixels.levels, image.pixels.mask_features), (*again.pixels.levels, again.pixels.mask_features), strict=True
    ):
        torch.testing.assert_close(before, after)
    torch.testing.assert_close(again.objects.mask_embedding, image.objects.mask_embedding)


def test_features_that_were_kept_on_disk_move_to_the_networks_device() -> None:
    """A GPU's features come back from disk on the CPU; the meta device stands in for the GPU."""
    features = two_halves().pack(torch.ones(3))
    again = SeemImage.unpack(features, SMALL_LIMITS, torch.device("meta"))
    moved = (*again.pixels.levels, again.pixels.mask_features, again.objects.embedding, again.objects.group)
    assert {tensor.device.type for tensor in moved} == {"meta"}
