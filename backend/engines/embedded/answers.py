"""Views decoded into answers: logits on the whole canvas, how good the mask should be, and where it lies in the joint space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from backend.engines.embedded.evidence import VOTE_SIDE
from backend.engines.embedded.view_decoder import ViewDecoder
from backend.engines.embedded.windows import SIDE, Window, look, put_back
from backend.values.features import ImageFeatures
from backend.values.masks import MaskSet
from prompts.geometry import BoolArray, Size, mask_box, size_of
from prompts.kinds import Image

FAR = -12.0
"""The logit of places that no window looked at."""
MEMORY_SIDE = 256
"""Long side of the low-resolution logits, in cells."""


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """The image as the decoder keeps it: its features, and ``pixels (H, W, 3)`` uint8, at most 1024 on the long side."""

    features: ImageFeatures
    pixels: Image

    @classmethod
    def of(cls, features: ImageFeatures) -> Canvas:
        return cls(features, features.tensors["pixels"].cpu().numpy())

    @property
    def size(self) -> Size:
        return size_of(self.pixels)

    @property
    def scale(self) -> float:
        """Canvas pixels for one pixel of the image."""
        return self.size.width / self.features.size.width


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One mask: ``logits (H, W)`` on the canvas and its expected IoU in 0..1."""

    logits: NDArray[np.float32]
    quality: float

    def box(self) -> tuple[int, int, int, int] | None:
        """The box around the mask; None when it is empty."""
        inside: BoolArray = self.logits > 0
        return mask_box(inside)


def decode_views(decoder: ViewDecoder, canvas: Canvas, windows: Sequence[Window], maps: NDArray[np.float32]) -> list[Answer]:
    """One answer for each window with its prompt maps ``(N, 6, 48, 48)``."""
    device = next(decoder.parameters()).device
    views = np.stack([look(canvas.pixels, window) for window in windows])
    images = torch.from_numpy(views).to(device).permute(0, 3, 1, 2).float() / 255
    images = images.contiguous(memory_format=torch.channels_last)
    logits, quality = decoder(images, torch.from_numpy(maps).to(device), under(canvas.features.grid, canvas.size, windows))
    judged = torch.sigmoid(quality).tolist()
    return [
        Answer(put_back(view, window, canvas.size, FAR), share)
        for view, window, share in zip(logits.float().cpu().numpy(), windows, judged, strict=True)
    ]


def under(grid: Tensor, size: Size, windows: Sequence[Window], side: int = VOTE_SIDE) -> Tensor:
    """The part of a map ``(D, h, w)`` of an image that lies under each window, ``(N, D, side, side)``; zero outside."""
    steps = (torch.arange(side, device=grid.device, dtype=torch.float32) + 0.5) / side
    places = []
    for window in windows:
        across = (window.x + steps * window.length) / size.width * 2 - 1
        down = (window.y + steps * window.length) / size.height * 2 - 1
        places.append(torch.stack([across.expand(side, side), down[:, None].expand(side, side)], dim=2))
    return F.grid_sample(grid.float().expand(len(windows), -1, -1, -1), torch.stack(places), align_corners=False)


def to_masks(answers: Sequence[Answer], labels: Sequence[str | None], canvas: Canvas) -> MaskSet:
    """Answers as a mask set at the image's full size; answers without a single pixel are left out."""
    size = canvas.features.size
    full = [np.asarray(cv2.resize(a.logits, (size.width, size.height), interpolation=cv2.INTER_LINEAR)) > 0 for a in answers]
    kept = [k for k, mask in enumerate(full) if mask.any()]
    if not kept:
        return MaskSet.empty(size)
    return MaskSet(
        masks=np.stack([full[k] for k in kept]),
        scores=np.array([answers[k].quality for k in kept], np.float32),
        labels=tuple(labels[k] for k in kept),
        low_res_logits=np.stack([_low_resolution(answers[k].logits) for k in kept]),
        embeddings=np.stack([_embedding(answers[k].logits, canvas.features.grid) for k in kept]),
    )


def memory_on(canvas: Canvas, low_res_logits: NDArray[np.float16]) -> NDArray[np.float32]:
    """Remembered logits ``(h, w)`` at the canvas's size."""
    wide = (canvas.size.width, canvas.size.height)
    return np.asarray(cv2.resize(low_res_logits.astype(np.float32), wide, interpolation=cv2.INTER_LINEAR), np.float32)


def chance_of(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logistic function."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))), np.float32)


def _low_resolution(logits: NDArray[np.float32]) -> NDArray[np.float16]:
    height, width = logits.shape
    factor = MEMORY_SIDE / max(height, width)
    cells = (max(1, round(width * factor)), max(1, round(height * factor)))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(logits, cells, interpolation=method), np.float16)


def _embedding(logits: NDArray[np.float32], grid: Tensor) -> NDArray[np.float32]:
    cells = (grid.shape[2], grid.shape[1])
    weight = torch.from_numpy(np.asarray(cv2.resize((logits > 0).astype(np.float32), cells, interpolation=cv2.INTER_AREA)))
    pooled = (grid.float() * (weight.to(grid.device) + 1e-6)).sum(dim=(1, 2))
    return np.asarray(F.normalize(pooled, dim=0).cpu().numpy(), np.float32)


__all__ = ["SIDE", "Answer", "Canvas", "chance_of", "decode_views", "memory_on", "to_masks", "under"]
