"""What a running server measures of itself: how long the stages of an answer take, and what waits or is held at a moment; and
the memory that it gives back."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from time import perf_counter
from typing import Any

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
STAGES = Histogram(
    "maskloom_stage_seconds",
    "Time of a stage: wait (for the engine), encode (a batch of images), decode (masks for prompts), load (an image).",
    ["stage"],
    buckets=_SECONDS,
    registry=None,
)
"""Of this process, whichever server or run asks."""
ANSWERS = Counter(
    "maskloom_answers",
    "Answers about images: masks, nothing (found, and nowhere to say it), sentence (told instead: nothing found, nothing left, "
    "nothing marked), failed (and why, told or logged), refused (a request that cannot be read).",
    ["kind"],
    registry=None,
)
ANSWER_KINDS = ("masks", "nothing", "sentence", "failed", "refused")


@dataclass(slots=True)
class Tracing:
    """OpenTelemetry's tracer, where somebody collects spans."""

    tracer: Any = None

    def span(self, name: str) -> AbstractContextManager[Any]:
        """Around what the span is about, below the span that it happens in; nothing where nobody collects any."""
        return nullcontext() if self.tracer is None else self.tracer.start_as_current_span(name)


TRACING = Tracing()
"""Of this process."""


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Measure a stage, one that fails as well."""
    started = perf_counter()
    try:
        with TRACING.span(name):
            yield
    finally:
        STAGES.labels(name).observe(perf_counter() - started)


@contextmanager
def turn(device: Lock) -> Iterator[None]:
    """Hold the device once it is free."""
    with stage("wait"):
        device.acquire()
    try:
        yield
    finally:
        device.release()


class Moment(Collector):
    """What waits and what is held, asked when somebody scrapes: ``levels`` by name with what each means, and jobs by state."""

    def __init__(self, levels: Mapping[str, tuple[str, Callable[[], float]]], job_states: Callable[[], Iterable[str]]) -> None:
        self._levels = levels
        self._job_states = job_states

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, (meaning, level) in self._levels.items():
            yield GaugeMetricFamily(f"maskloom_{name}", meaning, value=level())
        jobs = GaugeMetricFamily("maskloom_jobs", "Jobs of this process by their state.", labels=["state"])
        for state, number in Tally(self._job_states()).items():
            jobs.add_metric([state], number)
        yield jobs


def resident_bytes() -> float:
    """The memory that this process takes now; where the system does not tell, the most that it has taken."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return float(int(pages) * resource.getpagesize())
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return float(peak if sys.platform == "darwin" else peak * 1024)


GIVEN_BACK_S = 3.0
"""So often freed memory is given back: the allocator keeps what lies between blocks that are still used, for ever. It takes
about 35 ms for 150 MB, and next to nothing where nothing was freed.
"""


@contextmanager
def giving_memory_back() -> Iterator[None]:
    """Meanwhile what was freed goes back to the system now and then."""
    ended = Event()

    def work() -> None:
        while not ended.wait(GIVEN_BACK_S):
            give_memory_back()

    Thread(target=work, name="giving memory back", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def give_memory_back() -> None:
    """Every free page of the heap goes back to the system. Only glibc keeps them, and can be told; others are left alone."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
