"""The networks for what is drawn: prompt features of a view, and the decoder that answers one view.

Prompt features are what the image itself says about a prompt: every pixel's vote, by likeness to the prompt's own pixels. A
kernel estimate of foreground against background (Nadaraya 1964, Watson 1964) in the manner of GrabCut (Rother et al. 2004):
seeds vote for the pixels that look like them, and the outcome votes again. Three likenesses are used: colour and texture,
the same nearby, and the image encoder's joint-space vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAP_SIDE = 48
"""Prompt maps are kept at half the resolution of a view, votes are cast at a quarter and seeds are kept at an eighth."""
VOTE_SIDE = 24
KEY_SIDE = 12
ROUNDS = 3

POSITIVE, NEGATIVE, BOX, ROUGH, PREVIOUS, SAID = range(6)
"""The prompt maps: clicks and strokes of either sign, the filled box, a polygon or mask, the previous answer, and how much
each place looks like the phrase or the reference.
"""
MAPS = 6
VOTES = 6
FLAGS = 4
CHANNELS = MAPS + VOTES + FLAGS


def gather(image: Tensor, maps: Tensor, grid: Tensor) -> Tensor:
    """All evidence ``(N, 16, 48, 48)`` for views ``image (N, 3, 96, 96)`` in 0..1 with prompt maps ``(N, 6, 48, 48)``.

    ``grid (N, D, 24, 24)`` are joint-space vectors under each view, zero where unknown: a view that has none gets no votes
    from them.
    """
    small = F.avg_pool2d(image, image.shape[-1] // MAP_SIDE)
    prior = _prior(maps)
    votes = [_votes(features, prior, maps) for features in _likenesses(small, grid)]
    votes[-1] = votes[-1] * grid.abs().amax(dim=(1, 2, 3)).gt(0).to(maps)[:, None, None, None]
    flags = maps[:, [POSITIVE, BOX, PREVIOUS, SAID]].amax(dim=(2, 3), keepdim=True).gt(0.1).to(maps)
    return torch.cat([maps, *votes, flags.expand(-1, -1, MAP_SIDE, MAP_SIDE)], dim=1)


def _prior(maps: Tensor) -> Tensor:
    """Where the object is to begin with ``(N, 1, 48, 48)``: the most telling prompt map that is not empty."""
    prior = _near_clicks(maps[:, POSITIVE : POSITIVE + 1])
    for kind in (SAID, BOX, ROUGH, PREVIOUS):
        this = maps[:, kind : kind + 1]
        prior = torch.where(this.amax(dim=(2, 3), keepdim=True) > 0.1, this, prior)
    return prior


def _near_clicks(clicks: Tensor) -> Tensor:
    small = F.max_pool2d(clicks, 4)
    spread = F.avg_pool2d(F.avg_pool2d(small, 5, 1, 2), 5, 1, 2)
    grown = F.interpolate(spread, size=clicks.shape[2:], mode="bilinear")
    return grown / grown.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)


def _likenesses(small: Tensor, grid: Tensor) -> list[Tensor]:
    """Feature maps ``(N, F, 48, 48)``, the last one ``(N, F, 24, 24)``, in which likeness is ``exp(-distance² / 2)``."""
    red, green, blue = small.unbind(dim=1)
    colour = torch.stack([(red + green + blue) / 3, (red - green) / 2, (red + green) / 4 - blue / 2], dim=1)
    spread = colour.std(dim=(2, 3), keepdim=True).mean(dim=1, keepdim=True)
    around = blurred(colour)
    rough = (blurred(colour[:, :1] ** 2) - around[:, :1] ** 2).clamp(min=0).sqrt()
    look = torch.cat([colour, around, rough], dim=1) / (0.5 * spread + 0.02)
    where = _places(small)
    joint = torch.cat([smoothed(grid) * 4, _places(grid) / 0.5], dim=1)
    found = [look, torch.cat([look * 0.8, where / 0.2], dim=1), joint]
    return [features.contiguous(memory_format=torch.channels_last) for features in found]


def smoothed(grid: Tensor) -> Tensor:
    """Every place with an eighth of each neighbour, across and down: what doubling bilinearly and halving by areas gives."""
    side = grid.shape[-1]
    band = 0.75 * torch.eye(side) + 0.125 * (_shifted(side, -1) + _shifted(side, 1))
    return _both_ways(grid, band)


def blurred(maps: Tensor) -> Tensor:
    """The mean of the 5 x 5 places around each that lie on the map."""
    side = maps.shape[-1]
    near = torch.ones(side, side).triu(-2).tril(2)
    return _both_ways(maps, near / near.sum(dim=1, keepdim=True))


def _both_ways(maps: Tensor, weights: Tensor) -> Tensor:
    """Maps ``(..., S, S)`` whose columns and rows are mixed by ``weights (S, S)``."""
    weights = weights.to(maps)
    return weights @ (maps @ weights.T)


def _shifted(side: int, by: int) -> Tensor:
    """The matrix ``(S, S)`` that takes every place from its neighbour, and those at the rim from themselves."""
    return torch.eye(side)[(torch.arange(side) + by).clamp(0, side - 1)]


def _places(like: Tensor) -> Tensor:
    side = like.shape[-1]
    steps = (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) / side
    down, across = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([across, down]).expand(len(like), -1, -1, -1)


def _votes(features: Tensor, prior: Tensor, maps: Tensor) -> Tensor:
    """The first and the last vote ``(N, 2, 48, 48)``."""
    keys, voters = _places_of(features, KEY_SIDE), _places_of(features, VOTE_SIDE)
    shrunk = [F.adaptive_avg_pool2d(m, KEY_SIDE).flatten(1) for m in (prior, maps[:, :1], maps[:, 1:2])]
    start, positive, negative = shrunk
    among = _likeness(keys, keys)
    first = _seeds(start, positive, negative)
    last = first
    for _ in range(ROUNDS - 1):
        last = _seeds(_ratio(among, last) * (start > 0.05), positive, negative)
    likeness = _likeness(voters, keys)
    answers = torch.stack([_ratio(likeness, first), _ratio(likeness, last)], dim=1).view(-1, 2, VOTE_SIDE, VOTE_SIDE)
    return F.interpolate(answers, size=(MAP_SIDE, MAP_SIDE), mode="bilinear")


def _places_of(features: Tensor, side: int) -> Tensor:
    """Feature maps ``(N, F, S, S)`` as ``side * side`` places ``(N, P, F)``."""
    step = features.shape[-1] // side
    return (F.avg_pool2d(features, step) if step > 1 else features).flatten(2).transpose(1, 2)


def _seeds(belief: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Voting weights ``(N, keys, 2)`` for and against, each side summing to one."""
    weights = torch.stack([belief + 4 * positive, 1 - belief + 4 * negative], dim=2).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)


