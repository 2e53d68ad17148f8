"""Messages to the person at the terminal, on standard error; results alone go to standard output."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from backend.engines.bundle import missing_for
from backend.engines.catalogue import find_engine
from backend.values.errors import MaskloomError, SetupError, WriteError
from backend.values.settings import Settings

STOPPED = 130
"""The exit code after Ctrl-C or SIGTERM."""
console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """A line of news."""
    console.print(escape(message))


class News(logging.Handler):
    """Says what is logged of progress."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def say_progress() -> None:
    """Have how far a very large image or a long film is said as news, which is logged otherwise."""
    for logger in map(logging.getLogger, ("backend.tiling", "backend.video.following")):
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, News) for handler in logger.handlers):
            logger.addHandler(News())


def say_error(error: MaskloomError) -> None:
    """One line that says what happened and what to do."""
    console.print(f"[red]maskloom:[/] {escape(str(error))}")


def read_settings(label_studio_url: str | None = None, label_studio_token: str | None = None) -> Settings:
    """The settings, with what the command line says of Label Studio in their place. Raises SetupError that names each setting
    that cannot be, and why, never its value, which may be secret.
    """
    given = {"label_studio_url": label_studio_url, "label_studio_token": label_studio_token}
    try:
        return Settings(**{name: value for name, value in given.items() if value})  # type: ignore[arg-type]
    except ValidationError as error:
        told = (f"{_variable(each['loc'])}: {each['msg']}" for each in error.errors(include_input=False, include_url=False))
        raise SetupError(f"a setting cannot be used, {'; '.join(told)}; see the reference of settings") from error


def settings_with_engine() -> Settings:
    """The settings of a command that loads their engine. Raises SetupError for what can be seen to be missing, which is told
    before the networks are imported.
    """
    settings = read_settings()
    recipe = find_engine(settings.engine)
    if problem := missing_for(recipe, settings.weights or recipe.weights_in(settings.home_folder)):
        raise SetupError(problem)
    return settings


def _variable(place: tuple[int | str, ...]) -> str:
    """The environment variable of a setting that pydantic names by its field or by its variable."""
    name = ".".join(map(str, place))
    return name if name.isupper() else f"MASKLOOM_{name.upper()}"


def write_text(path: Path, text: str, option: str) -> None:
    """Write a file that an ``option`` names. Raises WriteError, which says so, when that cannot be done."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror}; choose another place with {option}") from error
