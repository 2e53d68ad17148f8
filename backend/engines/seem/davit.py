"""DaViT, the backbone of SEEM's DaViT-d3 and -d5: attention among the pixels of a window, then among channels.

After Ding et al. 2022, "DaViT: Dual Attention Vision Transformers". Parameter names are those of the official checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

WINDOW = 7


@dataclass(frozen=True, slots=True)
class DaViTConfig:
    """Sizes of a DaViT; ``heads`` counts the heads of window attention and the groups of channel attention."""

    widths: tuple[int, ...]
    heads: tuple[int, ...]
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    paddings: tuple[int, ...]


class ConvEmbedding(nn.Module):
    """A strided convolution with a LayerNorm over channels, ``(B, H, W, C)`` to ``(B, H/s, W/s, D)``: the stem normalises
    after it, the later stages before it.
    """

    def __init__(self, channels: tuple[int, int], kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.is_stem = stride == 4
        self.proj = nn.Conv2d(*channels, kernel, stride, padding)
        self.norm = nn.LayerNorm(channels[1] if self.is_stem else channels[0])

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_stem:
            x = self.norm(x)
        x = self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.norm(x) if self.is_stem else x


class DepthwiseConv(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return out


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [("fc1", nn.Linear(width, 4 * width)), ("act", nn.GELU()), ("fc2", nn.Linear(4 * width, width))]
        self.net = nn.Sequential(OrderedDict[str, nn.Module](layers))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class WindowAttention(nn.Module):
    """Attention among the 7 x 7 pixels of each window; the image is padded with zeros that take part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        x = functional.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        rows, columns = x.shape[1] // WINDOW, x.shape[2] // WINDOW
        x = x.reshape(batch, rows, WINDOW, columns, WINDOW, channels).transpose(2, 3)
        qkv = self.qkv(x.reshape(-1, WINDOW * WINDOW, channels))
        q, k, v = torch.unflatten(qkv, -1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x.reshape(batch, rows, columns, WINDOW, WINDOW, channels).transpose(2, 3)
        return x.reshape(batch, rows * WINDOW, columns * WINDOW, channels)[:, :height, :width]


class ChannelAttention(nn.Module):
    """Attention among the channels of each group, over all pixels of the image."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        q, k, v = torch.unflatten(self.qkv(tokens), -1, (3, self.groups, -1)).permute(2, 0, 3, 4, 1)
        attended = (q * tokens.shape[1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v
        out: Tensor = self.proj(attended.permute(0, 3, 1, 2).flatten(2)).view_as(x)
        return out


class Residual(nn.Module):
    """``x + fn(x)``, or ``x + fn(norm(x))`` where there is a norm."""

    def __init__(self, fn: nn.Module, norm: nn.LayerNorm | None = None) -> None:
        super().__init__()
        self.norm = norm
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.fn(x if self.norm is None else self.norm(x))
        return out


def _block(width: int, name: str, attention: nn.Module) -> nn.Sequential:
    """Depthwise convolution, attention, depthwise convolution, MLP; ``(B, H, W, C)`` to the same."""
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            [
                ("conv1", Residual(DepthwiseConv(width))),
                (name, Residual(attention, nn.LayerNorm(width))),
                ("conv2", Residual(DepthwiseConv(width))),
                ("ffn", Residual(Mlp(width), nn.LayerNorm(width))),
            ]
        )
    )


def _dual_block(width: int, heads: int) -> nn.Sequential:
    spatial = _block(width, "window_attn", WindowAttention(width, heads))
    channel = _block(width, "channel_attn", ChannelAttention(width, heads))
    return nn.Sequential(OrderedDict[str, nn.Module]([("spatial_block", spatial), ("channel_block", channel)]))


class DaViT(nn.Module):
    """Images ``(B, 3, H, W)`` to four maps ``(B, C, H/s, W/s)`` at strides s = 4, 8, 16, 32; H and W divide by 32."""

    def __init__(self, config: DaViTConfig) -> None:
        super().__init__()
        incoming = (3, *config.widths)
        self.convs = nn.ModuleList(
            ConvEmbedding((incoming[i], width), config.kernels[i], 4 if i == 0 else 2, config.paddings[i])
            for i, width in enumerate(config.widths)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(_dual_block(width, heads) for _ in range(depth)))
            for width, heads, depth in zip(config.widths, config.heads, config.depths, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = images.permute(0, 2, 3, 1), []
        for conv, blocks in zip(self.convs, self.blocks, strict=True):
            x = blocks(conv(x))
            maps.append(x.permute(0, 3, 1, 2))
        return maps
