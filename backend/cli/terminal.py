"""Messages to the person at the terminal, on standard error; results alone go to standard output."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from backend.values.errors import MaskloomError, SetupError

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """A line of news."""
    console.print(escape(message))


def say_error(error: MaskloomError) -> None:
    """One line that says what happened and what to do."""
    console.print(f"[red]maskloom:[/] {escape(str(error))}")


def write_text(path: Path, text: str, option: str) -> None:
    """Write a file that an ``option`` names. Raises SetupError, which says so, when that cannot be done."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror}; choose another place with {option}") from error
