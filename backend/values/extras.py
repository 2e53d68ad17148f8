"""Optional packages: whether they are here, and the command that installs them into this very environment."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from backend.values.errors import SetupError

_ROOT = Path(__file__).parents[2]
"""Of a checkout; elsewhere the folder that packages are installed into."""


def missing_modules(names: Iterable[str]) -> list[str]:
    """Those of some top-level modules that cannot be imported here; none of them is imported."""
    return [name for name in names if importlib.util.find_spec(name) is None]


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
