"""A row of examples as a value: how one is written and read, and those that were read a while ago, which are not read again."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from backend.values.masks import RunLengths
from backend.values.session import Example, Verdict
from prompts.geometry import Size

LONGEST_LABEL = 300
PINNED, REMOVED = "pinned", "removed"
"""What a person says about an example: it is always used first, or never."""
MOST_KNOWN_BYTES = 32 << 20
"""Examples that are not read again, with their addresses, which may hold whole images."""
CONTENT = (
    "region",
    "label",
    "image_url",
    "task",
    "height",
    "width",
    "runs",
    "verdict",
    "annotator",
    "engine",
    "iou",
    "made_at",
)
"""The columns by which rows of one annotation are the same."""


def example_of(row: Any, is_pinned: bool = False) -> Example:
    """The example of a row of ``examples``."""
    runs = RunLengths.of_coco(row.runs, Size(row.height, row.width))
    origin = (row.project, row.task, row.annotation, row.region, row.image_url, row.label)
    return Example(*origin, runs, Verdict(row.verdict), row.annotator, row.engine, row.made_at, row.iou, is_pinned)


def row_of(example: Example) -> dict[str, Any]:
    """A new row."""
    origin = ("project", "task", "annotation", "region", "image_url", "annotator", "engine", "iou")
    names = {name: getattr(example, name) for name in origin}
    label = None if example.label is None else example.label[:LONGEST_LABEL]
    size, code = example.runs.size, example.runs.coco_counts().encode("ascii")
    facts = {"verdict": str(example.verdict), "made_at": example.made_at or time.time(), "mark": PINNED * example.is_pinned}
    stamp = secrets.randbelow((1 << 63) - 1) + 1
    return {**names, **facts, "label": label, "height": size.height, "width": size.width, "runs": code, "stamp": stamp}


def content_of(row: Any) -> tuple[Any, ...]:
    """What a row says."""
    return tuple(row[name] for name in CONTENT)


def nbytes_of(example: Example) -> int:
    return len(example.image_url) + example.runs.edges.nbytes


class KnownExamples:
    """Examples by the stamp of their row, for many threads: a row is not changed but for its mark, and no two have the same
    stamp, whereas SQLite uses the number of a deleted row again. Rows of databases from before stamps have 0.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[int, Example] = OrderedDict()
        self._nbytes = 0

    def read(self, chosen: Sequence[Any], read: Callable[[Sequence[int]], Iterable[Any]]) -> list[Example]:
        """The examples of rows of which ``id``, ``mark`` and ``stamp`` are told, in order; ``read`` gets the numbers of those
        that must be read, and gives whole rows.
        """
        with self._lock:
            known = {row.stamp: self._known[row.stamp] for row in chosen if row.stamp in self._known}
            for stamp in known:
                self._known.move_to_end(stamp)
        missing = [row.id for row in chosen if row.stamp not in known]
        fresh = {row.id: example_of(row) for row in read(missing)} if missing else {}
        self._keep({row.stamp: fresh[row.id] for row in chosen if row.id in fresh and row.stamp})
        found = ((known.get(row.stamp) or fresh[row.id], row.mark == PINNED) for row in chosen)
        return [replace(example, is_pinned=True) if is_pinned else example for example, is_pinned in found]

    def _keep(self, fresh: dict[int, Example]) -> None:
        with self._lock:
            for stamp in fresh.keys() - self._known.keys():
                self._known[stamp] = fresh[stamp]
                self._nbytes += nbytes_of(fresh[stamp])
            while self._nbytes > MOST_KNOWN_BYTES:
                self._nbytes -= nbytes_of(self._known.popitem(last=False)[1])
