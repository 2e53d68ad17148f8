"""What a region is called: its patches and its dimmed crop, each half."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from backend.engines.sam.references import dimmed_crop, region_embeddings
from prompts.geometry import BoolArray, FloatArray, Size
from prompts.kinds import Image
from tests.backend.pictures import square


class Patches:
    """Features of an image of which every region is (1, 0)."""

    size = Size(80, 120)

    def sample(self, points: FloatArray) -> Tensor:
        return torch.tensor([[1.0, 0]]).expand(len(points), 2)

    def pool(self, mask: BoolArray) -> Tensor:
        return torch.tensor([1.0, 0])


class Crops:
    """An encoder that writes down what it sees and calls it (0, 1)."""

    def encode_crops(self, crops: Sequence[Image]) -> Tensor:
        self.seen = crops
        return torch.tensor([[0, 1.0]]).expand(len(crops), 2)


def test_a_crop_is_the_region_with_some_context_and_the_rest_dimmed() -> None:
    image = np.full((80, 120, 3), 200, np.uint8)
    mask = square(80, 120, 30, 20, 20)
    crop = dimmed_crop(image, mask)
    assert crop.shape == (24, 24, 3), "two pixels more on each side"
    assert (crop[2:22, 2:22] == 200).all()
    assert (crop[:2] == 60).all()
    assert (crop[:, 22:] == 60).all()


def test_a_crop_ends_where_the_image_does() -> None:
    assert dimmed_crop(np.zeros((80, 120, 3), np.uint8), square(80, 120, 100, 60, 20)).shape == (22, 22, 3)
    assert dimmed_crop(np.zeros((80, 120, 3), np.uint8), square(80, 120, 0, 0, 20)).shape == (22, 22, 3)


def test_a_meaning_is_half_its_patches_and_half_its_crop() -> None:
    masks = np.stack([square(80, 120, 30, 20, 20), square(80, 120, 0, 0, 1)])
    crops = Crops()
    meanings = region_embeddings(Patches(), np.full((40, 60, 3), 200, np.uint8), masks, crops)
    torch.testing.assert_close(meanings, torch.full((2, 2), 0.5**0.5))
    assert [crop.shape for crop in crops.seen] == [(12, 12, 3), (1, 1, 3)], "on a copy of half the size"
