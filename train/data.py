"""The folder of photos with masks and names: which rows exist, what may be trained on, and what an absent name means."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

VOID = 255
CUTOUTS = "emoji_cutouts"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of an index: where the photo and its mask lie, and the name of every mask id."""

    image: Path
    mask: Path | None
    names: dict[int, str]
    source: str
    split: str
    kind: str
    exhaustive: str | None
    incomplete: frozenset[str]
    extra: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Photo:
    """A decoded row: ``image (H, W, 3)`` RGB uint8 and ``ids (H, W)`` uint8, all zero where there is no mask.

    ``absent`` are names that are certainly not in the photo; ``alpha (H, W)`` is there for cutouts only.
    """

    row: Row
    image: NDArray[np.uint8]
    ids: NDArray[np.uint8]
    absent: tuple[str, ...]
    alpha: NDArray[np.uint8] | None = None

    @property
    def regions(self) -> list[int]:
        """The mask ids that cover at least 16 pixels."""
        counts = np.bincount(self.ids.ravel(), minlength=256)
        return [k for k in range(1, VOID) if counts[k] >= 16]

    def text_names(self) -> tuple[str, ...]:
        """The names whose every instance is in the mask."""
        present = {self.row.names[k] for k in self.regions if k in self.row.names}
        return tuple(sorted(present - self.row.incomplete))

    def name_mask(self, name: str) -> NDArray[np.bool_]:
        """Every pixel ``(H, W)`` that carries a name."""
        return np.isin(self.ids, [k for k, known in self.row.names.items() if known == name])


def read_rows(folder: Path) -> list[Row]:
    """Every row of every source below a folder, in a fixed order. Raises FileNotFoundError where there is no index."""
    indexes = sorted(folder.glob("*/index.jsonl"))
    if not indexes:
        raise FileNotFoundError(f"no */index.jsonl below {folder}: give the folder that holds one folder per source")
    return [_read_row(index.parent, json.loads(line)) for index in indexes for line in index.read_text().splitlines() if line]


def _read_row(folder: Path, raw: dict[str, object]) -> Row:
    labels: dict[str, str] = raw["labels"]  # type: ignore[assignment]
    complete = raw.get("text_complete", {})
    if isinstance(complete, dict):
        incomplete = frozenset(name for name, whole in complete.items() if not whole)
    else:
        incomplete = frozenset() if complete else frozenset(labels.values())
    return Row(
        image=folder / str(raw["image"]),
        mask=folder / str(raw["mask"]) if raw["mask"] else None,
        names={int(key): name for key, name in labels.items()},
        source=str(raw["source"]),
        split=str(raw["split"]),
        kind=str(raw["kind"]),
        exhaustive=str(raw["exhaustive"]) if raw.get("exhaustive") else None,
        incomplete=incomplete,
        extra={key: raw[key] for key in ("sequence", "frame", "group", "cutout") if key in raw},
    )


def closed_vocabularies(rows: Iterable[Row]) -> dict[str, frozenset[str]]:
    """For every value of ``exhaustive``: the names whose absence from such a row is certain."""
    names: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.exhaustive:
            names[row.exhaustive] |= set(row.names.values())
    return {key: frozenset(found) for key, found in names.items()}


def load(rows: Sequence[Row], vocabularies: dict[str, frozenset[str]], workers: int = 2) -> list[Photo]:
    """Rows as decoded photos, kept in memory so that training never waits for a file."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda row: _load(row, vocabularies), rows))


def _load(row: Row, vocabularies: dict[str, frozenset[str]]) -> Photo:
    raw = cv2.imread(str(row.image), cv2.IMREAD_UNCHANGED if row.extra.get("cutout") else cv2.IMREAD_COLOR)
    if raw is None:
        raise FileNotFoundError(f"{row.image} cannot be read as an image")
    alpha = raw[:, :, 3].copy() if raw.ndim == 3 and raw.shape[2] == 4 else None
    image = np.ascontiguousarray(raw[:, :, :3][:, :, ::-1])
    ids = _read_ids(row, image.shape[:2])
    present = set(row.names.values())
    absent = tuple(sorted(vocabularies.get(row.exhaustive or "", frozenset()) - present))
    return Photo(row, image, ids, absent, alpha)


def _read_ids(row: Row, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if row.mask is None:
        return np.zeros(shape, np.uint8)
    from PIL import Image  # OpenCV turns palettes into colours

    with Image.open(row.mask) as file:
        ids = np.array(file, np.uint8)
    if ids.shape != tuple(shape):
        ids = cv2.resize(ids, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
    return ids
