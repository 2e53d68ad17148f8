"""One request of Label Studio: its tasks are read, answered by one of two verbs and written, within the time that there is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.labelstudio.answer import write_refusal
from backend.labelstudio.request.request import InteractionRequest, PreannotationRequest, Request, read_predict
from backend.serving.base import Answer, EngineSource
from backend.serving.interact import Interactor
from backend.serving.preannotate import Preannotator
from backend.values.errors import MaskloomError

log = logging.getLogger(__name__)

DEADLINE_S = 75.0
"""After so long a batch is cut, as Label Studio waits for 100 s."""

HandOver = Callable[[str, Sequence[str], Mapping[str, Mapping[str, Any]]], bool]
"""Takes over the tasks of a project, with the answers that are ready, to write them later; False when it cannot."""


@dataclass(frozen=True, slots=True)
class Service:
    """Answers Label Studio's requests; a task that fails costs that task alone."""

    engine: EngineSource
    preannotator: Preannotator
    interactor: Interactor
    hand_over: HandOver = lambda project, tasks, ready: False

    def predict(self, body: Mapping[str, Any]) -> list[Answer]:
        """One answer for each task of a request, in order.

        A batch that outlasts the deadline is handed to a job, and the answer is empty, upon which Label Studio stores nothing.
        Where no job can write to Label Studio, it gets the first answer alone, upon which it asks for each task by itself.
        Raises RequestError when the body has no tasks.
        """
        started = time.monotonic()
        tasks = read_predict(body)
        answers: list[Answer] = []
        for task in tasks:
            if answers and time.monotonic() - started > DEADLINE_S:
                return self._answer_later(tasks, answers)
            answers.append(self._answer(body, task))
        return answers

    def _answer(self, body: Mapping[str, Any], task: Request | MaskloomError) -> Answer:
        if isinstance(task, MaskloomError):
            log.warning("a task was refused: %s", task)
            return write_refusal(body, str(task), self.engine.version)
        if isinstance(task, InteractionRequest):
            return self.interactor.find(task).write(task)
        return self.preannotator.find(task).write(task)

    def _answer_later(self, tasks: Sequence[Request | MaskloomError], answers: list[Answer]) -> list[Answer]:
        log.warning("answered %d of %d tasks within %.0f s", len(answers), len(tasks), DEADLINE_S)
        readable = [task for task in tasks if isinstance(task, PreannotationRequest)]
        made = ((task, answer) for task, answer in zip(tasks, answers, strict=False) if "result" in answer)
        ready = {task.task_id: answer for task, answer in made if isinstance(task, PreannotationRequest)}
        taken = bool(readable) and self.hand_over(readable[0].project, [task.task_id for task in readable], ready)
        return [] if taken else answers[:1]
