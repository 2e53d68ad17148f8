"""SEEM's pixel decoders: the feature pyramid and the deformable one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

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


POINTS = 4
LEVELS = 3
Shape = tuple[int, int]


class DeformableAttention(nn.Module):
    """Every token looks at 4 points of each level, near its own place; where exactly, it decides itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.sampling_offsets = nn.Linear(width, heads * LEVELS * POINTS * 2)
        self.attention_weights = nn.Linear(width, heads * LEVELS * POINTS)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)

    def forward(self, query: Tensor, places: Tensor, tokens: Tensor, shapes: Sequence[Shape]) -> Tensor:
        """``query`` and ``tokens (B, N, D)`` of all levels in a row; ``places (N, 2)``, each token's own x, y in 0..1."""
        value = torch.unflatten(self.value_proj(tokens), -1, (self.heads, -1))
        offsets = torch.unflatten(self.sampling_offsets(query), -1, (self.heads, LEVELS, POINTS, 2))
        weights = torch.unflatten(self.attention_weights(query), -1, (self.heads, -1)).softmax(-1)
        scale = torch.tensor([(width, height) for height, width in shapes], dtype=query.dtype, device=query.device)
        points = places[None, :, None, None, None] + offsets / scale[:, None]
        levels = torch.split(value, [height * width for height, width in shapes], dim=1)
        sampled = [_sample(v, shape, points[:, :, :, i]) for i, (v, shape) in enumerate(zip(levels, shapes, strict=True))]
        weights = weights.permute(0, 2, 1, 3).flatten(0, 1)[:, None]
        mixed = (torch.cat(sampled, dim=-1) * weights).sum(-1)
        out: Tensor = self.output_proj(torch.unflatten(mixed, 0, (len(query), self.heads)).permute(0, 3, 1, 2).flatten(2))
        return out


def _sample(value: Tensor, shape: Shape, points: Tensor) -> Tensor:
    """One level's values ``(B, h * w, heads, d)`` read at ``points (B, N, heads, P, 2)`` as ``(B * heads, d, N, P)``."""
    image = torch.unflatten(value.permute(0, 2, 3, 1).flatten(0, 1), -1, shape)
    grid = 2 * points.transpose(1, 2).flatten(0, 1) - 1
    return functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class DeformableLayer(nn.Module):
    """A post-norm transformer layer with deformable attention over tokens ``(B, N, D)``."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        width = sizes.width
        self.self_attn = DeformableAttention(width, sizes.heads)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, sizes.feed_forward)
        self.linear2 = nn.Linear(sizes.feed_forward, width)

    def forward(self, x: Tensor, position: Tensor, places: Tensor, shapes: Sequence[Shape]) -> Tensor:
        x = self.norm1(x + self.self_attn(x + position, places, x, shapes))
        out: Tensor = self.norm2(x + self.linear2(functional.relu(self.linear1(x))))
        return out


class DeformableTransformer(nn.Module):
    """Three maps ``(B, D, h, w)`` look at each other; the same three shapes come back."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.zeros(LEVELS, sizes.width))
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(DeformableLayer(sizes) for _ in range(sizes.depth))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        shapes = [(int(m.shape[2]), int(m.shape[3])) for m in maps]
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        position = torch.cat([self._position(m, level) for level, m in enumerate(maps)], dim=1)
        places = torch.cat([_pixel_centres(shape, tokens) for shape in shapes])
        for layer in self.encoder.get_submodule("layers").children():
            tokens = layer(tokens, position, places, shapes)
        parts = torch.split(tokens, [height * width for height, width in shapes], dim=1)
        return [torch.unflatten(part.transpose(1, 2), 2, shape) for part, shape in zip(parts, shapes, strict=True)]

    def _position(self, image: Tensor, level: int) -> Tensor:
        sine = sine_position(image.shape[2], image.shape[3], image.shape[1], image.device)
        return sine.flatten(2).transpose(1, 2) + self.level_embed[level]


class DeformablePixelDecoder(nn.Module):
    """Backbone maps at strides 4, 8, 16, 32 to PixelFeatures; computed in float32 whatever comes in."""

    def __init__(self, channels: Sequence[int], sizes: TransformerSizes) -> None:
        super().__init__()
        width = sizes.width
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(wide, width, 1), nn.GroupNorm(32, width)) for wide in reversed(channels[1:])
        )
        self.transformer = DeformableTransformer(sizes)
        self.adapter_1 = NormedConv((channels[0], width), 1)
        self.layer_1 = NormedConv((width, width), 3)
        self.mask_features = nn.Conv2d(width, width, 1)

    def forward(self, maps: Sequence[Tensor]) -> PixelFeatures:
        with torch.autocast(maps[0].device.type, enabled=False):
            res2, *coarser = (m.float() for m in maps)
            y32, y16, y8 = self.transformer([p(m) for p, m in zip(self.input_proj, reversed(coarser), strict=True)])
            enlarged = functional.interpolate(y8, size=res2.shape[-2:], mode="bilinear", align_corners=False)
            y4 = functional.relu(self.layer_1(self.adapter_1(res2) + enlarged))
            return PixelFeatures((y32, y16, y8), self.mask_features(y4))


def _pixel_centres(shape: Shape, like: Tensor) -> Tensor:
    """The centres ``(h * w, 2)`` of a map's pixels as x, y in 0..1."""
    height, width = shape
    rows = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
    columns = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)
