"""The encoder of words: a photo as a map of joint-space vectors of its places, and a map from which regions are named.

An EfficientNet-Lite2 (Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite", after Tan & Le 2019; the padding is
TensorFlow's) without batch norm: every norm is folded into the convolution before it, in training as at run time. On top a
feature pyramid (Lin et al. 2017), read out at one eighth of the input. A region is named by a linear map of every stage,
pooled: as the map is linear, it is taken at every place once and pooled for any region.

Where nothing was asked for, places that look alike and hang together are grown to masks of whole things.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from backend.engines.device import has_bfloat16
from backend.engines.embedded.evidence import FAINT
from backend.engines.embedded.from_text import grow, grow_again
from backend.engines.embedded.network import Conv, Residual, factor_to
from backend.engines.embedded.views import Answer, Canvas, Reader
from backend.values.masks import Masks, overlaps
from prompts.kinds import Image

EPSILON = 1e-3
STEM = 32
HEAD = 1280
CLASSES = 1000


@dataclass(frozen=True, slots=True)
class Stage:
    """``blocks`` inverted residuals of ``width`` channels; the first has ``stride``, all have ``kernel`` and ``expansion``."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    width: int


LITE2 = (
    Stage(1, 3, 1, 1, 16),
    Stage(3, 3, 2, 6, 24),
    Stage(3, 5, 2, 6, 48),
    Stage(4, 3, 2, 6, 88),
    Stage(4, 5, 1, 6, 120),
    Stage(5, 5, 2, 6, 208),
    Stage(1, 3, 1, 6, 352),
)


