"""The convolution blocks that the image encoder and the view decoder are built from."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Conv(nn.Sequential):
    """A 3 x 3 convolution, batch norm and ReLU; ``stride`` 2 halves the map."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """Two 3 x 3 convolutions added to their input (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Conv(width, width)
        norm = nn.BatchNorm2d(width)
        nn.init.zeros_(norm.weight)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), norm)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(self.first(x)))


class Surroundings(nn.Module):
    """Adds to every place what the whole map looks like on average, scaled and shifted (after Hu et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(inplace=True), nn.Linear(width // 2, 2 * width))

    def forward(self, x: Tensor) -> Tensor:
        gate, shift = self.read(x.mean(dim=(2, 3))).chunk(2, dim=1)
        return torch.relu(x * torch.sigmoid(gate)[:, :, None, None] * 2 + shift[:, :, None, None])


def stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    """Half the resolution, then residual blocks."""
    return nn.Sequential(Conv(inputs, outputs, 2), *(Residual(outputs) for _ in range(blocks)))


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """The same network in evaluation, with every batch norm folded into the convolution before it."""
    module.eval()
    for part in module.modules():
        if isinstance(part, nn.Sequential):
            _fold_pairs(part)
    return module


def _fold_pairs(part: nn.Sequential) -> None:
    for k in range(len(part) - 1):
        conv, norm = part[k], part[k + 1]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            part[k] = nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
            part[k + 1] = nn.Identity()
