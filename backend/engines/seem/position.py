"""Where a pixel is, as a vector: the sine positions of DETR."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0


def sine_position(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Positions ``(1, channels, height, width)``: half of the channels tell the row, half the column, each as sines and
    cosines in turn. After Carion et al. 2020, "End-to-End Object Detection with Transformers", with coordinates 1..H divided
    by H and times 2 pi.
    """
    half = channels // 2
    feature = torch.arange(half, dtype=torch.float32, device=device)
    frequency = TEMPERATURE ** (2 * torch.div(feature, 2, rounding_mode="floor") / half)

    def along(length: int) -> Tensor:
        place = torch.arange(1, length + 1, dtype=torch.float32, device=device) / (length + 1e-6) * (2 * math.pi)
        angle = place[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)

    rows = along(height).T[:, :, None].expand(half, height, width)
    columns = along(width).T[:, None, :].expand(half, height, width)
    return torch.cat([rows, columns])[None]
