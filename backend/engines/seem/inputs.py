"""What a SEEM network is given: an image and its prompts in its frame, and names as the mean of many sentences."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image as pillow
from torch import Tensor, nn
from torch.nn import functional

from backend.engines.device import Phrases, VocabularyStore
from backend.engines.seem.pixel_decoders import PixelFeatures
from backend.engines.seem.predictor import Prediction, Predictor
from backend.engines.seem.wiring import Group
from backend.values.features import ImageFeatures
from prompts.encoders.seem import SeemTextEncoder
from prompts.geometry import BoolArray, FloatArray, Size, size_of
from prompts.kinds import Image
from prompts.phrases import fill_templates

Enlargement = Literal["bilinear", "bicubic"]
BACKGROUND = "background"
MOST_ROWS = 4096
MOST_LINES = 128
"""As many lines go through the network at once."""
PLAIN = ("{}.",)
QUICK = (
    "{}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of many {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
)
CLICK_REACH = 1
"""A click is a square of 3 x 3 pixels of the network's input, as in training."""
_THINGS = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking meter,
bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee,
skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup,
fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch,
potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,
refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""
_STUFF = """
banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood, flower, fruit, gravel, house, light, mirror-stuff,
net, pillow, platform, playingfield, railroad, river, road, roof, sand, sea, shelf, snow, stairs, tent, towel, wall-brick,
wall-stone, wall-tile, wall-wood, water-other, window-blind, window-other, tree-merged, fence-merged, ceiling-merged,
sky-other-merged, cabinet-merged, table-merged, floor-other-merged, pavement-merged, mountain-merged, grass-merged, dirt-merged,
paper-merged, food-other-merged, building-other-merged, rock-merged, wall-other-merged, rug-merged
"""


@dataclass(frozen=True, slots=True)
class InputSize:
    """The input that a network expects: the short side in pixels, at most this long a long side, and what sides divide by."""

    short: int
    longest: int
    divisor: int


