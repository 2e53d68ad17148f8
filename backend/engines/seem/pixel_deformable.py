"""The pixel decoder of SEEM's SAM-ViT models: deformable attention over three strides, in plain PyTorch.

After Zhu et al. 2021, "Deformable DETR", as used in Cheng et al. 2022, "Mask2Former".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from backend.engines.seem.pixel_fpn import NormedConv, PixelFeatures, TransformerSizes
from backend.engines.seem.position import sine_position

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
