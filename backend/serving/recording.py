"""Recording what was answered, in the background: later it is compared with what people submit."""

from __future__ import annotations

import logging
import time
from typing import Any

from backend.background import Worker
from backend.labelstudio.answer import answer_of
from backend.labelstudio.request.request import InteractionRequest, TaskRequest
from backend.stores.answers import Answers, GivenAnswer, Kind

log = logging.getLogger(__name__)

MOST_WAITING = 1_000


class Recorder:
    """Takes answers at once and keeps them when there is time; one too many is not known afterwards, and costs no time."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._worker: Worker[GivenAnswer] = Worker("recording", answers.keep, MOST_WAITING)

    def record(self, task: TaskRequest, answer: dict[str, Any]) -> None:
        """An answer to a request; a failure is none."""
        if "result" not in answer or not task.project:
            return
        is_interactive = isinstance(task, InteractionRequest)
        kind = Kind.INTERACTION if is_interactive else Kind.PREANNOTATION
        label = task.armed_label or "" if isinstance(task, InteractionRequest) else ""
        name = answer_of(str(answer["result"][0]["id"])) if answer["result"] else ""
        given = GivenAnswer(name, task.project, task.task_id, kind, label[:300], time.time(), answer)
        if not self._worker.offer(given):
            log.warning("an answer to task %s is not recorded: too many wait", task.task_id)

    def wait(self) -> None:
        """Until everything is kept."""
        self._worker.wait()

    def close(self, patience_s: float) -> None:
        """Keep what waits, and take nothing more."""
        self._worker.close(patience_s)
