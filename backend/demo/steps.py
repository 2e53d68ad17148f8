"""How long work is shown to a person: a spinner or a bar on a terminal, one line with the seconds anywhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of one run, one after the other."""

    console: Console

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Work of unknown length; what is yielded takes news about it."""
        started = time.monotonic()
        with self.console.status(f"{escape(name)} ...") as status:
            yield lambda news: status.update(f"{escape(name)}: {escape(news[:100])}")
        self._done(name, started)

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Work on ``total`` things; what is yielded takes how many more are done."""
        started = time.monotonic()
        with Progress(console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            task = progress.add_task(name, total=total)
            yield lambda count: progress.advance(task, count)
        self._done(f"{name} ({total})", started)

    def warn(self, message: str) -> None:
        self.console.print(f"[yellow]{escape(message)}[/]", highlight=False, soft_wrap=True)

    def say(self, message: str) -> None:
        self.console.print(escape(message), highlight=False, soft_wrap=True)

    def _done(self, name: str, started: float) -> None:
        self.say(f"{name}: {time.monotonic() - started:.1f} s")
