"""Bulk runs inside the server: queued, watched, cancelled, and the rest of selections that are too long for one request."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from backend.bulk.order import Filled, Order, fill
from backend.bulk.report import run_page
from backend.bulk.run import Plan, Progress, Run
from backend.bulk.sources import Selection
from backend.bulk.values import Answer, Found, Target
from backend.bulk.work import Flow, Worker, answers
from backend.images import ImageSource
from backend.labelstudio.api import LabelStudio
from backend.labelstudio.project_options import Wishes
from backend.labelstudio.shapes import read_regions
from backend.pictures import thumbnail
from backend.serving.base import EngineSource
from backend.stores.album import Album
from backend.stores.ledger import Item, Ledger
from backend.values.errors import MaskloomError, RequestError

log = logging.getLogger(__name__)

MOST_JOBS_KEPT = 100
ONE_AT_A_TIME = Flow(batch=1)
"""A click of an annotator waits for one image of a job at most."""
Predictions = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Kit:
    """What jobs are done with."""

    ledger: Ledger
    album: Album
    images: ImageSource
    engine: EngineSource
    wishes: Wishes
    studio: Callable[[], LabelStudio]


@dataclass(slots=True)
class Job:
    """One job: ``state`` is queued, running, finished, cancelled or failed, ``note`` says why it failed."""

    id: str
    project: str
    state: str = "queued"
    note: str = ""
    progress: Progress = field(default_factory=lambda: Progress(0))
    run: int = 0
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a job is to do, worked out when its turn comes; ``ready`` are predictions that a request has made already."""

    order: Order
    plan: Callable[[Filled], Plan]
    ready: Predictions = field(default_factory=dict)


class Jobs:
    """Jobs of this process, one at a time in the order in which they came; what they did is in the ledger for ever."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._queue = ThreadPoolExecutor(1, "job")

    def start(self, order: Order, limit: int | None = None, again: bool = False) -> Job:
        """Queue an order for a project's predictions; the same order again does what the last one left.

        Raises RequestError, ConfigError or RemoteError when it cannot be filled.
        """
        if not order.source.isdecimal() or order.target not in (None, Target.PREDICTIONS):
            raise RequestError("a job makes predictions of a project; say its number as 'project'")
        job = Job(uuid.uuid4().hex[:12], order.source)
        fill(order, self._kit.engine.version, self._kit.studio, job.stop)

        def plan(filled: Filled) -> Plan:
            return Plan(filled.source, filled.sink, filled.identity, limit, again)

        return self._enqueue(job, Assignment(order, plan))

    def hand_over(self, project: str, tasks: Sequence[str], ready: Predictions) -> bool:
        """Take over the tasks of a request that takes too long, with the predictions that are ``ready``; False when that is not
        possible because Label Studio cannot be written to.
        """
        job = Job(uuid.uuid4().hex[:12], project)
        try:
            chosen = Selection(tasks=frozenset(int(task) for task in tasks))
            order = Order(project, selection=chosen, wanted=self._kit.wishes.of(project))
            fill(order, self._kit.engine.version, self._kit.studio, job.stop)
        except (MaskloomError, ValueError) as error:
            log.info("the rest of the selection cannot be handed to a job: %s", error)
            return False

        def plan(filled: Filled) -> Plan:
            return Plan(_Missing(filled), filled.sink, replace(filled.identity, digest=uuid.uuid4().hex))

        self._enqueue(job, Assignment(order, plan, ready))
        log.info("job %s takes over %d tasks of project %s", job.id, len(tasks), project)
        return True

    def all(self) -> list[Job]:
        """The newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def get(self, job_id: str) -> Job:
        """Raises RequestError when there is no such job."""
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None:
            raise RequestError(f"there is no job {job_id!r}; GET /jobs lists those of this server")
        return job

    def cancel(self, job_id: str) -> Job:
        """Let a job end after what is under way."""
        job = self.get(job_id)
        job.stop.set()
        if job.state == "queued":
            job.state = "cancelled"
        return job

    def page(self, job_id: str) -> str:
        """The report page of a job as it stands."""
        row = self._kit.ledger.run(self.get(job_id).run)
        if row is None:
            raise RequestError(f"job {job_id} has not begun yet")
        return run_page(self._kit.ledger, self._kit.album, row)

    def close(self) -> None:
        """Cancel everything and wait until what is under way has ended."""
        for job in self.all():
            job.stop.set()
        self._queue.shutdown(wait=True, cancel_futures=True)

    def _enqueue(self, job: Job, assignment: Assignment) -> Job:
        with self._lock:
            self._jobs[job.id] = job
            for old in list(self._jobs)[:-MOST_JOBS_KEPT]:
                del self._jobs[old]
        self._queue.submit(self._work, job, assignment)
        return job

    def _work(self, job: Job, assignment: Assignment) -> None:
        if job.stop.is_set():
            return
        job.state = "running"
        try:
            job.state = self._carry_out(job, assignment)
        except MaskloomError as error:
            job.state, job.note = "failed", str(error)
        except Exception as error:
            log.exception("job %s", job.id)
            job.state, job.note = "failed", f"{type(error).__name__}: {error}"

    def _carry_out(self, job: Job, assignment: Assignment) -> str:
        """Work with the engine of this moment from the first item to the last, whatever the server switches to meanwhile."""
        kit, segmenter = self._kit, self._kit.engine.segmenter()
        version = segmenter.engine.version
        filled = fill(assignment.order, version, kit.studio, job.stop)
        worker = Worker(kit.images, lambda: segmenter, filled.recipe)
        ready = {key: found for key, found in assignment.ready.items() if found["result"] and found["model_version"] == version}

        def answer(items: Iterable[Item]) -> Iterator[Answer]:
            return _with_ready(items, ready, lambda rest: answers(worker, rest, version, ONE_AT_A_TIME))

        run = Run(kit.ledger, kit.album, assignment.plan(filled), watch=lambda stand: _note(job, run, stand), stop=job.stop)
        job.progress = run.work(answer)
        row = kit.ledger.run(run.id)
        return "cancelled" if job.stop.is_set() and row is not None and row.state == "stopped" else "finished"


