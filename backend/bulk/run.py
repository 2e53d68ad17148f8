"""One run from its first item to its last: what is asked for, what arrived, what is told, and how it ends."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import sqlalchemy as sql

from backend.bulk.sinks import Sink
from backend.bulk.sources import Source
from backend.bulk.values import Answer
from backend.bulk.work import overlap
from backend.stores.album import Album, Picture
from backend.stores.ledger import AGAIN, DONE, FAILED, WAITING, Entry, Item, Ledger, RunIdentity, pages
from backend.values.errors import MaskloomError, SetupError

log = logging.getLogger(__name__)

SENT_AT_ONCE = 16
SENDS_UNDER_WAY = 2
SETTLING_S = 5.0
"""So long a request of a process that was killed may still take effect in Label Studio."""

Answering = Callable[[Iterable[Item]], Iterator[Answer]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run shall do. ``again`` does anew what was done already; ``limit`` is the most items to work on this time."""

    source: Source
    sink: Sink
    identity: RunIdentity
    limit: int | None = None
    again: bool = False


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
    """Works through a plan; ``watch`` hears about progress, and ``stop`` ends it after what is under way."""

    ledger: Ledger
    album: Album
    plan: Plan
    watch: Callable[[Progress], None] = lambda progress: None
    stop: threading.Event = field(default_factory=threading.Event)
    id: int = 0
    _progress: Progress = field(default_factory=lambda: Progress(0))
    _started: float = 0.0
    _is_listed: bool = False

    def work(self, answering: Answering) -> Progress:
        """Ask for the items, answer them, write the answers. Raises MaskloomError when the source or the target cannot be used;
        what arrived until then stays noted, and the same plan goes on from there.
        """
        try:
            self.prepare()
            for _ in self._deliveries(answering):
                self.watch(self._now())
            self._end()
        except BaseException as error:
            self.stop.set()
            raise self._broken(error) from error
        return self._now()

    def prepare(self) -> Progress:
        """Open the run in the ledger and ask for the source's items; what was in doubt is settled first."""
        plan, ledger = self.plan, self.ledger
        self.id = self.id or ledger.open(plan.identity)
        self._settle_doubts()
        total = ledger.ask(self.id, self._until_stopped(plan.source.items()), AGAIN if plan.again else WAITING)
        self._is_listed, left = not self.stop.is_set(), self._left()
        self._progress, self._started = Progress(max(total, left), max(0, total - left)), time.monotonic()
        self.watch(self._progress)
        return self._progress

    def _settle_doubts(self) -> None:
        """What a killed process was sending has arrived or has not: the target knows, after a while."""
        keys, age_s = self.ledger.in_doubt(self.id)
        if keys and not self.stop.wait(max(0.0, SETTLING_S - age_s)):
            arrived = self.plan.sink.arrived(keys)
            log.info("%d answers were on their way when the last run ended; %d of them arrived", len(keys), len(arrived))
            self.ledger.arrive(self.id, sorted(arrived), sorted(set(keys) - arrived))

    def _deliveries(self, answering: Answering) -> Iterator[None]:
        items = self._until_stopped(islice(self.ledger.waiting(self.id), self.plan.limit))
        with ThreadPoolExecutor(1, "send") as sender:
            yield from overlap(sender, self._deliver, pages(answering(items), SENT_AT_ONCE), SENDS_UNDER_WAY)

    def _until_stopped(self, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            if self.stop.is_set():
                return
            yield item

    def _deliver(self, answers: Sequence[Answer]) -> None:
        """Note that answers are on their way, write them, note what became of them; in this order."""
        good = [answer for answer in answers if not answer.failure]
        again = self.ledger.send(self.id, [_entry(answer, answer.failure) for answer in answers])
        self.plan.sink.remove(sorted(again.intersection(answer.item.key for answer in good)))
        refused = self.plan.sink.write(good)
        failures = {answer.item.key: answer.failure for answer in answers if answer.failure} | dict(refused)
        self.ledger.settle(self.id, [_entry(answer, failures.get(answer.item.key, "")) for answer in answers])
        self._keep_pictures([answer for answer in good if answer.thumbnail and answer.item.key not in refused])
        self._count(answers, len(failures))

    def _keep_pictures(self, answers: Sequence[Answer]) -> None:
        """A sample that does not depend on the order, and the answers that are least certain."""
        self.album.offer(self.id, "sample", [picture_of(answer, _lot(answer.item.key)) for answer in answers])
        unsure = [picture_of(answer, answer.least_score) for answer in answers if answer.regions]
        self.album.offer(self.id, "unsure", unsure)

    def _count(self, answers: Sequence[Answer], failed: int) -> None:
        before = self._progress
        self._progress = Progress(
            before.total,
            before.done + len(answers) - failed,
            before.failed + failed,
            before.worked + len(answers),
            before.regions + sum(len(answer.regions) for answer in answers),
        )

    def _now(self) -> Progress:
        p = self._progress
        return Progress(p.total, p.done, p.failed, p.worked, p.regions, time.monotonic() - self._started)

    def _end(self) -> None:
        left = self._left()
        if self._is_listed and not left:
            self.ledger.close(self.id, "finished", "")
        else:
            self.ledger.close(self.id, "stopped", f"{left} items are left" if self._is_listed else "not all items were listed")

    def _left(self) -> int:
        counts = self.ledger.counts(self.id)
        return counts[WAITING] + counts[AGAIN]

    def _broken(self, error: BaseException) -> BaseException:
        """Note why a run broke off; what is wrong with the ledger itself is said in plain words."""
        if isinstance(error, sql.exc.OperationalError) and "full" in str(error.orig):
            error = SetupError(f"the disk of the ledger is full ({error.orig}); make room and run the same command again")
        elif isinstance(error, sql.exc.OperationalError):
            advice = "let no other program hold it, and run the same command again"
            error = SetupError(f"the ledger cannot be used ({error.orig}); {advice}")
        if self.id and isinstance(error, MaskloomError):
            try:
                self.ledger.close(self.id, "broken", str(error))
            except sql.exc.SQLAlchemyError:
                log.warning("the ledger cannot be written to")
        return error


def _entry(answer: Answer, failure: str) -> Entry:
    regions = [] if failure else [[region.label, region.score, region.pixels] for region in answer.regions]
    return Entry(answer.item.key, answer.item.link, FAILED if failure else DONE, failure, regions)


def picture_of(answer: Answer, rank: float) -> Picture:
    """The stamp of an answer with what was found on it."""
    names = ", ".join(f"{region.label} {region.score:.2f}" for region in answer.regions[:4])
    more = f" and {len(answer.regions) - 4} more" if len(answer.regions) > 4 else ""
    return Picture(answer.item.key, rank, answer.item.link, (names or "nothing found") + more, answer.thumbnail)


def _lot(key: str) -> float:
    """A number in 0..1 drawn from a key, the same every time."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=6).digest(), "big") / (1 << 48)