@dataclass(frozen=True, slots=True)
class InputFrame:
    """One image's place in the network's input: its own ``size``, its ``content`` after resizing, and the ``padded`` whole."""

    size: Size
    content: Size
    padded: Size

    @classmethod
    def of(cls, size: Size, limits: InputSize) -> InputFrame:
        """The frame of an image of this size."""
        short, long = sorted((size.height, size.width))
        scale = min(limits.short / short, limits.longest / long)
        content = Size(max(1, round(size.height * scale)), max(1, round(size.width * scale)))
        padded = Size(*(-(-side // limits.divisor) * limits.divisor for side in (content.height, content.width)))
        return cls(size, content, padded)

    def prepare(self, image: Image) -> Tensor:
        """An image ``(H, W, 3)`` as the network's input ``(1, 3, padded height, padded width)``."""
        resized = pillow.fromarray(image).resize((self.content.width, self.content.height), pillow.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]
        return self._pad(normalise(pixels))

    def place(self, mask: BoolArray) -> Tensor:
        """A mask ``(H, W)`` in the input ``(padded height, padded width)`` bool: every input pixel that it touches."""
        whole = torch.tensor(mask, dtype=torch.float32)[None, None]
        touched = functional.adaptive_max_pool2d(whole, (self.content.height, self.content.width))
        return self._pad(touched)[0, 0] > 0

    def place_clicks(self, points: FloatArray) -> Tensor:
        """Clicks ``(N, 2)`` in pixels of the image as a mask of the input, ``(padded height, padded width)`` bool."""
        mask = torch.zeros(self.padded.height, self.padded.width, dtype=torch.bool)
        scale = (self.content.width / self.size.width, self.content.height / self.size.height)
        for x, y in np.floor(points * scale).astype(int).tolist():
            row, column = min(y, self.content.height - 1), min(x, self.content.width - 1)
            above, left = max(row - CLICK_REACH, 0), max(column - CLICK_REACH, 0)
            mask[above : row + CLICK_REACH + 1, left : column + CLICK_REACH + 1] = True
        return mask

    def enlarge(self, logits: Tensor, how: Enlargement = "bilinear") -> Tensor:
        """Mask logits ``(N, h, w)`` over the input, at the image's full size ``(N, H, W)``."""
        full = (self.size.height, self.size.width)
        return functional.interpolate(self.crop(logits)[None], full, mode=how, antialias=how == "bicubic")[0]

    def crop(self, logits: Tensor) -> Tensor:
        """Mask logits ``(N, h, w)`` over the input, at the size of its content, without the padding."""
        padded = functional.interpolate(logits[None], (self.padded.height, self.padded.width), mode="bilinear")
        return padded[0, :, : self.content.height, : self.content.width]

    def spread(self, mask: Tensor) -> BoolArray:
        """A mask ``(h, w)`` bool of the content at the image's full size ``(H, W)``."""
        full = (self.size.height, self.size.width)
        spread: BoolArray = functional.interpolate(mask[None, None].float(), full, mode="bilinear")[0, 0].cpu().numpy() >= 0.5
        return spread

    def content_cells(self, shape: tuple[int, int]) -> tuple[int, int]:
        """How many rows and columns of a map ``(h, w)`` over the input show the image and not its padding."""
        rows = round(self.content.height * shape[0] / self.padded.height)
        columns = round(self.content.width * shape[1] / self.padded.width)
        return max(1, rows), max(1, columns)

    def _pad(self, image: Tensor) -> Tensor:
        right, bottom = self.padded.width - image.shape[-1], self.padded.height - image.shape[-2]
        return functional.pad(image, (0, right, 0, bottom))


def frame_of(image: Image, limits: InputSize) -> InputFrame:
    """The frame of an image ``(H, W, 3)``."""
    return InputFrame.of(size_of(image), limits)


GRID_LEVEL = 2
"""The grid lies at stride 8, on the finest of the three feature levels."""


@dataclass(frozen=True, slots=True)
class SeemImage:
    """An image in its frame: its pixels' features, and what the object queries saw in it before anything was asked."""

    frame: InputFrame
    pixels: PixelFeatures
    objects: Prediction

    @classmethod
    def unpack(cls, features: ImageFeatures, limits: InputSize, device: torch.device) -> SeemImage:
        """The other direction of ``pack``, on the network's device: features that were kept on disk come back on the CPU."""
        tensors = {name: tensor.to(device) for name, tensor in features.tensors.items()}
        levels = (tensors["level_0"], tensors["level_1"], tensors["level_2"])
        embedding = tensors["embedding"]
        place = torch.zeros(len(embedding), dtype=torch.long, device=embedding.device)
        objects = Prediction(embedding, tensors["mask_embedding"], place + Group.OBJECT, place)
        return cls(InputFrame.of(features.size, limits), PixelFeatures(levels, tensors["mask_features"]), objects)

    def pack(self, objectness: Tensor) -> ImageFeatures:
        """Everything as tensors, with the joint-space grid; ``objectness (Q,)`` is how sure each object query is."""
        levels = {f"level_{i}": level for i, level in enumerate(self.pixels.levels)}
        tensors = {
            **levels,
            "mask_features": self.pixels.mask_features,
            "embedding": self.objects.embedding,
            "mask_embedding": self.objects.mask_embedding,
        }
        return ImageFeatures(self.frame.size, self._grid(objectness).cpu(), tensors)

    def _grid(self, objectness: Tensor) -> Tensor:
        """What each place shows, as unit vectors ``(D, h, w)`` that can be compared with text: the mean embedding of the
        object queries, each weighted by how sure it is of itself and of the place.
        """
        level = self.pixels.levels[GRID_LEVEL]
        size = (int(level.shape[2]), int(level.shape[3]))
        logits = self.objects.masks(functional.interpolate(self.pixels.mask_features, size, mode="bilinear"))
        rows, columns = self.frame.content_cells(size)
        weight = (objectness * mask_quality(logits))[:, None, None] * logits.sigmoid()[:, :rows, :columns]
        unit = functional.normalize(self.objects.embedding, dim=-1)
        return functional.normalize(torch.einsum("qd,qhw->dhw", unit, weight), dim=0)


MEAN = (123.675, 116.28, 103.53)


STD = (58.395, 57.12, 57.375)


class SegmentationHead(nn.Module):
    """A pixel decoder and a mask decoder."""

    def __init__(self, pixel_decoder: nn.Module, predictor: Predictor) -> None:
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor


class SeemNetwork(nn.Module):
    """The network; its state dict has the layout of the official checkpoints."""

    def __init__(self, backbone: nn.Module, pixel_decoder: nn.Module, predictor: Predictor) -> None:
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = SegmentationHead(pixel_decoder, predictor)

    @property
    def predictor(self) -> Predictor:
        return self.sem_seg_head.predictor

    @property
    def device(self) -> torch.device:
        return self.predictor.class_embed.device

    def encode(self, images: Tensor) -> PixelFeatures:
        """Images ``(B, 3, H, W)``, RGB in 0..255, normalised and padded (see ``normalise``)."""
        features: PixelFeatures = self.sem_seg_head.pixel_decoder(self.backbone(images))
        return features


def normalise(image: Tensor) -> Tensor:
    """Images ``(B, 3, H, W)`` of RGB in 0..255 around zero, as the network was trained; to be padded with zeros after it."""
    mean, std = (torch.tensor(values, device=image.device)[:, None, None] for values in (MEAN, STD))
    return (image.float() - mean) / std


def mask_quality(mask_logits: Tensor) -> Tensor:
    """The mean probability inside each mask of ``(N, h, w)``, ``(N,)``; 0 for an empty one."""
    inside = (mask_logits > 0).float()
    total = (mask_logits.sigmoid() * inside).sum(dim=(1, 2))
    return total / (inside.sum(dim=(1, 2)) + 1e-6)


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(","))


THINGS = _names(_THINGS)
STUFF = _names(_STUFF)
PANOPTIC_NAMES = THINGS + STUFF
"""Things first; a class is a place in this list."""


def plain_name(name: str) -> str:
    """A class name without what COCO adds to tell classes apart, as SEEM reads it: ``sky-other-merged`` is ``sky``."""
    for addition in ("-other", "-merged", "-stuff"):
        name = name.replace(addition, "")
    return name


class VocabularyReader:
    """Names into the joint space: each name's phrases fill the templates, and the mean of the unit vectors is its row.

    Rows are remembered in memory and in a store; all that are missing are computed together.
    """

    def __init__(self, text: SeemTextEncoder, store: VocabularyStore | None) -> None:
        self._text = text
        self._store = store
        self._known: OrderedDict[tuple[Phrases, Phrases], Tensor] = OrderedDict()

    def read(self, names: Sequence[Phrases], templates: Phrases) -> Tensor:
        """Unit vectors ``(N, D)`` of N names, each with one or more phrases."""
        wanted = dict.fromkeys(names)
        found = {name: row for name in wanted if (row := self._find(name, templates)) is not None}
        missing = [name for name in wanted if name not in found]
        for name, row in zip(missing, self._compute(missing, templates), strict=True):
            found[name] = row
            if self._store is not None:
                self._store.keep(name, templates, row)
        for name, row in found.items():
            self._remember((name, templates), row)
        return torch.stack([found[name] for name in names])

    def with_background(self, names: Sequence[str], templates: Phrases) -> Tensor:
        """Unit vectors ``(N + 1, D)`` of N names and of "background", as the class logits of SEEM want them."""
        return self.read([(name,) for name in (*names, BACKGROUND)], templates)

    def _find(self, name: Phrases, templates: Phrases) -> Tensor | None:
        known = self._known.get((name, templates))
        return known if known is not None or self._store is None else self._store.find(name, templates)

    def _compute(self, names: Sequence[Phrases], templates: Phrases) -> list[Tensor]:
        lines = [[line for phrase in name for line in fill_templates(phrase, templates)] for name in names]
        flat = [line for name in lines for line in name]
        parts = [self._text.encode_text(flat[start : start + MOST_LINES]) for start in range(0, len(flat), MOST_LINES)]
        counts = [len(name) for name in lines]
        means = [rows.mean(dim=0) for rows in torch.split(torch.cat(parts), counts)] if parts else []
        return [torch.nn.functional.normalize(mean, dim=0) for mean in means]

    def _remember(self, key: tuple[Phrases, Phrases], row: Tensor) -> None:
        self._known[key] = row
        self._known.move_to_end(key)
        while len(self._known) > MOST_ROWS:
            self._known.popitem(last=False)


NAMES = tuple(plain_name(name) for name in PANOPTIC_NAMES)


class TrainedVocabulary:
    """The 133 classes of training and "background" as rows of the joint space."""

    def __init__(self, predictor: Predictor, reader: VocabularyReader) -> None:
        self._predictor = predictor
        self._reader = reader

    def class_logits(self, embedding: Tensor) -> Tensor:
        """How well ``(Q, D)`` fit each class and, last, "background": ``(Q, 134)``."""
        return self._predictor.class_logits(embedding, self._rows(embedding))

    def objectness(self, embedding: Tensor) -> Tensor:
        """How sure it is that queries ``(Q, D)`` show anything, ``(Q,)``."""
        return 1 - self.class_logits(embedding).softmax(dim=-1)[:, -1]

    def chance(self, embedding: Tensor, phrase: str, sentence: Tensor, negatives: Tensor) -> Tensor:
        """The probability ``(Q,)`` that queries ``(Q, D)`` show a phrase with the vector ``sentence (D,)``, and not one of the
        other classes, the negative phrases ``(N, D)`` or nothing.

        Classes that share a word with the phrase, and the one closest to it in meaning, do not compete: they are it.
        """
        classes = self._rows(embedding)
        meaning = torch.nn.functional.normalize(sentence, dim=0)
        competes = torch.tensor([not _share_a_word(phrase, name) for name in NAMES] + [True], device=classes.device)
        competes[int((classes[:-1] @ meaning).argmax())] = False
        rows = torch.cat([meaning[None], negatives.to(meaning), classes[competes]])
        return self._predictor.class_logits(embedding, rows).softmax(dim=-1)[:, 0]

    def _rows(self, like: Tensor) -> Tensor:
        return self._reader.with_background(NAMES, PLAIN).to(like)


def _share_a_word(phrase: str, name: str) -> bool:
    return bool(_words(phrase) & _words(name))


def _words(text: str) -> set[str]:
    return {word.removesuffix("s") for word in re.findall(r"[a-z]+", text.lower())}
