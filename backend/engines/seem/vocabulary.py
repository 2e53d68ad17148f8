"""The names SEEM was trained with, vectors of a vocabulary, and which thresholds they need."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from backend.engines.device import Phrases, VocabularyStore
from backend.engines.seem.predictor import Predictor
from prompts.encoders.seem import SeemTextEncoder
from prompts.phrases import fill_templates

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
