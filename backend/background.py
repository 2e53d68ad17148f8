"""Background work: a thread that takes items from a bounded queue, steps that overlap, and waiting for a service."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Generic, TypeVar

from backend.values.errors import MaskloomError, RemoteError, StoreError

log = logging.getLogger(__name__)

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


PAUSES_S = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0, 60.0, 120.0)
"""Before something is written again while a store cannot be used."""


def insist(write: Callable[[], None], pauses_s: Sequence[float], is_closing: threading.Event) -> None:
    """Write, and again after each pause while the store cannot be used; no pauses are made once something ``is_closing``.
    Raises StoreError when it cannot be used after the last one either.
    """
    for pause_s in pauses_s:
        try:
            write()
        except StoreError as error:
            log.warning("what could not be written is tried again in %g s: %s", pause_s, error)
            is_closing.wait(pause_s)
        else:
            return
    write()


class Worker(Generic[T]):
    """Handles items one after the other in the order in which they came; one that fails is reported and costs no other.

    At most ``most`` items wait, of at most ``most_bytes`` as ``size_of`` counts those that wait or are being handled.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[T], None],
        most: int,
        most_bytes: float = math.inf,
        size_of: Callable[[T], int] = lambda item: 0,
    ) -> None:
        self._name = name
        self._handle = handle
        self._most = most
        self._most_bytes = most_bytes
        self._size_of = size_of
        self._bytes = 0
        self._queue: queue.Queue[T | None] = queue.Queue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def offer(self, item: T) -> bool:
        """Take an item for later, at once; False when there is no room for it, or when the worker is closed."""
        nbytes = self._size_of(item)
        with self._lock:
            if self._is_closed or self._queue.qsize() >= self._most or self._bytes + nbytes > self._most_bytes:
                return False
            self._bytes += nbytes
            self._queue.put(item)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
        return True

    @property
    def waiting(self) -> int:
        """How many items wait."""
        return self._queue.qsize()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self._queue.unfinished_tasks

    def wait(self) -> None:
        """Until everything that was taken has been handled."""
        self._queue.join()

    def close(self, patience_s: float) -> None:
        """Take nothing more, and give what is under way and what waits so many seconds to end."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._queue.put(None)
                self._queue.task_done()
            thread = self._thread
        if thread is not None:
            thread.join(patience_s)
            if thread.is_alive():
                log.warning("%s: %d left undone after %.0f s", self._name, self._queue.qsize(), patience_s)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._handle(item)
            except MaskloomError as error:
                log.warning("%s: %s", self._name, error)
            except Exception:
                log.exception("%s", self._name)
            finally:
                with self._lock:
                    self._bytes -= self._size_of(item)
                self._queue.task_done()


def overlap(pool: Executor, work: Callable[[A], B], items: Iterable[A], depth: int) -> Iterator[B]:
    """The results of ``work`` on items, in the order in which they become ready, with at most ``depth`` items under way.

    Nothing is taken from ``items`` while that many are: a slow consumer holds up what comes before it.
    """
    under_way: set[Future[B]] = set()
    for item in items:
        under_way.add(pool.submit(work, item))
        if len(under_way) >= depth:
            wait(under_way, return_when=FIRST_COMPLETED)
        if ready := next((future for future in under_way if future.done()), None):
            under_way.remove(ready)
            yield ready.result()
    while under_way:
        done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)


class AwayError(RemoteError):
    """Label Studio is away for longer than a run waits for it: that ends the run, and costs no image."""


def wait_for(is_up: Callable[[], bool], stop: threading.Event, patience_s: float) -> None:
    """Return when Label Studio answers, at once if it does. Raises AwayError when patience is over, or when there is a stop."""
    if is_up():
        return
    log.warning("Label Studio does not answer; waiting for it, for at most %.0f s", patience_s)
    started = time.monotonic()
    while not is_up():
        waited = time.monotonic() - started
        if waited > patience_s:
            raise AwayError(f"Label Studio did not answer for {waited:.0f} s; run the same command again when it is back")
        if stop.wait(1.0):
            raise AwayError("stopped while Label Studio did not answer; run the same command again when it is back")
