"""Vectors of names that are kept on disk between runs, whichever text encoder they come from."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend.disk_cache import Codec, DiskCache

MOST_BYTES = 256 << 20

Phrases = tuple[str, ...]


class VocabularyStore:
    """Rows of names in a folder, one file for each (network, phrases, templates); the folder can be deleted at any time.

    ``network`` changes with the encoder's weights.
    """

    def __init__(self, folder: Path, network: str) -> None:
        self._rows = DiskCache(folder, network, MOST_BYTES, Codec("the vectors of names", ".npy", _write, _read))

    def find(self, phrases: Phrases, templates: Phrases) -> Tensor | None:
        """The row ``(D,)`` that was kept, or None; a file that cannot be read counts as missing."""
        return self._rows.get(_key(phrases, templates))

    def keep(self, phrases: Phrases, templates: Phrases, row: Tensor) -> None:
        """Write a row, whole or not at all."""
        self._rows.put(_key(phrases, templates), row)


def _key(phrases: Phrases, templates: Phrases) -> str:
    return json.dumps([list(phrases), list(templates)])


def _write(row: Tensor) -> bytes:
    content = BytesIO()
    np.save(content, row.numpy())
    return content.getvalue()


def _read(body: bytes) -> Tensor:
    return torch.from_numpy(np.load(BytesIO(body), allow_pickle=False))
