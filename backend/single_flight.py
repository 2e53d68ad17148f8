"""Work that several callers want at once is done once; what is done stays known for a short while."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Results by key: callers of a key that is under way wait for it, and ``keep`` results live for ``lifetime_s``."""

    def __init__(self, most: int, lifetime_s: float) -> None:
        self._most = most
        self._lifetime_s = lifetime_s
        self._lock = threading.Lock()
        self._under_way: dict[str, Future[T]] = {}
        self._kept: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def do(self, key: str, work: Callable[[], T], keep: Callable[[T], bool] = lambda result: False) -> T:
        """The result for a key; ``work`` runs only if nobody has it or is at it. Its error reaches every waiter."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and time.monotonic() - kept[0] < self._lifetime_s:
                return kept[1]
            future = self._under_way.get(key)
            mine = future is None
            if future is None:
                future = self._under_way[key] = Future()
        if mine:
            self._run(key, work, keep, future)
        return future.result()

    def _run(self, key: str, work: Callable[[], T], keep: Callable[[T], bool], future: Future[T]) -> None:
        try:
            result = work()
        except BaseException as error:
            with self._lock:
                del self._under_way[key]
            future.set_exception(error)
            return
        with self._lock:
            del self._under_way[key]
            if keep(result):
                self._kept[key] = (time.monotonic(), result)
                self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        future.set_result(result)
