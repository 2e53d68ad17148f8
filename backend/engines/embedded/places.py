"""The encoder of words: a photo as a map of joint-space vectors of its places, and a map from which regions are named.

An ImageNet-trained backbone with a feature pyramid (Lin et al. 2017) on top, read out at one eighth of its input. A region is
named by a linear map of every stage, pooled: as the map is linear, it is taken at every place once and pooled for any region.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.engines.device import has_bfloat16
from backend.engines.embedded.backbone import HEAD, Backbone
from backend.engines.embedded.network import Conv, Residual
from prompts.kinds import Image

STRIDE = 8
ENCODED_SIDE = 512
_STEP = 32
DIM = 128
WIDTHS = (48, 120, 352, HEAD)
PYRAMID = 128
CONTEXT = PYRAMID + WIDTHS[0]
"""Channels of a place's features: those of the pyramid and those of the backbone's third stage."""


class PlaceEncoder(nn.Module):
    """RGB ``(N, 3, H, W)`` in 0..255, sides divisible by 32, to places and regions; see ``forward``."""

    def __init__(self, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.backbone = backbone or Backbone()
        self.lateral = nn.ModuleList(nn.Conv2d(width, PYRAMID, 1) for width in WIDTHS)
        self.smooth = nn.Sequential(Conv(PYRAMID, PYRAMID), Residual(PYRAMID))
        self.head = nn.Conv2d(PYRAMID, DIM, 1)
        self.naming = nn.ModuleList(nn.Conv2d(width, DIM, 1) for width in WIDTHS)
        self.naming_scale = nn.Parameter(torch.tensor(math.log(16.0)))
        self.text_scale = nn.Parameter(torch.tensor(math.log(16.0)))
        self.text_bias = nn.Parameter(torch.tensor(-6.0))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The features of places ``(N, 176, H/8, W/8)``, their unit vectors of the joint space ``(N, 128, H/8, W/8)``, and the
        map ``(N, 128, H/16, W/16)`` whose mean over a region is the direction of what the region shows.
        """
        return self.read(self.backbone.early(image))

    def read(self, fourth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same from the backbone's map at stride 4."""
        stages = self.backbone.late(fourth)
        pyramid = self._pyramid(stages)
        grid = F.normalize(self.head(pyramid).float(), dim=1)
        return torch.cat([pyramid, stages[0]], dim=1), grid, self._regions(stages)

    def _pyramid(self, stages: tuple[Tensor, ...]) -> Tensor:
        eighth, sixteenth, last, head = (lateral(x) for lateral, x in zip(self.lateral, stages, strict=True))
        merged = sixteenth + grown(last + head, sixteenth)
        smooth: Tensor = self.smooth(eighth + grown(merged, eighth))
        return smooth

    def _regions(self, stages: tuple[Tensor, ...]) -> Tensor:
        eighth, sixteenth, last, head = (naming(x) for naming, x in zip(self.naming, stages, strict=True))
        coarse: Tensor = sixteenth + grown(last + head, sixteenth)
        return coarse + F.avg_pool2d(eighth, 2)

    def text_logits(self, grid: Tensor, text: Tensor) -> Tensor:
        """How much every place of ``grid (N, D, h, w)`` looks like each of ``text (N, K, D)``: logits ``(N, K, h, w)``."""
        similarity = torch.einsum("ndhw,nkd->nkhw", grid, text)
        return similarity * self.text_scale.exp() + self.text_bias


def grown(x: Tensor, like: Tensor) -> Tensor:
    """A map at the resolution of another."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear")


def encoded(encoder: PlaceEncoder, image: Image) -> tuple[Tensor, Tensor, Tensor]:
    """An image ``(H, W, 3)`` of any size as the encoder sees it: see ``PlaceEncoder.forward``, without the first axis."""
    device = next(encoder.parameters()).device
    batch = torch.from_numpy(resized(image, *encoded_shape(image))).to(device).permute(2, 0, 1)[None].float()
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device)):
        context, grid, regions = encoder(batch.contiguous(memory_format=torch.channels_last))
    return context[0].float(), grid[0].float(), regions[0].float()


def encoded_shape(image: Image) -> tuple[int, int]:
    """Height and width, multiples of 32, with the long side at 512."""
    factor = ENCODED_SIDE / max(image.shape[:2])
    height, width = (max(_STEP, round(extent * factor / _STEP) * _STEP) for extent in image.shape[:2])
    return height, width


def resized(image: Image, height: int, width: int) -> Image:
    """An image at another size; shrinking averages areas, growing interpolates."""
    method = cv2.INTER_AREA if height * width < image.shape[0] * image.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
