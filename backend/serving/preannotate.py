"""Before anybody draws: pre-annotation, what the labels of a project find on all images of a task, and prefetch, which has the
next task's image encoded."""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from backend.background import Worker
from backend.caches import Bounds, SingleFlight
from backend.images.limits import ImageSource
from backend.labelstudio.answer import Found, names_of
from backend.labelstudio.api import LabelStudio
from backend.labelstudio.project_options import ProjectOptions, question_about
from backend.labelstudio.request.request import PreannotationRequest, TaskRequest, is_interactive, read_predict
from backend.segmenter import EngineSource
from backend.serving.learning import Learning
from backend.serving.learnt import Learnt
from backend.serving.service import Finding, failure_of, segment
from backend.stores.projects import number_of

log = logging.getLogger(__name__)
MOST_KEPT_BYTES = 64 << 20
KEPT_LIFETIME_S = 600.0
"""When a batch is cut at the deadline, Label Studio asks for its tasks again one by one: those already answered are kept."""
MOST_WAITING = 8
MOST_KNOWN = 1_000
Json = Mapping[str, Any]


class Preannotator:
    """Answers tasks by their labels: by their names, and by what was accepted under them. Identical requests at the same time
    are answered together, and what was found is kept for a while.
    """

    def __init__(self, engine: EngineSource, images: ImageSource, options: ProjectOptions, learning: Learning) -> None:
        self._engine = engine
        self._images = images
        self._options = options
        self._learning = learning
        self._known: SingleFlight[Finding] = SingleFlight(
            Bounds(MOST_KEPT_BYTES, lambda known: known.nbytes, KEPT_LIFETIME_S, lambda known: known.is_worth_keeping)
        )

    def find(self, task: PreannotationRequest) -> Finding:
        """What is found on the images of a task; a failure only where none of them can be answered."""
        learnt = self._learning.about(task, self._engine)
        key = f"{self._engine.version}/{self._options.of(task.project)}/{task.fingerprint()}/{learnt.digest}"
        return self._known.do(key, lambda: self._find(task, learnt))

    def _find(self, task: PreannotationRequest, learnt: Learnt) -> Finding:
        found: list[Found] = []
        failures: list[str] = []
        version, wanted = self._engine.version, self._options.of(task.project)
        taught = learnt.besides(task.task_id)
        for each in task.images():
            try:
                image = self._images.load(each.image_url, each.project, each.task_id or None)
                done, segmenter = segment(self._engine, question_about(each.vocabulary, image, wanted, taught))
                masks = wanted.apply(done.masks)
                found.append(Found(each, masks, names_of(masks, each, segmenter.rank_names)))
                version = segmenter.engine.version
            except Exception as error:
                failures.append(failure_of(error, each))
        return Finding(version, tuple(found), wanted.form, failure="" if found else failures[0])


class Prefetcher:
    """Encodes the image of the task that follows one that somebody works on, once for each task, one at a time.

    The one that follows is the next by number that nobody has annotated, as in Label Studio's own order. Nothing is done where
    Label Studio cannot be asked, or where the engine takes longer than ``most_s`` for an image: a click would have to wait.
    What could not be done is tried after the next answer about the task.
    """

    def __init__(self, engine: EngineSource, images: ImageSource, studio: Callable[[], LabelStudio], most_s: float) -> None:
        self._engine = engine
        self._images = images
        self._studio = studio
        self._most_s = most_s
        self._worker: Worker[Json] = Worker("prefetch", self._prefetch, MOST_WAITING)
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def answered(self, body: Json) -> None:
        """Told of a ``/predict`` body that has been answered; returns at once."""
        if not self._most_s or not is_interactive(body):
            return
        task = _without_annotations(body)
        key = _task_key(task)
        with self._lock:
            if key in self._seen:
                self._seen.move_to_end(key)
                return
            self._seen[key] = None
            while len(self._seen) > MOST_KNOWN:
                self._seen.popitem(last=False)
        if not self._worker.offer(task):
            self._forget(key)

    def wait(self) -> None:
        """Until everything that was told has been dealt with."""
        self._worker.wait()

    def close(self) -> None:
        """Begin nothing more."""
        self._most_s = 0.0
        self._worker.close(patience_s=0)

    def _prefetch(self, body: Json) -> None:
        is_done = False
        try:
            is_done = self._look_ahead(body)
        finally:
            if not is_done:
                self._forget(_task_key(body))

    def _forget(self, key: str) -> None:
        with self._lock:
            self._seen.pop(key, None)

    def _look_ahead(self, body: Json) -> bool:
        """Whether there is nothing left to do about the task of a body."""
        task = read_predict(body)[0]
        if not isinstance(task, TaskRequest) or not task.task_id.isdecimal():
            return True
        segmenter = self._engine.segmenter()
        if segmenter.encode_s > self._most_s:
            return False
        following = self._following(body, task)
        if following is not None:
            segmenter.look_at(self._images.load(following.image_url, following.project, following.task_id))
        return True

    def _following(self, body: Json, task: TaskRequest) -> TaskRequest | None:
        """The task after this one, as it would be asked for. Raises SetupError or RemoteError when it cannot be told."""
        with self._studio() as studio:
            found = studio.call("GET", "/api/tasks", params=_question(task))["tasks"]
        if not found:
            return None
        following = read_predict({**body, "tasks": found[:1], "params": None})[0]
        return following if isinstance(following, TaskRequest) else None


def _without_annotations(body: Json) -> Json:
    """The body as one that asks about the image of its first task alone: what is drawn on it may be large."""
    first = next(iter(body.get("tasks") or ()), None)
    task = {"id": first.get("id"), "data": first.get("data")} if isinstance(first, Mapping) else {}
    return {"project": body.get("project"), "label_config": body.get("label_config"), "tasks": [task]}


def _task_key(body: Json) -> str:
    return json.dumps([str(body["project"]), str(body["tasks"][0].get("id"))])


def _question(task: TaskRequest) -> dict[str, Any]:
    """Label Studio's words for the first task after one that has no annotation, without everything else that it knows of it."""
    after = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": int(task.task_id)}
    new = {"filter": "filter:tasks:total_annotations", "operator": "equal", "type": "Number", "value": 0}
    query = {"filters": {"conjunction": "and", "items": [after, new]}, "ordering": ["tasks:id"]}
    return {
        "project": number_of(task.project),
        "fields": "task_only",
        "include": "id,data",
        "page_size": 1,
        "query": json.dumps(query),
    }
