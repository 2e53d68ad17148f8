"""One run from its first item to its last: what is asked for, what arrived, what is told, how it ends, and its report page."""

from __future__ import annotations

import hashlib
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from backend import pictures as pages
from backend.background import overlap
from backend.bulk.reader import BulkJob
from backend.bulk.values import FilmShelf, ItemResult
from backend.images.limits import ImageSource
from backend.labelstudio.api import LabelStudio
from backend.segmenter import EngineSource
from backend.serving.learning import Teach, teach_nothing
from backend.serving.versions import Memories
from backend.stores.album import Album, Picture
from backend.stores.ledger import AGAIN, DONE, FAILED, WAITING, Entry, Item, Ledger, RunRow, in_batches
from backend.stores.snapshots import FrozenMemory
from backend.values.errors import MaskloomError, StoreError, WriteError

log = logging.getLogger(__name__)

SENT_AT_ONCE = 16
SENDS_UNDER_WAY = 2
SETTLING_S = 5.0
"""So long a request of a process that was killed may still take effect in Label Studio."""

Pipeline = Callable[[Iterable[Item]], Iterator[ItemResult]]
"""From items to their results, as they become ready."""


@dataclass(frozen=True, slots=True)
class BulkContext:
    """What all runs of a process share; ``teacher`` makes of a memory what teaches the items of a run."""

    engine: EngineSource
    images: ImageSource
    ledger: Ledger
    album: Album
    studio: Callable[[], LabelStudio]
    memories: Memories | None = None
    teacher: Callable[[FrozenMemory | None], Teach] = lambda memory: teach_nothing
    shelf: FilmShelf | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: of ``total`` items ``done`` are at the target, ``failed`` are given up; ``seconds`` since its start,
    in which ``worked`` items were worked on and ``regions`` found.
    """

    total: int
    done: int = 0
    failed: int = 0
    worked: int = 0
    regions: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Items per second since the start of this process."""
        return self.worked / self.seconds if self.seconds > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """The seconds that are left at this rate; None while it is not known."""
        left = self.total - self.done - self.failed
        return left / self.rate if self.rate > 0 else None


