"""SEEM's image backbones: FocalNet and SAM's ViT, under the parameter names of the official checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


class FocalMlp(nn.Module):
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
        self.mlp = FocalMlp(width)
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


PATCH = 16
WINDOW = 14
MOST_BIASES = 1 << 26
"""As many position biases exist at once (256 MiB); further heads wait. All heads of SAM-B's whole grid would take 805 MB."""


@dataclass(frozen=True, slots=True)
class SamViTConfig:
    """Sizes of a SAM ViT; ``image_size`` is the side of its fixed square input in pixels."""

    image_size: int
    width: int
    depth: int
    heads: int
    global_layers: tuple[int, ...]

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // PATCH


class PatchEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.proj(images).permute(0, 2, 3, 1)
        return out


class Attention(nn.Module):
    """Self attention over a square of ``side x side`` tokens ``(B, S, S, C)``, with relative positions by row and column."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, width // heads))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = torch.unflatten(self.qkv(x.flatten(1, 2)), -1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        together = max(1, MOST_BIASES // (len(q) * q.shape[2] ** 2))
        heads = zip(*(part.split(together, dim=1) for part in (q, k, v)), strict=True)
        attended = torch.cat([self._attend(*some) for some in heads], dim=1)
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2)).view_as(x)
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=self._position_bias(q))

    def _position_bias(self, q: Tensor) -> Tensor:
        """What each query thinks of each key's row and column: ``(B, heads, S * S, S * S)``."""
        place = torch.arange(self.side, device=q.device)
        distance = place[:, None] - place[None, :] + self.side - 1
        grid = torch.unflatten(q, 2, (self.side, self.side))
        rows = torch.einsum("bnhwc,hkc->bnhwk", grid, self.rel_pos_h[distance])
        columns = torch.einsum("bnhwc,wkc->bnhwk", grid, self.rel_pos_w[distance])
        bias = rows[..., :, None] + columns[..., None, :]
        return bias.flatten(4, 5).flatten(2, 3)


class ViTMlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, 4 * width)
        self.lin2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin2(functional.gelu(self.lin1(x)))
        return out


class Block(nn.Module):
    """A pre-norm transformer block that attends in the whole grid, or in windows of ``side < grid``."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, side)
        self.mlp = ViTMlp(width)

    def forward(self, x: Tensor) -> Tensor:
        side, grid = self.attn.side, x.shape[1]
        y = self.norm1(x)
        y = self.attn(y) if side == grid else _join(self.attn(_split(y, side)), side, grid)
        x = x + y
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class SamViT(nn.Module):
    """Images ``(B, 3, S, S)`` to four maps at strides 4, 8, 16, 32 with 128, 256, 512 and 1024 channels."""

    def __init__(self, config: SamViTConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(config.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid, config.grid, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.grid if i in config.global_layers else WINDOW) for i in range(config.depth)
        )
        self.neck = SimpleFeaturePyramid(config.width)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patch_embed(images) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        maps: list[Tensor] = self.neck(x.permute(0, 3, 1, 2))
        return maps


class SimpleFeaturePyramid(nn.Module):
    """One map ``(B, C, h, w)`` at stride 16 to four at strides 4, 8, 16, 32; every norm is over all channels and pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half, double = max(256, width // 2), max(1024, 2 * width)
        quarter = half // 2
        up_twice = [nn.ConvTranspose2d(width, half, 2, 2), _norm(half), nn.GELU(), nn.ConvTranspose2d(half, quarter, 2, 2)]
        self.down_4 = _sequence(up_twice, [_norm(quarter), nn.Conv2d(quarter, 128, 1), _norm(128), nn.GELU()])
        up_once = [nn.ConvTranspose2d(width, half, 2, 2), _norm(half)]
        self.down_8 = _sequence(up_once, [nn.Conv2d(half, 256, 1), _norm(256), nn.GELU()])
        self.down_16 = _sequence([nn.Conv2d(width, 512, 1), _norm(512), nn.GELU()])
        down_once = [nn.Conv2d(width, double, 2, 2), _norm(double)]
        self.down_32 = _sequence(down_once, [nn.Conv2d(double, 1024, 1), _norm(1024), nn.GELU()])

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.down_4(x), self.down_8(x), self.down_16(x), self.down_32(x)]


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(1, width)


def _sequence(*parts: Iterable[nn.Module]) -> nn.Sequential:
    return nn.Sequential(*(layer for part in parts for layer in part))


def _split(x: Tensor, side: int) -> Tensor:
    """A grid ``(B, S, S, C)`` as windows ``(B * n * n, side, side, C)``, padded with zeros at the right and the bottom."""
    pad = -x.shape[1] % side
    x = functional.pad(x, (0, 0, 0, pad, 0, pad))
    count = x.shape[1] // side
    tiles = x.reshape(len(x), count, side, count, side, -1)
    return tiles.transpose(2, 3).flatten(0, 2)


def _join(windows: Tensor, side: int, grid: int) -> Tensor:
    """The grid ``(B, S, S, C)`` of its windows, without the padding."""
    count = -(-grid // side)
    x = torch.unflatten(windows, 0, (-1, count, count)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)[:, :grid, :grid]
