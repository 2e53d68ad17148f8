"""How a file is written: it is there as a whole or not at all, whoever dies meanwhile."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

_PART = ".part"
_ABANDONED_S = 3600.0
"""A part as old as this was left by a process that died."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there, which readers and other writers may watch. Raises OSError, upon which
    an older file stays.
    """
    handle, name = tempfile.mkstemp(prefix=path.stem, suffix=_PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def drop_abandoned(folder: Path) -> None:
    """Remove what dead processes were writing into a folder; files that are being written are young and stay."""
    for path in folder.glob(f"*{_PART}"):
        try:
            is_old = time.time() - path.stat().st_mtime > _ABANDONED_S
        except FileNotFoundError:
            continue
        if is_old:
            path.unlink(missing_ok=True)
