"""The pixel decoder of SEEM's Focal and DaViT models: a transformer over the coarsest map and a feature pyramid above it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from backend.engines.seem.position import sine_position

GROUPS = 32


@dataclass(frozen=True, slots=True)
class PixelFeatures:
    """What the mask decoder reads of an image: ``levels``, three maps ``(B, D, h, w)`` at strides 32, 16 and 8, and
    ``mask_features (B, D, h, w)`` at stride 4.
    """

    levels: tuple[Tensor, Tensor, Tensor]
    mask_features: Tensor

    def float(self) -> PixelFeatures:
        """The same in float32."""
        coarse, middle, fine = (level.float() for level in self.levels)
        return PixelFeatures((coarse, middle, fine), self.mask_features.float())


@dataclass(frozen=True, slots=True)
class TransformerSizes:
    """Sizes of the transformer inside a pixel decoder."""

    width: int
    heads: int
    feed_forward: int
    depth: int


class NormedConv(nn.Conv2d):
    """A convolution without bias, followed by a GroupNorm of 32 groups."""

    def __init__(self, channels: tuple[int, int], kernel: int) -> None:
        super().__init__(*channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(GROUPS, channels[1])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(super().forward(x))
        return out


class EncoderLayer(nn.Module):
    """A post-norm transformer layer over pixels ``(B, N, D)``; positions are added to queries and keys."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        width = sizes.width
        self.self_attn = nn.MultiheadAttention(width, sizes.heads, batch_first=True)
        self.linear1 = nn.Linear(width, sizes.feed_forward)
        self.linear2 = nn.Linear(sizes.feed_forward, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        placed = x + position
        x = self.norm1(x + self.self_attn(placed, placed, x, need_weights=False)[0])
        out: Tensor = self.norm2(x + self.linear2(functional.relu(self.linear1(x))))
        return out


class PixelTransformer(nn.Module):
    """Every pixel of a map ``(B, D, h, w)`` looks at every other one."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(EncoderLayer(sizes) for _ in range(sizes.depth))

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        position = sine_position(shape[2], shape[3], shape[1], x.device).to(x.dtype).flatten(2).transpose(1, 2)
        tokens = x.flatten(2).transpose(1, 2)
        for layer in self.encoder.get_submodule("layers").children():
            tokens = layer(tokens, position)
        return tokens.transpose(1, 2).reshape(shape)


class FeaturePyramidPixelDecoder(nn.Module):
    """Backbone maps at strides 4, 8, 16, 32 to PixelFeatures."""

    def __init__(self, channels: Sequence[int], sizes: TransformerSizes) -> None:
        super().__init__()
        width = sizes.width
        self.input_proj = nn.Conv2d(channels[3], width, 1)
        self.transformer = PixelTransformer(sizes)
        self.adapter_1, self.adapter_2, self.adapter_3 = (NormedConv((wide, width), 1) for wide in channels[:3])
        self.layer_1, self.layer_2, self.layer_3, self.layer_4 = (NormedConv((width, width), 3) for _ in range(4))
        self.mask_features = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> PixelFeatures:
        res2, res3, res4, res5 = maps
        y32 = functional.relu(self.layer_4(self.transformer(self.input_proj(res5))))
        y16 = self._step(self.adapter_3, self.layer_3, res4, y32)
        y8 = self._step(self.adapter_2, self.layer_2, res3, y16)
        y4 = self._step(self.adapter_1, self.layer_1, res2, y8)
        return PixelFeatures((y32, y16, y8), self.mask_features(y4))

    @staticmethod
    def _step(adapter: nn.Module, layer: nn.Module, finer: Tensor, coarser: Tensor) -> Tensor:
        """One step down the pyramid: the coarser map is enlarged by repeating pixels and added to the finer one."""
        enlarged = functional.interpolate(coarser, size=finer.shape[-2:], mode="nearest")
        return torch.relu(layer(adapter(finer) + enlarged))
