"""Vectors of names that are kept on disk between runs, whichever text encoder they come from."""

from __future__ import annotations

import hashlib
import json
import logging
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend.disk_cache import write_whole

log = logging.getLogger(__name__)

Phrases = tuple[str, ...]


class VocabularyStore:
    """Rows of names in a folder, one file for each (network, phrases, templates); the folder can be deleted at any time.

    ``network`` changes with the encoder's weights. A folder that cannot be written costs speed only: it is reported once, and
    not tried again.
    """

    def __init__(self, folder: Path, network: str) -> None:
        self.folder = folder
        self.network = network
        self._is_writable = True

    def find(self, phrases: Phrases, templates: Phrases) -> Tensor | None:
        """The row ``(D,)`` that was kept, or None; a file that cannot be read counts as missing."""
        try:
            return torch.from_numpy(np.load(self._path(phrases, templates), allow_pickle=False))
        except (OSError, ValueError, EOFError):
            return None

    def keep(self, phrases: Phrases, templates: Phrases, row: Tensor) -> None:
        """Write a row, whole or not at all."""
        if not self._is_writable:
            return
        content = BytesIO()
        np.save(content, row.numpy())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(phrases, templates), content.getvalue())
        except OSError as error:
            log.warning("the vectors of names cannot be kept in %s, they are computed anew: %s", self.folder, error)
            self._is_writable = False

    def _path(self, phrases: Phrases, templates: Phrases) -> Path:
        said = json.dumps([self.network, list(phrases), list(templates)])
        return self.folder / f"{hashlib.blake2b(said.encode(), digest_size=16).hexdigest()}.npy"
