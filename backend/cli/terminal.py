"""Messages to the person at the terminal, on standard error; results alone go to standard output."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from backend.errors import MaskloomError

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """A line of news."""
    console.print(escape(message))


def say_error(error: MaskloomError) -> None:
    """One line that says what happened and what to do."""
    console.print(f"[red]maskloom:[/] {escape(str(error))}")
