"""Background work: one thread that takes items from a bounded queue, begun by the first of them."""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from backend.values.errors import MaskloomError

log = logging.getLogger(__name__)

T = TypeVar("T")


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
