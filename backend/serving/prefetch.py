"""Prefetch: while an annotator works on a task, the image of the task that follows is encoded in the background."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from backend.background import Worker
from backend.images.limits import ImageSource
from backend.labelstudio.api import LabelStudio
from backend.labelstudio.request.request import TaskRequest, is_interactive, read_predict
from backend.segmenter import EngineSource
from backend.stores.projects import number_of

MOST_WAITING = 8
MOST_KNOWN = 1_000

Json = Mapping[str, Any]


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
