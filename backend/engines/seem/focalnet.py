"""FocalNet, the backbone of SEEM's Focal-T and Focal-L: context is gathered by growing depthwise convolutions, not attention.

After Yang et al. 2022, "Focal Modulation Networks". Parameter names are those of the official checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class FocalNetConfig:
    """Sizes of a FocalNet. ``stem_padding`` and ``block`` are what Focal-T and Focal-L do differently."""

    width: int
    depths: tuple[int, ...]
    levels: int
    stem_padding: int
    block: type[FocalBlock]

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels of the four outputs."""
        return tuple(self.width << stage for stage in range(len(self.depths)))


class ConvEmbedding(nn.Module):
    """A strided convolution and a LayerNorm over channels: images ``(B, C, H, W)`` to ``(B, H/s, W/s, D)``."""

    def __init__(self, channels: tuple[int, int], kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(*channels, kernel, stride, padding)
        self.norm = nn.LayerNorm(channels[1])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return out


class FocalModulation(nn.Module):
    """Every pixel's query times its gated context, ``(B, H, W, C)`` to the same."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.f = nn.Linear(width, 2 * width + levels + 1)
        self.h = nn.Conv2d(width, width, 1)
        self.proj = nn.Linear(width, width)
        self.focal_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3 + 2 * level, padding=1 + level, groups=width, bias=False), nn.GELU())
            for level in range(levels)
        )

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        query, context, gates = self.f(x).split((width, width, self.levels + 1), dim=-1)
        context = context.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        gates = gates.permute(0, 3, 1, 2)
        gathered = torch.zeros_like(context)
        for level, layer in enumerate(self.focal_layers):
            context = layer(context)
            gathered.addcmul_(context, gates[:, level : level + 1])
        whole = functional.gelu(context.mean(dim=(2, 3), keepdim=True))
        gathered.addcmul_(whole, gates[:, self.levels :])
        modulator = self.h(gathered / (self.levels + 1)).permute(0, 2, 3, 1)
        out: Tensor = self.proj(query * modulator)
        return out


class Mlp(nn.Module):
    """Two linear layers with a GELU, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class FocalBlock(nn.Module):
    """A Focal-L block: the LayerNorms sit at the end of the residual branches. ``(B, H, W, C)`` to the same."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.modulation = FocalModulation(width, levels)
        self.mlp = Mlp(width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.gamma_1, self.gamma_2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma_1 * self.norm1(self.modulation(x))
        out: Tensor = x + self.gamma_2 * self.norm2(self.mlp(x))
        return out


class DepthwiseFocalBlock(FocalBlock):
    """A Focal-T block: two depthwise convolutions more, and the LayerNorms after the residual sums."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__(width, levels)
        self.dw1 = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.dw2 = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + _channels_first(self.dw1, x)
        x = self.norm1(x + self.gamma_1 * self.modulation(x))
        x = x + _channels_first(self.dw2, x)
        out: Tensor = self.norm2(x + self.gamma_2 * self.mlp(x))
        return out


class FocalStage(nn.Module):
    """The blocks of one resolution, and the step down to the next."""

    def __init__(self, blocks: Sequence[FocalBlock], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class FocalNet(nn.Module):
    """Images ``(B, 3, H, W)`` to four maps ``(B, C, H/s, W/s)`` at strides s = 4, 8, 16, 32; H and W divide by 32."""

    def __init__(self, config: FocalNetConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.depths) - 1
        self.patch_embed = ConvEmbedding((3, widths[0]), 7, 4, config.stem_padding)
        self.layers = nn.ModuleList(
            FocalStage(
                [config.block(width, config.levels) for _ in range(depth)],
                ConvEmbedding((width, 2 * width), 3, 2, 1) if stage < last else None,
            )
            for stage, (width, depth) in enumerate(zip(widths, config.depths, strict=True))
        )
        for stage, width in enumerate(widths):
            self.add_module(f"norm{stage}", nn.LayerNorm(width))

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = self.patch_embed(images), []
        for number, stage in enumerate(self.layers):
            x = stage(x)
            maps.append(self.get_submodule(f"norm{number}")(x).permute(0, 3, 1, 2))
            if number + 1 < len(self.layers):
                x = stage.get_submodule("downsample")(x.permute(0, 3, 1, 2))
        return maps


def _channels_first(layer: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return out