@dataclass(slots=True)
class Run:
    """Works through a job; ``watch`` hears about progress, and ``stop`` ends it after what is under way."""

    context: BulkContext
    job: BulkJob
    watch: Callable[[Progress], None] = lambda progress: None
    stop: threading.Event = field(default_factory=threading.Event)
    id: int = 0
    _progress: Progress = field(default_factory=lambda: Progress(0))
    _started: float = 0.0
    _is_listed: bool = False

    def work(self, pipeline: Pipeline) -> Progress:
        """Ask for the items, segment them, write the results. What arrived before an error stays noted, and the same job goes
        on from there. Raises MaskloomError when the source or the target cannot be used.
        """
        try:
            self.prepare()
            for _ in self._deliveries(pipeline):
                self.watch(self._now())
            self._end()
        except BaseException as error:
            self.stop.set()
            raise self._broken(error) from error
        return self._now()

    @property
    def _ledger(self) -> Ledger:
        return self.context.ledger

    def prepare(self) -> Progress:
        """Open the run in the ledger and ask for the source's items; what was in doubt is settled first."""
        job, ledger = self.job, self._ledger
        self.id = self.id or ledger.open(job.identity)
        self._settle_doubts()
        total = ledger.ask(self.id, self._until_stopped(job.source.items()), AGAIN if job.again else WAITING)
        self._is_listed, left = not self.stop.is_set(), self._left()
        self._progress, self._started = Progress(max(total, left), max(0, total - left)), time.monotonic()
        self.watch(self._progress)
        return self._progress

    def _settle_doubts(self) -> None:
        """What a killed process was sending has arrived or has not: the target knows, after a while."""
        keys, age_s = self._ledger.in_doubt(self.id)
        if keys and not self.stop.wait(max(0.0, SETTLING_S - age_s)):
            arrived = self.job.sink.arrived(keys)
            log.info("%d results were on their way when the last run ended; %d of them arrived", len(keys), len(arrived))
            self._ledger.arrive(self.id, sorted(arrived), sorted(set(keys) - arrived))

    def _deliveries(self, pipeline: Pipeline) -> Iterator[None]:
        most = None if self.job.limit is None else min(self.job.limit, sys.maxsize)
        items = self._until_stopped(islice(self._ledger.waiting(self.id), most))
        with ThreadPoolExecutor(1, "send") as sender:
            yield from overlap(sender, self._deliver, in_batches(pipeline(items), SENT_AT_ONCE), SENDS_UNDER_WAY)

    def _until_stopped(self, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            if self.stop.is_set():
                return
            yield item

    def _deliver(self, results: Sequence[ItemResult]) -> None:
        """Note that results are on their way, write them, note what became of them; in this order."""
        good = [result for result in results if not result.failure]
        again = self._ledger.send(self.id, [_entry(result, result.failure) for result in results])
        self.job.sink.remove(sorted(again.intersection(result.item.key for result in good)))
        refused = self.job.sink.write(good)
        failures = {result.item.key: result.failure for result in results if result.failure} | dict(refused)
        self._ledger.settle(self.id, [_entry(result, failures.get(result.item.key, "")) for result in results])
        self._keep_pictures([result for result in good if result.thumbnail and result.item.key not in refused])
        self._count(results, len(failures))

    def _keep_pictures(self, results: Sequence[ItemResult]) -> None:
        """A sample that does not depend on the order, and the results that are least certain."""
        self.context.album.offer(self.id, "sample", [picture_of(result, _lot(result.item.key)) for result in results])
        unsure = [picture_of(result, result.least_score) for result in results if result.regions]
        self.context.album.offer(self.id, "unsure", unsure)

    def _count(self, results: Sequence[ItemResult], failed: int) -> None:
        before = self._progress
        self._progress = Progress(
            before.total,
            before.done + len(results) - failed,
            before.failed + failed,
            before.worked + len(results),
            before.regions + sum(len(result.regions) for result in results),
        )

    def _now(self) -> Progress:
        p = self._progress
        return Progress(p.total, p.done, p.failed, p.worked, p.regions, time.monotonic() - self._started)

    def _end(self) -> None:
        left = self._left()
        if self._is_listed and not left:
            self._ledger.close(self.id, "finished", "")
        else:
            self._ledger.close(self.id, "stopped", f"{left} items are left" if self._is_listed else "not all items were listed")

    def _left(self) -> int:
        counts = self._ledger.counts(self.id)
        return counts[WAITING] + counts[AGAIN]

    def _broken(self, error: BaseException) -> BaseException:
        """Note why a run broke off; what is wrong with the ledger itself is said in plain words."""
        if isinstance(error, StoreError) and "full" in str(error):
            error = WriteError(f"the disk of the ledger is full ({error}); make room and run the same command again")
        elif isinstance(error, StoreError):
            advice = "let no other program hold it, and run the same command again"
            error = WriteError(f"the ledger cannot be used ({error}); {advice}")
        if self.id and isinstance(error, MaskloomError):
            try:
                self._ledger.close(self.id, "broken", str(error))
            except StoreError:
                log.warning("the ledger cannot be written to")
        return error


def _entry(result: ItemResult, failure: str) -> Entry:
    regions = [] if failure else [[region.label, region.score, region.pixels] for region in result.regions]
    return Entry(result.item.key, result.item.link, FAILED if failure else DONE, failure, regions)


def picture_of(result: ItemResult, rank: float) -> Picture:
    """The thumbnail of a result with what was found on it."""
    names = ", ".join(f"{region.label} {region.score:.2f}" for region in result.regions[:4])
    more = f" and {len(result.regions) - 4} more" if len(result.regions) > 4 else ""
    return Picture(result.item.key, rank, result.item.link, (names or "nothing found") + more, result.thumbnail)


def _lot(key: str) -> float:
    """A number in 0..1 drawn from a key, the same every time."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=6).digest(), "big") / (1 << 48)


MOST_FAILURES = 200
STEPS = 20


@dataclass(slots=True)
class Tally:
    """What adds up over the items of a run."""

    labels: Counter[str] = field(default_factory=Counter)
    scores: list[int] = field(default_factory=lambda: [0] * STEPS)
    per_item: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, items: Iterable[Sequence[Sequence[Any]]]) -> Tally:
        """Add up the regions ``[label, score, pixels]`` of items."""
        tally = cls()
        for regions in items:
            tally.per_item[min(len(regions), 10)] += 1
            for label, score, _ in regions:
                tally.labels[label] += 1
                tally.scores[min(int(score * STEPS), STEPS - 1)] += 1
        return tally


def run_page(ledger: Ledger, album: Album, run: RunRow) -> str:
    """The page of a run as it stands, as HTML."""
    counts = ledger.counts(run.id)
    tally = Tally.of(entry.regions for entry in ledger.entries(run.id, DONE))
    subtitle = f"{run.source} → {run.target}, engine {run.version}, {time.strftime('%Y-%m-%d %H:%M')}"
    facts = [
        ("state", run.state + (f": {run.note}" if run.note else "")),
        ("items at the target", counts[DONE]),
        ("items that failed", counts[FAILED]),
        ("items that are left", counts.total() - counts[DONE] - counts[FAILED] - counts["parked"]),
        ("regions", tally.labels.total()),
    ]
    return pages.page(
        f"Maskloom run {run.id}",
        subtitle,
        [
            pages.table(["", ""], [[name, value if isinstance(value, str) else f"{value:,}"] for name, value in facts]),
            _found(tally),
            _pictures("A sample", album.pictures(run.id, "sample")),
            _pictures("Least certain", album.pictures(run.id, "unsure"), "Their least certain region has the lowest score."),
            _failures(ledger.entries(run.id, FAILED), counts[FAILED]),
        ],
    )


def preview_page(title: str, subtitle: str, pictures: Sequence[Picture], regions: Sequence[Sequence[Sequence[Any]]]) -> str:
    """The page of a sample that was written nowhere, as HTML."""
    return pages.page(title, subtitle, [_found(Tally.of(regions)), _pictures("The sample", pictures)])


def _found(tally: Tally) -> str:
    if not tally.labels:
        return pages.section("What was found", pages.note("Nothing was found. Other labels or aliases may help."))
    most = dict(tally.labels.most_common(30))
    numbers = {("10 or more" if number == 10 else str(number)): tally.per_item[number] for number in sorted(tally.per_item)}
    return pages.section(
        "What was found",
        pages.charts(
            pages.bars("Regions by label", most),
            pages.histogram("Scores of regions", tally.scores),
            pages.bars("Images by number of regions", numbers),
        ),
    )


def _pictures(title: str, pictures: Sequence[Picture], explanation: str = "") -> str:
    if not pictures:
        return ""
    rows = ((picture.jpeg, pages.link(picture.key, picture.link), picture.caption) for picture in pictures)
    return pages.section(title, pages.note(explanation) if explanation else "", pages.sheet(rows))


def _failures(entries: Iterable[Entry], count: int) -> str:
    if not count:
        return ""
    rows = [[pages.link(entry.key, entry.link), entry.reason] for _, entry in zip(range(MOST_FAILURES), entries, strict=False)]
    more = pages.note(f"{count - MOST_FAILURES:,} more") if count > MOST_FAILURES else ""
    return pages.section("Failures", pages.table(["item", "reason"], rows), more)
