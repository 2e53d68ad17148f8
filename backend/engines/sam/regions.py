"""What a region of an image is called: its patches and its picture with the rest dimmed, as one vector of the joint space.

The mean of the two unit vectors is compared with phrases, which averages their logits (Liang et al. 2023, "Open-Vocabulary
Semantic Segmentation with Mask-adapted CLIP", found masked crops to help; dimming keeps the context).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from prompts.geometry import BoolArray
from prompts.kinds import Image
from prompts.sampler import FeatureMap

DIMMED = 0.3
"""How bright the outside of a region stays."""
CONTEXT = 0.1
"""How much of its own sides a region's box is widened by on each side."""


class CropEncoder(Protocol):
    """Whole images into the joint space."""

    def encode_crops(self, crops: Sequence[Image]) -> Tensor:
        """Unit vectors ``(N, D)`` of images ``(h, w, 3)``."""
        ...


def dimmed_crop(image: Image, mask: BoolArray) -> Image:
    """The box of a region ``(H, W)`` with some context, everything outside the region dimmed."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    spare = [round(CONTEXT * (side[-1] + 1 - side[0])) for side in (rows, columns)]
    top, left = max(rows[0] - spare[0], 0), max(columns[0] - spare[1], 0)
    window = np.s_[top : rows[-1] + 1 + spare[0], left : columns[-1] + 1 + spare[1]]
    crop = image[window].astype(np.float32)
    return np.where(mask[window][..., None], crop, crop * DIMMED).astype(np.uint8)


def pooled_embeddings(features: FeatureMap, masks: BoolArray) -> Tensor:
    """Unit vectors ``(N, D)`` of regions ``(N, H, W)``: the mean of their patches. Quick enough for every click."""
    return torch.stack([features.pool(mask) for mask in masks])


def region_embeddings(features: FeatureMap, pixels: Image, masks: BoolArray, encoder: CropEncoder) -> Tensor:
    """Unit vectors ``(N, D)`` of regions ``(N, H, W)``: patches and dimmed crops together. ``pixels (h, w, 3)`` may be a
    smaller copy of the image.
    """
    crops = [dimmed_crop(pixels, _resize(mask, pixels)) for mask in masks]
    return functional.normalize(pooled_embeddings(features, masks) + encoder.encode_crops(crops), dim=-1)


def _resize(mask: BoolArray, pixels: Image) -> BoolArray:
    """A mask at another resolution, which keeps at least one pixel."""
    height, width = pixels.shape[:2]
    cover = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    resized: BoolArray = cover >= min(0.5, float(cover.max()))
    return resized
