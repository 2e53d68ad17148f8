"""Work on films in threads of their own: whoever asks for the same joins it, and gets as much as there is when time is up."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from backend.caches import Bounds
from backend.values.errors import MaskloomError, RequestError

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_RUNNING = 8
ABANDONED_S = 120.0
"""A run that nobody asks about for so long ends: its film may be an hour long."""


class Stopped(Exception):
    """Raised inside the work of a run that nobody wants any more."""


class Run(Generic[T]):
    """One piece of work: ``parts`` are what there is of its result so far and nobody took, of ``nbytes``; ``produced`` is how
    many there were, ``steps`` how often it called ``step``.
    """

    def __init__(self, size_of: Callable[[T], int]) -> None:
        self.nbytes = self.produced = 0
        self.error: Exception | None = None
        self.is_done = False
        self.steps = 0
        self.total = 0
        self.asked_at = self.began_at = time.monotonic()
        self._size_of = size_of
        self._parts: list[T] = []
        self._changed = threading.Condition()
        self._is_stopped = False

    @property
    def parts(self) -> list[T]:
        """What there is so far, in order."""
        with self._changed:
            return list(self._parts)

    def take(self) -> list[T]:
        """The parts that nobody took before, which are kept no longer."""
        with self._changed:
            parts, self._parts, self.nbytes = self._parts, [], 0
            self._changed.notify_all()
        return parts

    @property
    def is_abandoned(self) -> bool:
        return time.monotonic() - self.asked_at > ABANDONED_S

    def step(self) -> None:
        """Called by the work now and then. Raises Stopped when it is not wanted any more."""
        self.steps += 1
        if self._is_stopped or self.is_abandoned:
            raise Stopped

    def wait_for_room(self, most_bytes: int) -> None:
        """Called by work whose parts are taken, while more of them lie there than may. Raises Stopped."""
        with self._changed:
            while self.nbytes > most_bytes and not self._is_stopped and not self.is_abandoned:
                self._changed.wait(1.0)
            if self._is_stopped or self.is_abandoned:
                raise Stopped

    def stop(self) -> None:
        """End at the next step."""
        self._is_stopped = True

    def wait(self, seconds: float) -> bool:
        """Whether it is done within so many seconds."""
        self._wait_for(lambda: self.is_done, seconds)
        return self.is_done

    def wait_for_part(self, seconds: float) -> None:
        """Until there is something to take or it is done, at most so many seconds."""
        self._wait_for(lambda: self.is_done or bool(self._parts), seconds)

    def _wait_for(self, is_there: Callable[[], bool], seconds: float) -> None:
        self.asked_at = time.monotonic()
        with self._changed:
            self._changed.wait_for(is_there, seconds)
        self.asked_at = time.monotonic()

    def left_s(self) -> float:
        """About how many seconds it takes on, by what it took so far."""
        return max(self.total - self.steps, 0) * (time.monotonic() - self.began_at) / max(self.steps, 1)

    def work_through(self, parts: Callable[[Run[T]], Iterable[T]]) -> None:
        """Do the work in the thread at hand; whatever goes wrong becomes its ``error``."""
        try:
            for part in parts(self):
                with self._changed:
                    self._parts.append(part)
                    self.nbytes += self._size_of(part)
                    self.produced += 1
                    self._changed.notify_all()
        except Stopped:
            self.error = RequestError("it was given up, as nobody asked about it any more")
        except Exception as error:
            self.error = error
        with self._changed:
            self.is_done = True
            self._changed.notify_all()


class Runs(Generic[T]):
    """Runs by key, for many threads. Finished ones are kept within ``bounds``, failed ones are not."""

    def __init__(self, bounds: Bounds[T]) -> None:
        self._bounds = bounds
        self._runs: OrderedDict[str, Run[T]] = OrderedDict()
        self._lock = threading.Lock()

    def join(self, key: str, work: Callable[[Run[T]], Iterable[T]]) -> Run[T]:
        """The run of a key, begun now if there is none. Raises RequestError when too many are under way."""
        with self._lock:
            self._tidy(key)
            run = self._runs.get(key)
            if run is not None:
                run.asked_at = time.monotonic()
                self._runs.move_to_end(key)
                return run
            if sum(not each.is_done for each in self._runs.values()) >= MOST_RUNNING:
                raise RequestError(f"{MOST_RUNNING} films are being worked on; ask again when one of them is done")
            run = self._runs[key] = Run(self._bounds.size_of)
        threading.Thread(target=run.work_through, args=(work,), name=f"film {key[:8]}", daemon=True).start()
        return run

    def find(self, key: str) -> Run[T] | None:
        """The run of a key that was begun before."""
        with self._lock:
            return self._runs.get(key)

    def stop(self, key: str) -> None:
        """End a run at its next step, and forget it."""
        with self._lock:
            run = self._runs.pop(key, None)
        if run is not None:
            run.stop()

    def close(self) -> None:
        """End all of them."""
        for key in list(self._runs):
            self.stop(key)

    def _tidy(self, asked: str) -> None:
        """Forget what failed, what is old, and the oldest while there are too many bytes, but for what is asked about."""
        now, held = time.monotonic(), sum(run.nbytes for run in self._runs.values())
        for key, run in list(self._runs.items()):
            is_unwanted = now - run.asked_at > self._bounds.lifetime_s or held > self._bounds.most_bytes
            if run.is_done and (run.error is not None or (is_unwanted and key != asked)):
                held -= run.nbytes
                del self._runs[key]


def check(run: Run[T]) -> None:
    """Raise the error of a run that failed."""
    if isinstance(run.error, MaskloomError):
        raise run.error
    if run.error is not None:
        log.error("a film could not be worked on", exc_info=run.error)
        raise MaskloomError(f"Maskloom failed on the film ({type(run.error).__name__}); its log says more")
