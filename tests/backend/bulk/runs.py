"""What the tests of bulk runs share: a folder of drawn pictures and the colour engine over it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from backend.assemble import BulkParts, bulk_parts
from backend.bulk.order import Filled, Order, fill
from backend.bulk.run import Answering, Plan, Run
from backend.bulk.values import Answer
from backend.bulk.work import Flow, Worker, answers
from backend.stores.ledger import Item
from backend.values.settings import Settings
from tests.backend.pictures import BLUE, RED, Picture, disc, paint, square


def drawn(number: int) -> Picture:
    """A red disc and a blue square, 64 x 48, somewhere else for every number."""
    return paint(
        {
            "red": (disc(48, 64, 12 + number % 9, 14 + number % 17, 8), RED),
            "blue": (square(48, 64, 36 + number % 7, 6 + number % 23, 12), BLUE),
        }
    )


def picture_folder(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(drawn(number).image).save(folder / f"{number:04d}.png")
    return folder


def parts_for(root: Path | None, home: Path) -> BulkParts:
    return bulk_parts(Settings(engine="colour", home=home), root, threading.Event())


def fill_order(parts: BulkParts, order: Order) -> Filled:
    return fill(order, parts.engine.version, parts.studio, threading.Event())


def answering(parts: BulkParts, filled: Filled, flow: Flow | None = None) -> Answering:
    worker = Worker(parts.images, parts.engine.segmenter, filled.recipe)

    def answer(items: Iterable[Item]) -> Iterator[Answer]:
        return answers(worker, items, parts.engine.version, flow or Flow())

    return answer


def run_of(parts: BulkParts, filled: Filled, limit: int | None = None, again: bool = False) -> Run:
    return Run(parts.ledger, parts.album, Plan(filled.source, filled.sink, filled.identity, limit, again))


def same(mask: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.array_equal(mask, other))
