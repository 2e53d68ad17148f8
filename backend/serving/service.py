"""One request of Label Studio: its tasks are read, answered by one of two verbs and written, within the time that there is.

What both verbs share is here: the engine that answers, what was found before it is written, and what a failure is called.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from backend.labelstudio.answer import (
    Names,
    new_answer,
    number_regions,
    write_failure,
    write_message,
    write_prediction,
    write_refusal,
    write_together,
)
from backend.labelstudio.request.request import InteractionRequest, PreannotationRequest, Request, TaskRequest, read_predict
from backend.labelstudio.request.video import FilmRequest
from backend.segmenter import EngineSource, Segmenter
from backend.values.errors import MaskloomError
from backend.values.masks import MaskSet
from backend.values.session import Question, Round
from prompts.kinds import PromptError

log = logging.getLogger(__name__)

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What was found on one image of a task: the masks, and the names of each row by the tags that name regions."""

    task: TaskRequest
    masks: MaskSet
    names: Names


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """What is answered to a request, not written yet: each who asks the same gets it written anew, under ids of its own.
    ``message`` is for the annotator, ``failure`` says why there is no answer.
    """

    version: str
    found: tuple[Found, ...] = ()
    form: str = ""
    message: str = ""
    failure: str = ""

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        masks = (each.masks for each in self.found)
        return 1000 + sum(m.masks.nbytes + m.low_res_logits.nbytes + m.embeddings.nbytes for m in masks)

    @property
    def is_worth_keeping(self) -> bool:
        return not self.failure and any(len(each.masks) for each in self.found)

    def write(self, task: TaskRequest) -> Answer:
        """The answer in Label Studio's words."""
        if isinstance(task, InteractionRequest) and (self.failure or self.message):
            return write_message(task, self.failure or self.message, self.version)
        if self.failure:
            return write_failure(self.failure, self.version)
        parts = [write_prediction(each.task, each.masks, self.version, self.form, each.names) for each in self.found]
        return write_together(parts, self.version)


def segment(engine: EngineSource, question: Question) -> tuple[Round, Segmenter]:
    """The round and the segmenter that gave it: its engine may have been switched a moment ago. Raises MaskloomError."""
    segmenter = engine.segmenter()
    (done,) = segmenter.segment([question])
    if isinstance(done, MaskloomError):
        raise done
    return done, segmenter


def failure_of(error: Exception, task: TaskRequest) -> str:
    """Why a task has no answer, in a sentence; the log says more of what nobody expected."""
    if isinstance(error, MaskloomError | PromptError):
        log.warning("task %s of project %s: %s", task.task_id, task.project, error)
        return str(error)
    log.error("task %s of project %s", task.task_id, task.project, exc_info=error)
    return f"Maskloom failed on this task ({type(error).__name__}); its log says more"


DEADLINE_S = 75.0
"""After so long a batch is cut, as Label Studio waits for 100 s."""

HandOver = Callable[[str, Sequence[str], Mapping[str, Mapping[str, Any]]], bool]
"""Takes over the tasks of a project, with the answers that are ready, to write them later; False when it cannot."""


Record = Callable[[TaskRequest, Answer], None]
"""Hears of every answer to a request."""


class Preannotates(Protocol):
    """Answers tasks on which nothing was drawn (see preannotate.Preannotator)."""

    def find(self, task: PreannotationRequest) -> Finding: ...


class Interacts(Protocol):
    """Answers what an annotator draws and types (see interact.Interactor)."""

    def find(self, task: InteractionRequest) -> Finding: ...


class AnswersFilms(Protocol):
    """Answers about videos (see films.FilmAnswerer)."""

    def answer(self, task: FilmRequest) -> Answer: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Service:
    """Answers Label Studio's requests; a task that fails costs that task alone."""

    engine: EngineSource
    preannotator: Preannotates
    interactor: Interacts
    films: AnswersFilms
    hand_over: HandOver = lambda project, tasks, ready: False
    record: Record = lambda task, answer: None

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
        if isinstance(task, FilmRequest):
            return self.films.answer(task)
        found = self.interactor.find(task) if isinstance(task, InteractionRequest) else self.preannotator.find(task)
        answer = number_regions(found.write(task), new_answer())
        self.record(task, answer)
        return answer

    def _answer_later(self, tasks: Sequence[Request | MaskloomError], answers: list[Answer]) -> list[Answer]:
        log.warning("answered %d of %d tasks within %.0f s", len(answers), len(tasks), DEADLINE_S)
        readable = [task for task in tasks if isinstance(task, PreannotationRequest)]
        made = ((task, answer) for task, answer in zip(tasks, answers, strict=False) if "result" in answer)
        ready = {task.task_id: answer for task, answer in made if isinstance(task, PreannotationRequest)}
        taken = bool(readable) and self.hand_over(readable[0].project, [task.task_id for task in readable], ready)
        return [] if taken else answers[:1]