class _Missing:
    """The tasks of a selection that have no prediction of the version yet: two requests may have handed over the same."""

    def __init__(self, filled: Filled) -> None:
        self._filled = filled
        self.name = filled.source.name

    def items(self) -> Iterator[Item]:
        for item in self._filled.source.items():
            if not self._filled.sink.arrived([item.key]):
                yield item


def _note(job: Job, run: Run, stand: Progress) -> None:
    job.progress, job.run = stand, run.id


def _with_ready(
    items: Iterable[Item], ready: Predictions, rest: Callable[[Iterable[Item]], Iterator[Answer]]
) -> Iterator[Answer]:
    """Answers to all items, with the predictions that are ready where there are some; items are taken as they are needed."""
    known: deque[Answer] = deque()

    def unknown() -> Iterator[Item]:
        for item in items:
            if item.key in ready:
                known.append(_made_already(item, ready[item.key]))
            else:
                yield item

    for answer in rest(unknown()):
        yield from _drained(known)
        yield answer
    yield from _drained(known)


def _made_already(item: Item, prediction: Mapping[str, Any]) -> Answer:
    """The answer that a request has made. Its photo is gone, so that its picture shows the masks alone."""
    regions = read_regions(prediction["result"])
    found = [Found(region.label, region.score, int(region.mask.sum())) for region in regions]
    shape = regions[0].mask.shape if regions else (48, 64)
    masks = np.array([region.mask for region in regions if region.mask.shape == shape], np.bool_).reshape(-1, *shape)
    picture = thumbnail(np.full((*shape, 3), 128, np.uint8), masks)
    return Answer(item, regions=found, prediction=prediction, thumbnail=picture)


def _drained(waiting: deque[Answer]) -> Iterator[Answer]:
    while waiting:
        yield waiting.popleft()
