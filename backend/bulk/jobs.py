"""Bulk runs inside the server: queued, watched, cancelled, and the rest of selections that are too long for one request."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from backend.bulk.reader import BulkJob
from backend.bulk.run import BulkContext, Progress, Run, run_page
from backend.bulk.spec import JobSpec, Selection, resolve
from backend.bulk.values import FoundRegion, ItemResult, Target
from backend.bulk.work import PipelineLimits, Worker, process
from backend.labelstudio.project_options import ProjectOptions
from backend.labelstudio.shapes import read_regions
from backend.pictures import thumbnail
from backend.serving.learning import Teach, teach_nothing
from backend.serving.versions import Memories
from backend.stores.ledger import Item
from backend.stores.projects import number_of
from backend.values.errors import MaskloomError, NotFoundError, RequestError

log = logging.getLogger(__name__)

ENDED_JOBS_KEPT = 100
MOST_WAITING = 1_000
ONE_AT_A_TIME = PipelineLimits(batch=1)
"""A click of an annotator waits for one image of a job at most."""
Predictions = Mapping[str, Mapping[str, Any]]


@dataclass(slots=True)
class Job:
    """One job: ``state`` is queued, running, finished, cancelled or failed, ``note`` says why it failed. One that a request has
    handed over comes with the predictions that are ``ready``, which may be none.
    """

    spec: JobSpec
    ready: Predictions | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    state: str = "queued"
    note: str = ""
    progress: Progress = field(default_factory=lambda: Progress(0))
    run: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def project(self) -> str:
        return self.spec.source

    @property
    def has_ended(self) -> bool:
        return self.state not in ("queued", "running")


class Jobs:
    """Jobs of this process, one at a time in the order in which they came; what they did is in the ledger for ever."""

    def __init__(self, context: BulkContext, options: ProjectOptions, teach: Teach = teach_nothing) -> None:
        self._context = context
        self._teach = teach
        self._options = options
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._queue = ThreadPoolExecutor(1, "job")

    def start(self, spec: JobSpec) -> Job:
        """Queue a job that makes predictions of a project; the same again does what the last one left.

        Raises RequestError, ConfigError or RemoteError when it cannot be done.
        """
        if spec.folder is not None or spec.target not in (None, Target.PREDICTIONS):
            raise RequestError("a job makes predictions of a project; say its number as 'project'")
        return self._enqueue(Job(spec))

    def hand_over(self, project: str, tasks: Sequence[str], ready: Predictions) -> bool:
        """Take over the tasks of a request that takes too long, with the predictions that are ``ready``; False when that is not
        possible because Label Studio cannot be written to.
        """
        try:
            chosen = Selection(tasks=frozenset(int(task) for task in tasks))
            job = self._enqueue(Job(JobSpec(number_of(project), selection=chosen, options=self._options.of(project)), ready))
        except (MaskloomError, ValueError) as error:
            log.info("the rest of the selection cannot be handed to a job: %s", error)
            return False
        log.info("job %s takes over %d tasks of project %s", job.id, len(tasks), number_of(project))
        return True

    def all(self) -> list[Job]:
        """The newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def get(self, job_id: str) -> Job:
        """Raises NotFoundError when there is no such job."""
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None:
            raise NotFoundError(f"there is no job {job_id!r}; GET /jobs lists those of this server")
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
        row = self._context.ledger.run(self.get(job_id).run)
        if row is None:
            raise RequestError(f"job {job_id} has not begun yet")
        return run_page(self._context.ledger, self._context.album, row)

    def close(self) -> None:
        """Cancel everything and wait until what is under way has ended."""
        for job in self.all():
            job.stop.set()
        self._queue.shutdown(wait=True, cancel_futures=True)

    def _enqueue(self, job: Job) -> Job:
        """Raises what ``resolve`` does, before anything is queued, and RequestError when too many jobs wait."""
        self._resolve(job, self._context.engine.version, None)
        with self._lock:
            if sum(not each.has_ended for each in self._jobs.values()) >= MOST_WAITING:
                raise RequestError(f"{MOST_WAITING} jobs are waiting already; cancel some or try again when they have ended")
            self._jobs[job.id] = job
            ended = [each.id for each in self._jobs.values() if each.has_ended]
            for old in ended[:-ENDED_JOBS_KEPT]:
                del self._jobs[old]
        self._queue.submit(self._work, job)
        return job

    def _resolve(self, job: Job, version: str, memories: Memories | None) -> BulkJob:
        """What a job is about. One that was handed over leaves out the tasks that have a prediction of the version, because two
        requests may have handed over the same, and is a run of its own.
        """
        spec = job.spec
        if job.ready is not None:
            spec = replace(spec, selection=replace(spec.selection, unanswered_by=version))
        found = resolve(spec, version, self._context.studio, job.stop, memories)
        return found if job.ready is None else replace(found, identity=replace(found.identity, digest=uuid.uuid4().hex))

    def _work(self, job: Job) -> None:
        if job.stop.is_set():
            return
        job.state = "running"
        try:
            job.state = self._carry_out(job)
        except MaskloomError as error:
            job.state, job.note = "failed", str(error)
        except Exception as error:
            log.exception("job %s", job.id)
            job.state, job.note = "failed", f"{type(error).__name__}: {error}"

    def _carry_out(self, job: Job) -> str:
        """Work with the engine of this moment from the first item to the last, whatever the server switches to meanwhile."""
        segmenter = self._context.engine.segmenter()
        version = segmenter.engine.version
        found = self._resolve(job, version, self._context.memories if job.ready is None else None)
        version = found.identity.version
        teach = self._context.teacher(found.reader.memory) if job.ready is None else self._teach
        worker = Worker(self._context.images, lambda: segmenter, found.reader, teach, self._context.shelf)
        ready = {key: made for key, made in (job.ready or {}).items() if made["result"] and made["model_version"] == version}

        def pipeline(items: Iterable[Item]) -> Iterator[ItemResult]:
            """Those that are ready first: of a selection of one request, which is short."""
            if ready:
                items = list(items)
                yield from (_made_already(item, ready[item.key]) for item in items if item.key in ready)
                items = [item for item in items if item.key not in ready]
            yield from process(worker, items, version, ONE_AT_A_TIME)

        run = Run(self._context, found, stop=job.stop)
        run.watch = partial(_note, job, run)
        job.progress = run.work(pipeline)
        row = self._context.ledger.run(run.id)
        return "cancelled" if job.stop.is_set() and row is not None and row.state == "stopped" else "finished"


def _note(job: Job, run: Run, progress: Progress) -> None:
    job.progress, job.run = progress, run.id


def _made_already(item: Item, prediction: Mapping[str, Any]) -> ItemResult:
    """The result that a request has made. Its photo is gone, so that its picture shows the masks alone."""
    regions = read_regions(prediction["result"])
    found = [FoundRegion(region.label, region.score, int(region.mask.sum())) for region in regions]
    shape = regions[0].mask.shape if regions else (48, 64)
    masks = np.array([region.mask for region in regions if region.mask.shape == shape], np.bool_).reshape(-1, *shape)
    picture = thumbnail(np.full((*shape, 3), 128, np.uint8), masks)
    return ItemResult(item, regions=found, prediction=prediction, thumbnail=picture)
