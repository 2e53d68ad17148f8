"""What every place of an image means in the joint space, and that nothing is lost on the way into the feature cache."""

from __future__ import annotations

import numpy as np
import torch

from backend.engines.seem.frame import Frame, InputSize, SeemImage
from backend.engines.seem.pixel_decoders import PixelFeatures
from backend.engines.seem.predictor import Prediction

LIMITS = InputSize(64, 128, 32)


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
    return SeemImage(Frame.of(Size(64, 96), LIMITS), PixelFeatures(levels, mask_features), said)  # type: ignore[arg-type]


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
    again = SeemImage.unpack(image.pack(torch.ones(3)), LIMITS, torch.device("cpu"))
    assert again.frame == image.frame
    for before, after in zip(
        (*image.pixels.levels, image.pixels.mask_features), (*again.pixels.levels, again.pixels.mask_features), strict=True
    ):
        torch.testing.assert_close(before, after)
    torch.testing.assert_close(again.objects.mask_embedding, image.objects.mask_embedding)


def test_features_that_were_kept_on_disk_move_to_the_networks_device() -> None:
    """A GPU's features come back from disk on the CPU; the meta device stands in for the GPU."""
    features = two_halves().pack(torch.ones(3))
    again = SeemImage.unpack(features, LIMITS, torch.device("meta"))
    moved = (*again.pixels.levels, again.pixels.mask_features, again.objects.embedding, again.objects.group)
    assert {tensor.device.type for tensor in moved} == {"meta"}
