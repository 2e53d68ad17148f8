"""How a program is run that must not outlive us: a leash process ends it as soon as our end of a pipe closes.

The leash is this module run with ``python -m backend.demo.supervised_process program arguments...``. Its standard input is a
pipe that only the parent holds, so the pipe closes whatever way the parent ends, a crash or SIGKILL included. The program and
all that it starts share the leash's process group, and nothing else is in that group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

TERM_PATIENCE_S = 5.0
ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Program:
    """What to run: a name for messages, the command line, what it adds to our environment, and the file for its output."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log: Path


class Child:
    """A running program, with everything that it starts itself."""

    def __init__(self, program: Program) -> None:
        self.program = program
        program.log.parent.mkdir(parents=True, exist_ok=True)
        with program.log.open("wb") as log:
            self._leash = subprocess.Popen(
                [sys.executable, "-m", "backend.demo.supervised_process", *program.argv],
                env={**os.environ, **program.environment},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process group that the program and its own children are in."""
        return self._leash.pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._leash.poll()

    def last_words(self, lines: int = 5) -> str:
        """The end of its output."""
        text = self.program.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def stop(self) -> None:
        """End the program and wait until it and its children are gone; does nothing to one that has ended."""
        if self._leash.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._leash.stdin.close()
        try:
            self._leash.wait(TERM_PATIENCE_S + 5)
        except subprocess.TimeoutExpired:
            os.killpg(self._leash.pid, signal.SIGKILL)
            self._leash.wait()
        self._end_leftovers()

    def _end_leftovers(self) -> None:
        """What the program started may take a moment longer to end than the program, or not want to."""
        until = time.monotonic() + TERM_PATIENCE_S
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < until:
                os.killpg(self._leash.pid, 0)
                time.sleep(0.02)
            os.killpg(self._leash.pid, signal.SIGKILL)


def hold(argv: Sequence[str]) -> int:
    """Run a program until it ends, standard input closes, or we are told to end; leaves nothing of our group behind."""
    program = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    for number in ENDINGS:
        signal.signal(number, _let_go)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        return program.wait()
    except _Released:
        return _end_patiently(program)
    finally:
        _end_group()


class _Released(Exception):
    """The leash was told to end."""


def _let_go(_number: int, _frame: FrameType | None) -> None:
    raise _Released


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _end_patiently(program: subprocess.Popen[bytes]) -> int:
    _end_group()
    try:
        return program.wait(TERM_PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(0, signal.SIGKILL)
        raise


def _end_group() -> None:
    """Ask everything in our process group to end, except this process."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(hold(sys.argv[1:]))