class Depthwise(nn.Conv2d):
    """A convolution of each channel by itself; with stride 2 an even map is padded below and on the right first.

    With stride 2 and gradients it is computed in float32: its gradient is twenty times slower in bfloat16 on a CPU.
    """

    def __init__(self, width: int, kernel: int, stride: int) -> None:
        super().__init__(width, width, kernel, stride, kernel // 2 if stride == 1 else 0, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 1 or not torch.is_grad_enabled():
            x = x if self.stride[0] == 1 else padded(x, self.kernel_size[0])
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(padded(x.to(self.weight.dtype), self.kernel_size[0])).to(x.dtype)


def padded(x: Tensor, kernel: int) -> Tensor:
    """A map of even sides with the margin that TensorFlow gives a convolution of stride 2."""
    before, after = (kernel - 2) // 2, (kernel - 1) // 2
    return F.pad(x, (before, after, before, after))


class InvertedResidual(nn.Module):
    """Widen, convolve each channel by itself, narrow; added to the input where the shapes agree (Sandler et al. 2018)."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        wide = inputs * stage.expansion
        self.widen = nn.Conv2d(inputs, wide, 1) if stage.expansion > 1 else None
        self.depthwise = Depthwise(wide, stage.kernel, stride)
        self.narrow = nn.Conv2d(wide, stage.width, 1)
        self.added = stride == 1 and inputs == stage.width

    def forward(self, x: Tensor) -> Tensor:
        wide = x if self.widen is None else F.relu6(self.widen(x))
        found: Tensor = self.narrow(F.relu6(self.depthwise(wide)))
        return x + found if self.added else found


class Backbone(nn.Module):
    """RGB ``(N, 3, H, W)`` in 0..255, sides divisible by 32, to the maps of each stage; see ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, STEM, 3, 2)
        stages, width = [], STEM
        for stage in LITE2:
            strides = [stage.stride] + [1] * (stage.blocks - 1)
            widths = [width] + [stage.width] * (stage.blocks - 1)
            pairs = zip(widths, strides, strict=True)
            stages.append(nn.Sequential(*(InvertedResidual(inputs, stage, stride) for inputs, stride in pairs)))
            width = stage.width
        self.stages = nn.ModuleList(stages)
        self.head = nn.Conv2d(width, HEAD, 1)

    def early(self, image: Tensor) -> Tensor:
        """The map of the second stage ``(N, 24, H/4, W/4)``."""
        x = F.relu6(self.stem(padded((image - 127) / 128, 3)))
        early: Tensor = self.stages[1](self.stages[0](x))
        return early

    def late(self, fourth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The maps of the third stage (48 channels, stride 8), the fifth (120, 16), the last (352, 32) and the head
        (1280, 32), from that of the second.
        """
        eighth = self.stages[2](fourth)
        sixteenth = self.stages[4](self.stages[3](eighth))
        last = self.stages[6](self.stages[5](sixteenth))
        return eighth, sixteenth, last, F.relu6(self.head(last))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The maps at strides 4, 8, 16, 32 and of the head."""
        fourth = self.early(image)
        return (fourth, *self.late(fourth))


def from_pretrained(weights: Mapping[str, Tensor]) -> tuple[Backbone, nn.Linear]:
    """The backbone and the classifier of 1,000 classes from the published weights, whose order is that of the layers."""
    backbone, classifier = Backbone(), nn.Linear(HEAD, CLASSES)
    found = [tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")]
    layers = [part for part in backbone.modules() if isinstance(part, nn.Conv2d)]
    layers.remove(backbone.stem)
    layers.insert(0, backbone.stem)
    with torch.no_grad():
        for layer in layers:
            kernel, scale, shift, mean, variance = found[:5]
            factor = scale / (variance + EPSILON).sqrt()
            layer.weight.copy_(kernel * factor[:, None, None, None])
            assert layer.bias is not None
            layer.bias.copy_(shift - mean * factor)
            found = found[5:]
        classifier.weight.copy_(found[0])
        classifier.bias.copy_(found[1])
    return backbone, classifier


def close_look(backbone: Backbone) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """What a decoder of drawings sees of views: the backbone's maps at strides 8, 16 and 32."""
    return lambda images: backbone(images)[1:4]


STRIDE = 8
ENCODED_SIDE = 512
_STEP = 32
DIM = 128
WIDTHS = (48, 120, 352, HEAD)
PYRAMID = 128
CONTEXT = PYRAMID + WIDTHS[0]
"""Channels of a place's features: those of the pyramid and those of the backbone's third stage."""
CLOSE = WIDTHS[:3]
"""Channels of the maps that the backbone as published makes of a view."""


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


class Classifier(nn.Module):
    """The pretrained backbone and its linear layer as published, and the unit vectors ``(1000, D)`` of its classes' names.

    The backbone that finds places was tuned on a few hundred names; the one it began as knows a thousand. A place is seen as
    the mean of the classes' vectors by their chances, and is as near to any phrase as that is (Norouzi et al. 2014, "Zero-Shot
    Learning by Convex Combination of Semantic Embeddings").
    """

    vectors: Tensor

    def __init__(self, backbone: Backbone | None = None, layer: nn.Linear | None = None, vectors: Tensor | None = None) -> None:
        super().__init__()
        self.backbone = backbone or Backbone()
        self.layer = layer or nn.Linear(HEAD, CLASSES)
        self.register_buffer("vectors", torch.zeros(CLASSES, DIM) if vectors is None else vectors)
        self.requires_grad_(False)

    def forward(self, fourth: Tensor) -> tuple[Tensor]:
        """From the backbone's map at stride 4, which tuning does not change, the mixtures ``(N, D, h, w)`` at stride 32."""
        head = F.avg_pool2d(self.backbone.late(fourth)[-1], 3, 1, 1, count_include_pad=False)
        chance = torch.softmax(self.layer(head.permute(0, 2, 3, 1)).float(), dim=-1)
        mixed: Tensor = chance @ self.vectors.float()
        return (mixed.permute(0, 3, 1, 2),)


def grown(x: Tensor, like: Tensor) -> Tensor:
    """A map at the resolution of another."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear")


def encoded(encoder: PlaceEncoder, image: Image) -> tuple[Tensor, Tensor, Tensor]:
    """An image ``(H, W, 3)`` of any size as the encoder sees it: see ``PlaceEncoder.forward``, without the first axis."""
    (found,) = encoded_by(encoder.backbone, [encoder.read], image)
    context, grid, regions = found
    return context, grid, regions


def encoded_by(
    backbone: Backbone, readers: Sequence[Callable[[Tensor], tuple[Tensor, ...]]], image: Image
) -> list[tuple[Tensor, ...]]:
    """What each of ``readers`` makes of the backbone's map at stride 4 of an image ``(H, W, 3)``, without the first axis."""
    device = next(backbone.parameters()).device
    batch = torch.from_numpy(resized(image, *encoded_shape(image))).to(device).permute(2, 0, 1)[None].float()
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device)):
        fourth = backbone.early(batch.contiguous(memory_format=torch.channels_last))
        found = [read(fourth) for read in readers]
    return [tuple(each[0].float() for each in maps) for maps in found]


