"""Single flight: work that several callers want at once is done once, and what came of it is kept within bounds."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds(Generic[T]):
    """What is kept: results for which ``is_kept``, at most ``most_bytes`` of them as ``size_of`` counts, for ``lifetime_s``.

    Those least recently used leave first; ``left`` is told of each that leaves for want of room, one that is larger than
    everything that there may be at once.
    """

    most_bytes: int
    size_of: Callable[[T], int]
    lifetime_s: float = math.inf
    is_kept: Callable[[T], bool] = lambda result: True
    left: Callable[[str, T], None] = lambda key, result: None


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    result: T
    nbytes: int
    since: float = field(default_factory=time.monotonic)


class SingleFlight(Generic[T]):
    """Results by key, for many threads: whoever asks for one that is under way waits for it. Everybody gets the same object."""

    def __init__(self, bounds: Bounds[T]) -> None:
        self.nbytes = 0
        self._bounds = bounds
        self._lock = threading.Lock()
        self._under_way: dict[str, Future[T]] = {}
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()

    def do(self, key: str, work: Callable[[], T]) -> T:
        """The result for a key; ``work`` runs only if nobody has it or is at it. Its error reaches everybody who waits."""
        return self.do_all([key], lambda missing: {key: work()})[0]

    def do_all(self, keys: Sequence[str], work: Callable[[Sequence[str]], Mapping[str, T | Exception]]) -> list[T]:
        """The results for several keys, in order; ``work`` gets those that nobody has or is at, and gives a result or an error
        for each. Raises the first error among them; the others are kept all the same.
        """
        results: list[T] = []
        for each in self.do_each(keys, work):
            if isinstance(each, Exception):
                raise each
            results.append(each)
        return results

    def do_each(self, keys: Sequence[str], work: Callable[[Sequence[str]], Mapping[str, T | Exception]]) -> list[T | Exception]:
        """The same with its error in place of each result that there is not."""
        found, mine, waiting = self._claim(keys)
        results: dict[str, T | Exception] = {**found}
        if mine:
            self._settle(mine, work)
        for key, future in (*mine.items(), *waiting.items()):
            try:
                results[key] = future.result()
            except Exception as error:
                results[key] = error
        return [results[key] for key in keys]

    def _claim(self, keys: Sequence[str]) -> tuple[dict[str, T], dict[str, Future[T]], dict[str, Future[T]]]:
        """What is kept, what the caller must make, and what others are making."""
        found: dict[str, T] = {}
        mine: dict[str, Future[T]] = {}
        waiting: dict[str, Future[T]] = {}
        with self._lock:
            for key in dict.fromkeys(keys):
                kept = self._fresh(key)
                if kept is not None:
                    found[key] = kept.result
                elif key in self._under_way:
                    waiting[key] = self._under_way[key]
                else:
                    mine[key] = self._under_way[key] = Future()
        return found, mine, waiting

    def _fresh(self, key: str) -> _Kept[T] | None:
        """What is kept under a key, from now on the most recently used, unless it is too old."""
        kept = self._kept.get(key)
        if kept is None or time.monotonic() - kept.since < self._bounds.lifetime_s:
            if kept is not None:
                self._kept.move_to_end(key)
            return kept
        self._forget(key)
        return None

    def _settle(self, mine: Mapping[str, Future[T]], work: Callable[[Sequence[str]], Mapping[str, T | Exception]]) -> None:
        """Do the work and tell everybody who waits for it."""
        try:
            made = work(list(mine))
        except BaseException as error:
            with self._lock:
                for key in mine:
                    self._under_way.pop(key).set_exception(error)
            raise
        left: list[tuple[str, T]] = []
        with self._lock:
            for key, future in mine.items():
                del self._under_way[key]
                result = made[key]
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    left += self._keep(key, result)
                    future.set_result(result)
        for key, result in left:
            self._bounds.left(key, result)

    def _keep(self, key: str, result: T) -> list[tuple[str, T]]:
        """What has to leave for a result, or itself."""
        nbytes = self._bounds.size_of(result)
        if not self._bounds.is_kept(result):
            return []
        if nbytes > self._bounds.most_bytes:
            return [(key, result)]
        self._kept[key] = _Kept(result, nbytes)
        self.nbytes += nbytes
        left = []
        while self.nbytes > self._bounds.most_bytes:
            oldest = next(iter(self._kept))
            left.append((oldest, self._forget(oldest)))
        return left

    def _forget(self, key: str) -> T:
        kept = self._kept.pop(key)
        self.nbytes -= kept.nbytes
        return kept.result
