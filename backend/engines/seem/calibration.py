"""How sure SEEM is that a mask shows what a phrase names: the phrase against the vocabulary that SEEM was trained with.

SEEM's own inference returns the one query most similar to a phrase, whether or not the image shows it. To return every
instance and nothing that is absent, a similarity must become a probability. The classes of training are what it competes with.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from backend.engines.seem.coco import PANOPTIC_NAMES, plain_name
from backend.engines.seem.predictor import Predictor
from backend.engines.seem.vocabulary import PLAIN, VocabularyReader

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
