"""What an annotator will look at next: the image of the task that follows, encoded in the background."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from backend.images import ImageSource
from backend.labelstudio.api import LabelStudio
from backend.labelstudio.request.request import TaskRequest, is_interactive, read_predict
from backend.segmenter import Segmenter
from backend.values.errors import MaskloomError

log = logging.getLogger(__name__)

MOST_WAITING = 8
MOST_KNOWN = 1_000

Json = Mapping[str, Any]


class EngineSource(Protocol):
    """The engine of this process."""

    def segmenter(self) -> Segmenter: ...


class Ahead:
    """Encodes the image of the task that follows one that somebody works on, once for each task, one at a time.

    The one that follows is the next by number that nobody has annotated, as in Label Studio's own order. Nothing is done where
    Label Studio cannot be asked, or where the engine takes longer than ``most_s`` for an image: a click would have to wait.
    """

    def __init__(self, engine: EngineSource, images: ImageSource, studio: Callable[[], LabelStudio], most_s: float) -> None:
        self._engine = engine
        self._images = images
        self._studio = studio
        self._most_s = most_s
        self._waiting: queue.Queue[Json] = queue.Queue(MOST_WAITING)
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def after(self, body: Json) -> None:
        """Told of a ``/predict`` body that has been answered; returns at once."""
        if not self._most_s or not is_interactive(body):
            return
        with self._lock:
            if not self._is_new(body):
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="ahead", daemon=True)
                self._thread.start()
        try:
            self._waiting.put_nowait(body)
        except queue.Full:
            log.debug("too many tasks to look ahead of")

    def wait(self) -> None:
        """Until everything that was told has been dealt with."""
        self._waiting.join()

    def _is_new(self, body: Json) -> bool:
        """Whether this is the first answer for the task of a body, of those that are remembered."""
        tasks = body.get("tasks") or [{}]
        key = (str(body.get("project")), str(tasks[0].get("id")) if isinstance(tasks[0], Mapping) else "")
        is_new = key not in self._known
        self._known[key] = None
        self._known.move_to_end(key)
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return is_new

    def _work(self) -> None:
        while True:
            body = self._waiting.get()
            try:
                self._look_ahead(body)
            except MaskloomError as error:
                log.info("the next task was not looked at: %s", error)
            except Exception:
                log.exception("the next task could not be looked at")
            finally:
                self._waiting.task_done()

    def _look_ahead(self, body: Json) -> None:
        segmenter = self._engine.segmenter()
        task = read_predict(body)[0]
        if segmenter.encode_s > self._most_s or not isinstance(task, TaskRequest) or not task.task_id.isdecimal():
            return
        following = self._following(body, task)
        if following is not None:
            segmenter.look_at(self._images.load(following.image_url, following.project, following.task_id))

    def _following(self, body: Json, task: TaskRequest) -> TaskRequest | None:
        """The task after this one, as it would be asked for. Raises SetupError or RemoteError when it cannot be told."""
        with self._studio() as studio:
            found = studio.call("GET", "/api/tasks", params=_question(task))["tasks"]
        if not found:
            return None
        following = read_predict({**body, "tasks": found[:1], "params": None})[0]
        return following if isinstance(following, TaskRequest) else None


def _question(task: TaskRequest) -> dict[str, Any]:
    """Label Studio's words for the first task after one that has no annotation, without everything else that it knows of it."""
    after = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": int(task.task_id)}
    new = {"filter": "filter:tasks:total_annotations", "operator": "equal", "type": "Number", "value": 0}
    query = {"filters": {"conjunction": "and", "items": [after, new]}, "ordering": ["tasks:id"]}
    return {"project": task.project, "fields": "task_only", "include": "id,data", "page_size": 1, "query": json.dumps(query)}