def _ratio(likeness: Tensor, seeds: Tensor) -> Tensor:
    heard = likeness @ seeds
    return (heard[..., 0] + 1e-7) / (heard.sum(dim=2) + 2e-7)


def _likeness(queries: Tensor, keys: Tensor) -> Tensor:
    """``exp(-|q - k|² / 2)`` between ``(N, Q, F)`` and ``(N, K, F)``: ``(N, Q, K)``; never so small that arithmetic slows."""
    here, there = queries.square().sum(dim=2) / 2, keys.square().sum(dim=2) / 2
    distance = torch.baddbmm(there.unsqueeze(1), queries, keys.transpose(1, 2), beta=-1)
    return distance.sub_(here.unsqueeze(2)).clamp_(-30, 0).exp_()


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


STRETCHED, MOST_STRETCHED = 2, 32
"""From which ratio of its sides on an image is a panorama, and from which on it gets no longer."""


def factor_to(side: int, shape: Sequence[int]) -> float:
    """The factor by which an image ``(H, W, ...)`` gets a long side of ``side``. A panorama gets a longer one: its short side
    stays half as long as ``side`` until it has twice the area of a square image, so that what it shows does not vanish.
    """
    short, long = sorted(shape[:2])
    ratio = min(max(long / short, STRETCHED), MOST_STRETCHED)
    return side / long * min(ratio, math.sqrt(8 * ratio)) / STRETCHED


DECODER_WIDTHS = (24, 48, 80, 128)


class Close(nn.Module):
    """What the pretrained backbone sees in a view itself, its maps ``(N, width, ...)``, finest first, added up."""

    def __init__(self, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, 96, 1) for width in widths)
        norm = nn.BatchNorm2d(outputs)
        nn.init.zeros_(norm.weight)
        self.read = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(96, outputs, 3, 1, 1, bias=False), norm)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *finer, last = (lateral(each) for lateral, each in zip(self.lateral, maps, strict=True))
        for each in reversed(finer):
            last = each + F.interpolate(last, size=each.shape[2:], mode="bilinear")
        read: Tensor = self.read(last)
        return read


class ViewDecoder(nn.Module):
    """Views ``(N, 3, 96, 96)`` in 0..1, prompt maps ``(N, 6, 48, 48)``, joint-space vectors ``(N, D, 24, 24)``, the encoder's
    features of the image under the view ``(N, context, 24, 24)``, and the backbone's maps of the view itself, ``close``
    channels each, to logits ``(N, 96, 96)`` and the logit ``(N,)`` of the IoU that the mask will have with the object.
    """

    def __init__(self, context: int, close: Sequence[int]) -> None:
        super().__init__()
        a, b, c, d = DECODER_WIDTHS
        self.context = nn.Sequential(nn.Conv2d(context, 96, 1), nn.ReLU(inplace=True), Conv(96, b))
        self.close = Close(close, b)
        self.stem = Conv(3, 16, 2)
        self.halved = nn.Sequential(Conv(16 + CHANNELS, a), Residual(a))
        self.quarter, self.eighth = stage(a, b, 2), stage(b, c, 2)
        self.coarse = nn.Sequential(stage(c, d, 1), Surroundings(d), Residual(d))
        self.down = nn.ModuleList([nn.Conv2d(d, c, 1), nn.Conv2d(c, b, 1), nn.Conv2d(b, a, 1)])
        self.join = nn.ModuleList([Residual(c), Residual(b), Residual(a)])
        self.mask = nn.Sequential(Conv(a, a), nn.Conv2d(a, 4, 1), nn.PixelShuffle(2))
        self.quality = nn.Sequential(nn.Linear(d + 2 * a + 4, 64), nn.ReLU(inplace=True), nn.Linear(64, 1))

    def forward(
        self, image: Tensor, maps: Tensor, grid: Tensor, context: Tensor, close: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            seen = gather(image, maps, grid)
        half = self.halved(torch.cat([self.stem(image * 4 - 2), seen], dim=1))
        quarter = self.quarter(half) + self.context(context) + self.close(close)
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
