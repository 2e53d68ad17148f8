"""The networks of the embedded engine: the image encoder, and the decoder of one view."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from backend.engines.embedded import prompt_features


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


STRIDE = 8
ENCODER_WIDTHS = (24, 32, 64, 128, 192)
PYRAMID = 96
DIM = 128


class ImageEncoder(nn.Module):
    """RGB ``(N, 3, H, W)`` in 0..1, sides divisible by 32, to features ``(N, 96, H/8, W/8)``; see ``embed`` for the grid."""

    def __init__(self) -> None:
        super().__init__()
        w = ENCODER_WIDTHS
        self.stem = nn.Sequential(Conv(3, w[0], 2), stage(w[0], w[1], 1))
        self.eighth = stage(w[1], w[2], 2)
        self.sixteenth = stage(w[2], w[3], 3)
        self.coarse = nn.Sequential(stage(w[3], w[4], 1), Surroundings(w[4]), Residual(w[4]))
        self.lateral = nn.ModuleList(nn.Conv2d(width, PYRAMID, 1) for width in w[2:])
        self.smooth = nn.Sequential(Conv(PYRAMID, PYRAMID), Residual(PYRAMID))
        self.head = nn.Conv2d(PYRAMID, DIM, 1)
        self.text_scale = nn.Parameter(torch.tensor(math.log(16.0)))
        self.text_bias = nn.Parameter(torch.tensor(-6.0))

    def forward(self, image: Tensor) -> Tensor:
        eighth = self.eighth(self.stem(image * 4 - 2))
        sixteenth = self.sixteenth(eighth)
        levels = [lateral(x) for lateral, x in zip(self.lateral, (eighth, sixteenth, self.coarse(sixteenth)), strict=True)]
        merged = levels[2]
        for finer in (levels[1], levels[0]):
            merged = finer + nn.functional.interpolate(merged, size=finer.shape[2:], mode="bilinear")
        smooth: Tensor = self.smooth(merged)
        return smooth

    def embed(self, features: Tensor) -> Tensor:
        """Unit vectors of the joint space ``(N, 128, h, w)`` at every place of the features."""
        return nn.functional.normalize(self.head(features), dim=1)

    def text_logits(self, grid: Tensor, text: Tensor) -> Tensor:
        """How much every place of ``grid (N, D, h, w)`` looks like each of ``text (N, K, D)``: logits ``(N, K, h, w)``."""
        similarity = torch.einsum("ndhw,nkd->nkhw", grid, text)
        return similarity * self.text_scale.exp() + self.text_bias


DECODER_WIDTHS = (24, 48, 80, 128)


class ViewDecoder(nn.Module):
    """Views ``(N, 3, 96, 96)`` in 0..1, prompt maps ``(N, 6, 48, 48)``, joint-space vectors ``(N, D, 24, 24)`` or None, and the
    backbone's features under the view ``(N, context, 24, 24)`` where it was made for them, to logits ``(N, 96, 96)`` and the
    logit ``(N,)`` of the IoU that the mask will have with the object.
    """

    def __init__(self, context: int = 0) -> None:
        super().__init__()
        a, b, c, d = DECODER_WIDTHS
        self.context = nn.Sequential(nn.Conv2d(context, 96, 1), nn.ReLU(inplace=True), Conv(96, b)) if context else None
        self.stem = Conv(3, 16, 2)
        self.halved = nn.Sequential(Conv(16 + prompt_features.CHANNELS, a), Residual(a))
        self.quarter, self.eighth = stage(a, b, 2), stage(b, c, 2)
        self.coarse = nn.Sequential(stage(c, d, 1), Surroundings(d), Residual(d))
        self.down = nn.ModuleList([nn.Conv2d(d, c, 1), nn.Conv2d(c, b, 1), nn.Conv2d(b, a, 1)])
        self.join = nn.ModuleList([Residual(c), Residual(b), Residual(a)])
        self.mask = nn.Sequential(Conv(a, a), nn.Conv2d(a, 4, 1), nn.PixelShuffle(2))
        self.quality = nn.Sequential(nn.Linear(d + 2 * a + 4, 64), nn.ReLU(inplace=True), nn.Linear(64, 1))

    def forward(self, image: Tensor, maps: Tensor, grid: Tensor | None, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            seen = prompt_features.gather(image, maps, grid)
        half = self.halved(torch.cat([self.stem(image * 4 - 2), seen], dim=1))
        quarter = self.quarter(half)
        if self.context is not None and context is not None:
            quarter = quarter + self.context(context)
        eighth = self.eighth(quarter)
        coarse = self.coarse(eighth)
        x = coarse
        for down, join, skip in zip(self.down, self.join, (eighth, quarter, half), strict=True):
            x = join(skip + nn.functional.interpolate(down(x), size=skip.shape[2:], mode="bilinear"))
        logits = self.mask(x)[:, 0]
        return logits, self.quality(_summary(logits.detach(), coarse, x))[:, 0]


def _summary(logits: Tensor, coarse: Tensor, fine: Tensor) -> Tensor:
    """What the quality is judged by ``(N, features)``: the view, what is inside the mask and outside, and how sure it is."""
    chance = torch.sigmoid(nn.functional.avg_pool2d(logits[:, None], 2))
    inside = (fine * chance).sum(dim=(2, 3)) / (chance.sum(dim=(2, 3)) + 1)
    outside = (fine * (1 - chance)).sum(dim=(2, 3)) / ((1 - chance).sum(dim=(2, 3)) + 1)
    area = chance.mean(dim=(2, 3))
    unsure = (chance * (1 - chance)).mean(dim=(2, 3))
    edge = torch.cat([chance[:, :, 0], chance[:, :, -1], chance[:, :, :, 0], chance[:, :, :, -1]], dim=2).mean(dim=2)
    return torch.cat([coarse.mean(dim=(2, 3)), inside, outside, area, unsure, unsure / (area + 0.01), edge], dim=1)
