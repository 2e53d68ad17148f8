"""The errors of Maskloom, divided by who can fix them.

::

    MaskloomError
    ├── RequestError        the caller: a body, a prompt or a labelling config that cannot be read
    │   ├── NotFoundError   what the caller names: there is no such job, engine or region
    │   ├── ConfigError     the labelling config
    │   ├── ImageError      the image: missing, refused, too large, broken
    │   └── VideoError      the video: no picture in it, a damaged frame, a frame that it does not have
    ├── SetupError          whoever runs Maskloom: settings, weights, a busy port, a missing program
    ├── RemoteError         another service, Label Studio above all, did not answer as it should
    ├── StoreError          the database of the stores: held by somebody else, damaged, full
    └── WriteError          what a command writes: the disk is full or read-only, the ledger is held by somebody else

The error of an optional package that is not here tells the command that installs it into this very environment.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path


class MaskloomError(Exception):
    """Anything that Maskloom says on purpose; the message names what happened, where, and what to do."""


class RequestError(MaskloomError):
    """The caller can fix it."""


class NotFoundError(RequestError):
    """The caller names something that is not there."""


class ConfigError(RequestError):
    """The labelling config cannot be used."""


class ImageError(RequestError):
    """The image of a task cannot be had."""


class VideoError(RequestError):
    """The video of a task cannot be read."""


class SetupError(MaskloomError):
    """Whoever runs Maskloom can fix it."""


class RemoteError(MaskloomError):
    """A service that Maskloom depends on failed.

    ``status`` is its HTTP status, None when it did not answer at all; ``after_s`` the pause that it asked for.
    """

    def __init__(self, message: str, status: int | None = None, after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.after_s = after_s

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status is None or self.status in (408, 425, 429) or self.status >= 500


class StoreError(MaskloomError):
    """What is kept between requests cannot be read or written now; the same may succeed later."""


class WriteError(MaskloomError):
    """What a command makes cannot be written now; its settings are right, and it goes on when it is run again."""


_ROOT = Path(__file__).parents[2]
"""Of a checkout; elsewhere the folder that packages are installed into."""


def missing_modules(names: Iterable[str]) -> list[str]:
    """Those of some top-level modules that cannot be imported here; none of them is imported."""
    return [name for name in names if not _is_there(name)]


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # something on the way to it refuses, or half of it was imported
        return False


def install_command(extra: str) -> str:
    """The command that installs an extra, as one line for a shell.

    In a checkout it is the checkout's own, with its constraints. An installed package may come from anywhere, so that its name
    says nothing to pip: there the command names the packages of the extra, as the package's metadata has them.
    """
    python = [sys.executable, "-m", "pip", "install"]
    if (_ROOT / "pyproject.toml").is_file():
        constraints = ["--constraint", str(_ROOT / "constraints.txt")] if (_ROOT / "constraints.txt").is_file() else []
        return shlex.join([*python, *constraints, "--editable", f"{_ROOT}[{extra}]"])
    return shlex.join([*python, *_requirements(extra)])


def missing_extra(extra: str, what: str, reason: object) -> SetupError:
    """The error of something that cannot be done without an extra, with its cure."""
    return SetupError(f"{what}: run {install_command(extra)} ({reason})")


def _requirements(extra: str) -> list[str]:
    """What the installed package wants for an extra; the extra itself where its metadata is gone."""
    try:
        wanted = importlib.metadata.requires("maskloom") or []
    except importlib.metadata.PackageNotFoundError:
        wanted = []
    ours = [line.partition(";") for line in wanted]
    named = [need.strip() for need, _, mark in ours if mark.replace("'", '"').strip() == f'extra == "{extra}"']
    return named or [f"maskloom[{extra}]"]
