"""How often and how long something is tried again that may succeed the next time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from backend.values.errors import RemoteError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """At most ``attempts`` within ``total_s``; the pauses begin with ``first_wait_s`` and double, give or take a half, so
    that many who failed together do not come back together. A pause that the server asks for takes their place.
    """

    total_s: float
    first_wait_s: float
    attempts: int = 4

    def persist(self, attempt: Callable[[float], T]) -> T:
        """The result of ``attempt(deadline)``, a time of ``time.monotonic``. Raises RemoteError when patience is over, or
        when trying again is of no use.
        """
        deadline = time.monotonic() + self.total_s
        tried = 0
        while True:
            try:
                return attempt(deadline)
            except RemoteError as error:
                tried += 1
                wait = self._wait(tried) if error.after_s is None else error.after_s
                if not error.is_passing or tried >= self.attempts or time.monotonic() + wait >= deadline:
                    times = f" (tried {tried} times)" if tried > 1 else ""
                    raise RemoteError(f"{error}{times}", error.status, error.after_s) from error
                time.sleep(wait)

    def _wait(self, tried: int) -> float:
        return self.first_wait_s * 2.0 ** (tried - 1) * random.uniform(0.5, 1.5)
