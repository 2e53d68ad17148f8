"""Which files of this machine may be read: those that really lie under an allowed folder."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from backend.images.limits import too_large
from backend.images.options import ROOTS_SETTING
from backend.values.errors import ImageError


class Folders:
    """The allowed folders. Links are followed first and judged by where they end."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._written = tuple(Path(root).absolute() for root in roots)
        self._roots = tuple(root.resolve() for root in self._written)

    def holds(self, path: Path) -> bool:
        """Whether a path is written as one below an allowed folder; it need not exist."""
        return path.is_absolute() and any(path.is_relative_to(root) for root in self._written + self._roots)

    def find(self, name: str) -> Path:
        """The real path of a file that is named by its whole path. Raises ImageError unless it may be read."""
        _check_name(name)
        if not Path(name).is_absolute():
            raise ImageError(f"expected the whole path of a file, got {name!r}")
        with _readable():
            path = Path(name).resolve()
        if not any(path.is_relative_to(root) for root in self._roots):
            raise ImageError(f"the file does not lie under an allowed folder; set {ROOTS_SETTING} to a folder that holds it")
        return path

    def find_relative(self, name: str) -> Path | None:
        """The real path of a file that is named from an allowed folder; None when no folder has it. Raises ImageError for
        a name that leads out of the folder.
        """
        _check_name(name)
        for root in self._roots:
            with _readable():
                is_there = (root / name).exists()
            if is_there:
                return self.find(str(root / name))
        return None


def read_file(path: Path, most_bytes: int) -> bytes:
    """The bytes of a file. Raises ImageError when it is missing, no plain file, too large or not readable."""
    with _readable():
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise ImageError("it is no plain file")
        if state.st_size > most_bytes:
            raise too_large(most_bytes)
        return path.read_bytes()


def is_escape(name: str) -> bool:
    """Whether a path climbs with ``..``, in either system's spelling."""
    return ".." in PurePosixPath(name.replace("\\", "/")).parts


@contextmanager
def _readable() -> Iterator[None]:
    """The system's refusals in our words."""
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError("there is no such file") from error
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror}") from error
    except RuntimeError as error:  # a loop of links, before Python 3.13
        raise ImageError("the file cannot be read: its links lead in a circle") from error


def _check_name(name: str) -> None:
    if is_escape(name):
        raise ImageError("the path climbs out of its folder with '..'; name the file without it")
    if "\0" in name:
        raise ImageError("the path contains a zero byte")
