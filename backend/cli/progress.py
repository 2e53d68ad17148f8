"""How a run's progress looks: a bar on a terminal, a line every ten seconds anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backend.bulk.run import Progress as Stand
from backend.cli.terminal import console, say

LINE_EVERY_S = 10.0


@contextmanager
def shown(gpu: Callable[[], str]) -> Iterator[Callable[[Stand], None]]:
    """What is yielded takes how a run stands; ``gpu`` says how busy the GPU is, nothing where there is none."""
    if not console.is_terminal:
        yield _lines(gpu)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("")

        def watch(stand: Stand) -> None:
            bar.update(task, total=stand.total, completed=stand.done + stand.failed, description=_words(stand, gpu()))

        yield watch


def _lines(gpu: Callable[[], str]) -> Callable[[Stand], None]:
    last = time.monotonic()

    def watch(stand: Stand) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            left = f", {stand.left_s / 60:.0f} min left" if stand.left_s is not None else ""
            say(f"{stand.done + stand.failed:,} of {stand.total:,}{left}, {_words(stand, gpu())}")

    return watch


def _words(stand: Stand, gpu: str) -> str:
    return f"{stand.rate:.2f} images/s, {stand.failed:,} failed{', ' + gpu if gpu else ''}"
