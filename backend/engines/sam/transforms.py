"""The coordinate frames of networks: how an image becomes their input, a pixel their coordinate, and their logits a mask.

SAM 2 and later squash the image to a square; SAM keeps its proportions and pads it to one. Nothing else needs to know which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from prompts.geometry import BoolArray, FloatArray, Size, size_of
from prompts.kinds import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF_MEAN = HALF_STD = (0.5, 0.5, 0.5)


class Frame(Protocol):
    """The square input of a network, ``side`` pixels wide, and the way into it and back."""

    @property
    def side(self) -> int: ...

    def pixels(self, image: Image, device: torch.device) -> Tensor:
        """The network's input ``(3, side, side)`` float32."""
        ...

    def points(self, points: FloatArray, size: Size) -> FloatArray:
        """Points ``(N, 2)`` in pixels of an image of this size, to the frame."""
        ...

    def resize(self, logits: Tensor, size: Size) -> Tensor:
        """Logits ``(N, h, w)`` of the whole frame, to ``(N, H, W)`` of the image."""
        ...

    def shrink(self, mask: BoolArray, side: int) -> Tensor:
        """How much of each cell of a grid ``(side, side)`` over the frame a mask ``(H, W)`` covers, in 0..1."""
        ...


@dataclass(frozen=True, slots=True)
class SquashFrame:
    """The image is stretched to the square, whatever its proportions (SAM 2, EdgeTAM, SAM 3)."""

    side: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def pixels(self, image: Image, device: torch.device) -> Tensor:
        return _normalise(resize_image(image, Size(self.side, self.side), device), self.mean, self.std)

    def points(self, points: FloatArray, size: Size) -> FloatArray:
        return points * (self.side / size.width, self.side / size.height)

    def resize(self, logits: Tensor, size: Size) -> Tensor:
        return _interpolate(logits, size)

    def shrink(self, mask: BoolArray, side: int) -> Tensor:
        return _interpolate(torch.from_numpy(mask.astype(np.float32))[None], Size(side, side), antialias=True)[0]


@dataclass(frozen=True, slots=True)
class PadFrame:
    """The image keeps its proportions; its longer side fills the square, and zeros the rest (SAM, SAM-HQ)."""

    side: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def covered(self, size: Size) -> Size:
        """How much of the square an image of this size takes."""
        scale = self.side / max(size.height, size.width)
        return Size(max(int(size.height * scale + 0.5), 1), max(int(size.width * scale + 0.5), 1))

    def pixels(self, image: Image, device: torch.device) -> Tensor:
        covered = self.covered(size_of(image))
        resized = _normalise(resize_image(image, covered, device), self.mean, self.std)
        return functional.pad(resized, (0, self.side - covered.width, 0, self.side - covered.height))

    def points(self, points: FloatArray, size: Size) -> FloatArray:
        covered = self.covered(size)
        return points * (covered.width / size.width, covered.height / size.height)

    def resize(self, logits: Tensor, size: Size) -> Tensor:
        covered = self.covered(size)
        whole = _interpolate(logits, Size(self.side, self.side))
        return _interpolate(whole[:, : covered.height, : covered.width], size)

    def shrink(self, mask: BoolArray, side: int) -> Tensor:
        covered = self.covered(size_of(mask))
        resized = _interpolate(torch.from_numpy(mask.astype(np.float32))[None], covered, antialias=True)
        whole = functional.pad(resized, (0, self.side - covered.width, 0, self.side - covered.height))
        return _interpolate(whole, Size(side, side), antialias=True)[0]


def resize_image(image: Image, size: Size, device: torch.device) -> Tensor:
    """An image ``(H, W, 3)`` as ``(3, h, w)`` float32 in 0..255, bilinear with antialiasing, rounded as image files are."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # of its own: the image cannot be written to
    if device.type == "cpu":
        resized = functional.interpolate(pixels, (size.height, size.width), mode="bilinear", antialias=True)
    else:
        whole = pixels.to(device).float()
        resized = functional.interpolate(whole, (size.height, size.width), mode="bilinear", antialias=True).round()
    return resized[0].float().to(device)


def to_masks(frame: Frame, logits: Tensor, size: Size) -> BoolArray:
    """Logits ``(N, h, w)`` as masks ``(N, H, W)``, one at a time, so that many masks of a large image fit into memory."""
    masks = np.zeros((len(logits), size.height, size.width), np.bool_)
    for row, mask in enumerate(logits):
        masks[row] = (frame.resize(mask[None].float(), size)[0] > 0).cpu().numpy()
    return masks


def _normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Channels 0..255 ``(3, h, w)``, less their mean and divided by their deviation, both given for 0..1."""
    shift, scale = (torch.tensor(values, device=pixels.device)[:, None, None] * 255 for values in (mean, std))
    return (pixels - shift) / scale


def _interpolate(maps: Tensor, size: Size, *, antialias: bool = False) -> Tensor:
    shape = (size.height, size.width)
    return functional.interpolate(maps[None], shape, mode="bilinear", align_corners=False, antialias=antialias)[0]
