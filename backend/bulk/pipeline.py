"""How the steps of many items overlap: images are fetched ahead and answers are written behind while the model works."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from backend.bulk.answers import Answer
from backend.bulk.work import Worker
from backend.stores.ledger import Item, pages

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Flow:
    """How much is under way at once. Memory holds at most ``ahead`` images and ``behind`` sets of masks, and one batch."""

    batch: int = 4
    loaders: int = 4
    writers: int = 2
    ahead: int = 12
    behind: int = 6


def answers(worker: Worker, items: Iterable[Item], version: str, flow: Flow) -> Iterator[Answer]:
    """The answers to items, as they become ready. The model runs in the thread that asks for them."""
    with ThreadPoolExecutor(flow.loaders, "load") as loaders, ThreadPoolExecutor(flow.writers, "write") as writers:
        loaded = overlap(loaders, worker.load, items, flow.ahead)
        segmented = (each for batch in pages(loaded, flow.batch) for each in worker.segment(batch))
        yield from overlap(writers, partial(worker.write, version=version), segmented, flow.behind)


def overlap(pool: Executor, work: Callable[[A], B], items: Iterable[A], depth: int) -> Iterator[B]:
    """The results of ``work`` on items, in the order in which they become ready, with at most ``depth`` items under way.

    Nothing is taken from ``items`` while that many are: a slow consumer holds up what comes before it.
    """
    under_way: set[Future[B]] = set()
    for item in items:
        under_way.add(pool.submit(work, item))
        if len(under_way) >= depth:
            wait(under_way, return_when=FIRST_COMPLETED)
        if ready := next((future for future in under_way if future.done()), None):
            under_way.remove(ready)
            yield ready.result()
    while under_way:
        done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)
