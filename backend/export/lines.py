"""The lines of an export: what has been read of each task, kept so that an export which is stopped goes on where it was.

Of an image a line knows the name, the size, and its masks as COCO's run lengths.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pycocotools import mask as coco

from backend.images.limits import SUFFIXES
from backend.values.errors import WriteError
from backend.values.masks import Region
from prompts.geometry import BoolArray, Size

_UNFIT = re.compile(r"[^\w.\-]+")
LONGEST_STEM = 100


@dataclass(frozen=True, slots=True)
class MaskRow:
    """One mask: its box is ``(x, y, width, height)`` in pixels, ``counts`` COCO's compressed run lengths."""

    label: str
    score: float
    area: int
    box: tuple[int, int, int, int]
    counts: str

    @classmethod
    def of(cls, region: Region) -> MaskRow:
        x0, y0, x1, y1 = region.runs.box or (0, 0, 0, 0)
        box = (x0, y0, x1 - x0, y1 - y0)
        return cls(region.label or "", region.score, region.runs.area, box, region.runs.coco_counts())

    def mask(self, size: Size) -> BoolArray:
        """The mask ``(H, W)``."""
        decoded: BoolArray = coco.decode({"size": [size.height, size.width], "counts": self.counts.encode("ascii")}) > 0
        return decoded


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image of a task with its submitted masks and, where they were asked for, those of a prediction. ``name`` is its file
    name in the export, which no other image has, not even with another ending.
    """

    name: str
    url: str
    task: int
    height: int
    width: int
    masks: tuple[MaskRow, ...]
    predicted: tuple[MaskRow, ...] = ()

    @property
    def size(self) -> Size:
        return Size(self.height, self.width)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> ImageRow:
        masks, predicted = (tuple(_mask_row(each) for each in found[key]) for key in ("masks", "predicted"))
        return cls(**{**found, "masks": masks, "predicted": predicted})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _mask_row(found: Mapping[str, Any]) -> MaskRow:
    return MaskRow(**{**found, "box": tuple(found["box"])})


@dataclass(slots=True)
class FileNames:
    """File names for images, by their addresses: those whose names are the same but for the ending get their key as well."""

    _shared: Counter[str] = field(default_factory=Counter)
    _taken: dict[str, str] = field(default_factory=dict)

    @classmethod
    def over(cls, urls: Iterable[str]) -> FileNames:
        """For all addresses of an export."""
        return cls(Counter(_stem_and_ending(url)[0].lower() for url in urls))

    def of(self, url: str, key: str) -> str:
        """The name of an image; ``key`` is that of its task and page."""
        stem, ending = _stem_and_ending(url)
        name = stem if stem and self._shared[stem.lower()] <= 1 else f"{stem or 'task'}-{key}"
        while self._taken.setdefault(name.lower(), key) != key:
            name += "_"
        return f"{name}{ending}"


def _stem_and_ending(url: str) -> tuple[str, str]:
    """The name of a file behind an address, fit for any disk, and its ending; no name for an image that lies in its address."""
    if url.startswith("data:"):
        return "", ".png"
    parts = urlsplit(url)
    inner = parse_qs(parts.query).get("d", [""])[0]
    path = PurePosixPath(inner or unquote(parts.path))
    ending = path.suffix.lower() if path.suffix.lower() in SUFFIXES else ""
    return _UNFIT.sub("_", path.stem if ending else path.name)[:LONGEST_STEM], ending


Json = dict[str, Any]
LINES = ".export.lines"
"""The name of the file of lines, in the folder of the export; it goes when the export is done."""


@dataclass(frozen=True, slots=True)
class TaskLine:
    """What is exported of one task: its images, what was left out, and, where asked for, the task in Label Studio's words."""

    task: int
    images: tuple[ImageRow, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    agreement: float | None = None
    source: Json = field(default_factory=dict)

    def to_json(self) -> Json:
        left_out = [asdict(each) for each in self.left_out]
        images = [image.to_json() for image in self.images]
        return {"task": self.task, "images": images, "left_out": left_out, "agreement": self.agreement, "source": self.source}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> TaskLine:
        images = tuple(map(ImageRow.from_json, found["images"]))
        left_out = tuple(LeftOut(**each) for each in found["left_out"])
        return cls(found["task"], images, left_out, found["agreement"], found["source"])


@dataclass(slots=True)
class Lines:
    """The lines of an export: the first names the command, then one for each task that was read. What another command left
    there is begun anew.
    """

    folder: Path
    command: str
    _versions: dict[int, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.folder / LINES

    def open(self) -> None:
        """Make ready to go on. Raises WriteError when the folder cannot be written to."""
        with disk_at(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._first() != self.command:
                self.path.write_text(json.dumps(self.command) + "\n", encoding="ascii")
            self._drop_torn_line()
            self._versions = {line["task"]: line["version"] for line in self._whole()}

    def has(self, task: int, version: str) -> bool:
        """Whether a task was read since it was changed last."""
        return self._versions.get(task) == version

    def add(self, line: TaskLine, version: str) -> None:
        """Keep a line so that it lasts; a later one about the same task counts. Raises WriteError when the disk is full."""
        text = (json.dumps({**line.to_json(), "version": version}) + "\n").encode("ascii")
        with disk_at(self.path), self.path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(text) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
        self._versions[line.task] = version

    def read(self, tasks: Sequence[int]) -> Iterator[TaskLine]:
        """The last line of each of these tasks, one in memory at a time."""
        places: dict[int, int] = {}
        offset = 0
        with self.path.open("rb") as file:
            for raw in file:
                if offset:
                    places[int(json.loads(raw)["task"])] = offset
                offset += len(raw)
            for task in tasks:
                if task in places:
                    file.seek(places[task])
                    yield TaskLine.from_json(json.loads(file.readline()))

    def remove(self) -> None:
        """The export is done."""
        self.path.unlink(missing_ok=True)

    def _first(self) -> str:
        try:
            with self.path.open(encoding="ascii") as file:
                return str(json.loads(file.readline()))
        except (OSError, ValueError):
            return ""

    def _drop_torn_line(self) -> None:
        """A line that a crash or a full disk cut short goes; it is the last one."""
        with self.path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(0)
                whole = sum(len(line) for line in file if line.endswith(b"\n"))
                file.truncate(whole)

    def _whole(self) -> Iterator[Mapping[str, Any]]:
        with self.path.open("rb") as file:
            file.readline()
            yield from map(json.loads, file)


@contextmanager
def disk_at(path: Path) -> Iterator[None]:
    """Turn a failure of the disk into a WriteError that says which, and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        told = f"cannot write {path}: {reason}; make room or choose another place, then run the same command again"
        raise WriteError(f"{told}: what was read is kept") from error


def digest_of(*parts: object) -> str:
    """A name for a command."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something of a task that is not exported: an annotation or one of its regions (empty: all of it), and the reason."""

    task: int
    annotation: int
    region: str
    reason: str
