"""Trainings that Label Studio asks for: each is a process of its own, one at a time for a project, whose progress is logged."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
from collections.abc import Sequence

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-c", "from backend.cli.memory import train_as_told; train_as_told()")

MOST = 2


class Trainings:
    """Starts trainings of projects and logs what they say. A process gets the server's own ``settings`` as JSON through its
    standard input, where no list of processes shows them.
    """

    def __init__(self, settings: str, command: Sequence[str] = COMMAND) -> None:
        self._settings = settings
        self._command = tuple(command)
        self._ended = threading.Condition()
        self._under_way: dict[str, subprocess.Popen[str]] = {}

    def start(self, project: str) -> None:
        """Begin a training, unless one of the project, or several, are under way."""
        with self._ended:
            if project in self._under_way or len(self._under_way) >= MOST:
                log.warning("project %s is not trained: %d trainings are under way", project, len(self._under_way))
                return
            process = subprocess.Popen(
                [*self._command, project],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self._under_way[project] = process
        threading.Thread(target=self._report, args=(project, process), name="training", daemon=True).start()

    def wait(self) -> None:
        """Until no training is under way."""
        with self._ended:
            self._ended.wait_for(lambda: not self._under_way)

    def close(self) -> None:
        """End what is under way: a training that has not ended changes nothing."""
        with self._ended:
            for process in self._under_way.values():
                process.terminate()

    def _report(self, project: str, process: subprocess.Popen[str]) -> None:
        with process:
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # of one that ended at once
                    pipe.write(self._settings)
            for line in process.stdout or ():
                log.info("training of project %s: %s", project, line.rstrip())
        if process.returncode:
            log.warning("the training of project %s ended with exit code %d", project, process.returncode)
        with self._ended:
            del self._under_way[project]
            self._ended.notify_all()
