"""Names as rows of SEEM's joint space: the prompt templates, their mean, and the rows kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prompts.encoders.seem import SeemTextEncoder, load_open_clip
from prompts.phrases import fill_templates

BACKGROUND = "background"
MOST_ROWS = 4096
PLAIN = ("{}.",)
"""One template: a thirtieth of a second for each name on two processors."""
QUICK = (
    "{}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of many {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
)


@dataclass(frozen=True, slots=True)
class VocabularyStore:
    """Rows of names in a folder, one file for each (network, phrases, templates); the folder can be deleted at any time."""

    folder: Path
    network: str

    def find(self, phrases: Sequence[str], templates: Sequence[str]) -> Tensor | None:
        """The row ``(D,)`` that was kept, or None; a file that cannot be read counts as missing."""
        try:
            return torch.from_numpy(np.load(self._path(phrases, templates), allow_pickle=False))
        except (OSError, ValueError, EOFError):
            return None

    def keep(self, phrases: Sequence[str], templates: Sequence[str], row: Tensor) -> None:
        """Write a row, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
            np.save(file, row.numpy())
        os.replace(file.name, self._path(phrases, templates))

    def _path(self, phrases: Sequence[str], templates: Sequence[str]) -> Path:
        said = json.dumps([self.network, list(phrases), list(templates)])
        return self.folder / f"{hashlib.blake2b(said.encode(), digest_size=16).hexdigest()}.npy"


class VocabularyReader:
    """Names into the joint space: each name's phrases fill the templates, and the mean of the unit vectors is its row."""

    def __init__(self, text: SeemTextEncoder, store: VocabularyStore | None) -> None:
        self._text = text
        self._store = store
        self._recall = lru_cache(maxsize=MOST_ROWS)(self._find_or_read)

    def row(self, phrases: Sequence[str], templates: Sequence[str]) -> Tensor:
        """The unit vector ``(D,)`` of a name that has several phrases."""
        return self._recall(tuple(phrases), tuple(templates))

    def rows(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Unit vectors ``(N + 1, D)`` of N names and of "background", as the class logits of SEEM want them."""
        return torch.stack([self.row([name], templates) for name in (*names, BACKGROUND)])

    def _find_or_read(self, phrases: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
        if self._store is not None and (kept := self._store.find(phrases, templates)) is not None:
            return kept
        filled = [line for phrase in phrases for line in fill_templates(phrase, templates)]
        row = torch.nn.functional.normalize(self._text.encode_text(filled).mean(dim=0), dim=0)
        if self._store is not None:
            self._store.keep(phrases, templates, row)
        return row


def all_templates() -> tuple[str, ...]:
    """The 81 templates of SEEM's evaluation: the bare name, and the 80 of CLIP's (Radford et al. 2021)."""
    return (*PLAIN, *(fill("{}") for fill in load_open_clip().OPENAI_IMAGENET_TEMPLATES))