def encoded_shape(image: Image, side: int = ENCODED_SIDE) -> tuple[int, int]:
    """Height and width, multiples of 32, with the long side at ``side``, or longer; see ``factor_to``."""
    factor = factor_to(side, image.shape)
    height, width = (max(_STEP, round(extent * factor / _STEP) * _STEP) for extent in image.shape[:2])
    return height, width


def resized(image: Image, height: int, width: int) -> Image:
    """An image at another size; shrinking averages areas, growing interpolates."""
    method = cv2.INTER_AREA if height * width < image.shape[0] * image.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


ALIKE = (0.5, 0.65, 0.8)
"""The cosines from which on places are alike: things, and parts of them that look different."""
MOST_SEEDS = 20
"""How many proposals are made for each of them."""
LEAST_SHARE, MOST_SHARE = 0.002, 0.9
REPEATED = 0.7
LEAST_QUALITY = 0.5
SURE = 4.0


def proposals(grid: Tensor) -> list[NDArray[np.float32]]:
    """Connected places of a grid ``(D, h, w)`` of unit vectors that are alike, as logits ``(h, w)``; none of them twice."""
    found: list[NDArray[np.bool_]] = []
    for alike in ALIKE:
        for piece in _pieces(grid, alike):
            if all((piece & other).sum() < REPEATED * (piece | other).sum() for other in found):
                found.append(piece)
    return [np.where(piece, SURE, FAINT).astype(np.float32) for piece in found]


def _pieces(grid: Tensor, alike: float) -> list[NDArray[np.bool_]]:
    """The image cut up from seeds, the evenest places first: each takes the places around it that are like it."""
    height, width = grid.shape[1:]
    vectors = grid.flatten(1).T
    free = np.ones((height, width), np.bool_)
    even = _evenness(grid)
    found = []
    for _ in range(MOST_SEEDS):
        if free.mean() < LEAST_SHARE:
            break
        seed = int(np.where(free, even, -np.inf).argmax())
        near = (vectors @ vectors[seed]).reshape(height, width).numpy() > alike
        _, pieces = cv2.connectedComponents((near & free).astype(np.uint8), connectivity=4)
        piece = pieces == pieces.ravel()[seed]
        free &= ~piece
        free.ravel()[seed] = False
        if LEAST_SHARE <= piece.mean() <= MOST_SHARE:
            found.append(piece)
    return found


def _evenness(grid: Tensor) -> NDArray[np.float32]:
    """How much every place ``(h, w)`` looks like those around it."""
    around = torch.nn.functional.avg_pool2d(grid[None], 5, 1, 2, count_include_pad=False)[0]
    return np.asarray((grid * around).sum(dim=0).numpy(), np.float32)


def find_everything(reader: Reader, canvas: Canvas) -> list[Answer]:
    """The things of an image, best first, none of them twice."""
    seeds = proposals(canvas.features.grid.float().cpu())
    first = grow(reader, canvas, seeds)
    both = [*first, *grow_again(reader, canvas, first)]
    answers = [answer for answer in both if answer.quality >= LEAST_QUALITY and (answer.logits > 0).any()]
    return once_each(answers)


def once_each(answers: Sequence[Answer]) -> list[Answer]:
    """Answers, best first, of those that cover the same the best."""
    if len(answers) < 2:
        return list(answers)
    best = sorted(answers, key=lambda answer: -answer.quality)
    iou, _ = overlaps(Masks.of_stack(np.stack([answer.logits[::4, ::4] > 0 for answer in best])))
    kept: list[int] = []
    for k in range(len(best)):
        if all(iou[k, j] < REPEATED for j in kept):
            kept.append(k)
    return [best[k] for k in kept]
