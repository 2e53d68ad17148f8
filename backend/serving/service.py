"""One request of Label Studio: its tasks are read, answered by one of two verbs and written, within the time that there is.

What both verbs share is here: the engine that answers, named at once, loaded when it is first needed and exchanged while others
use it; what was found before it is written; and what a failure is called.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from backend.engines.base import Engine
from backend.engines.bundle import missing_for
from backend.engines.catalogue import Placement, Recipe
from backend.labelstudio.answer import Found, write_message, write_refusal
from backend.labelstudio.request.request import InteractionRequest, PreannotationRequest, Request, TaskRequest, read_predict
from backend.labelstudio.request.video import FilmRequest
from backend.labelstudio.shapes.base import Answer, is_event, new_answer, number_regions, write_failure, write_together
from backend.labelstudio.verdicts import has_canaries
from backend.segmenter import EngineSource, Segmenter
from backend.telemetry import ANSWERS
from backend.values.errors import MaskloomError
from backend.values.session import Question, Round
from prompts.kinds import PromptError

log = logging.getLogger(__name__)


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
    def kind(self) -> str:
        """What it is in ``maskloom_answers``."""
        if self.failure or self.message:
            return "failed" if self.failure else "sentence"
        return "masks" if self.is_worth_keeping else "nothing"

    @property
    def is_worth_keeping(self) -> bool:
        return not self.failure and any(len(each.masks) for each in self.found)

    def write(self, task: TaskRequest) -> Answer:
        """The answer in Label Studio's words."""
        if isinstance(task, InteractionRequest) and (self.failure or self.message):
            return write_message(task, self.failure or self.message, self.version)
        if self.failure:
            return write_failure(self.failure, self.version)
        parts = [each.write(self.version, self.form) for each in self.found]
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


Record = Callable[[tuple[TaskRequest, Answer]], object]
"""Takes every answer to a request at once, to keep it when there is time."""


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


class AnswersEvents(Protocol):
    """Answers the event protocol (see protocol.EventProtocol)."""

    def answer(self, body: Any) -> Answer | None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Service:
    """Answers Label Studio's requests; a task that fails costs that task alone. ``damage`` makes canaries of some of what is
    suggested for a task on which nothing was drawn.
    """

    engine: EngineSource
    preannotator: Preannotates
    interactor: Interacts
    films: AnswersFilms
    events: AnswersEvents
    hand_over: HandOver = lambda project, tasks, ready: False
    record: Record = lambda answered: None
    damage: Callable[[Answer], Answer] = lambda answer: answer
    ending: threading.Event = field(default_factory=threading.Event)
    """Set when the server is told to end: batches are cut."""

    def predict(self, body: Mapping[str, Any]) -> list[Answer]:
        """One answer for each task of a request, in order.

        A batch that outlasts the deadline is handed to a job, and the answer is empty, upon which Label Studio stores nothing.
        Where no job can write to Label Studio, or the server ends, it gets the first answer alone, upon which it asks for each
        task by itself.
        Raises RequestError when the body has no tasks.
        """
        told = self.events.answer(body) if is_event(body) else None
        if told is not None:
            return [told]
        started = time.monotonic()
        tasks = read_predict(body)
        answers: list[Answer] = []
        known: dict[str, Answer] = {}
        for task in tasks:
            if answers and (self.ending.is_set() or time.monotonic() - started > DEADLINE_S):
                return self._answer_later(tasks, answers)
            again = task.fingerprint() if len(tasks) > 1 and isinstance(task, PreannotationRequest) else ""
            answers.append(known.get(again) or self._answer(body, task))
            if again:
                known[again] = answers[-1]
        return answers

    def _answer(self, body: Mapping[str, Any], task: Request | MaskloomError) -> Answer:
        if isinstance(task, MaskloomError):
            log.warning("a task was refused: %s", task)
            ANSWERS.labels("refused").inc()
            return write_refusal(body, str(task), self.engine.version)
        if isinstance(task, FilmRequest):
            return self.films.answer(task)
        found = self.interactor.find(task) if isinstance(task, InteractionRequest) else self.preannotator.find(task)
        ANSWERS.labels(found.kind).inc()
        answer = number_regions(found.write(task), new_answer())
        answer = answer if isinstance(task, InteractionRequest) else self.damage(answer)
        self.record((task, answer))
        return answer

    def _answer_later(self, tasks: Sequence[Request | MaskloomError], answers: list[Answer]) -> list[Answer]:
        log.warning("answered %d of %d tasks, then time was up", len(answers), len(tasks))
        if self.ending.is_set():
            return answers[:1]
        readable = [task for task in tasks if isinstance(task, PreannotationRequest)]
        made = ((task, answer) for task, answer in zip(tasks, answers, strict=False) if "result" in answer)
        whole = ((task, answer) for task, answer in made if not has_canaries(answer))
        ready = {task.task_id: answer for task, answer in whole if isinstance(task, PreannotationRequest)}
        taken = bool(readable) and self.hand_over(readable[0].project, [task.task_id for task in readable], ready)
        return [] if taken else answers[:1]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Where weights are looked for (below ``home``, or ``weights`` themselves), where the engine computes, and whose decoder
    refines its masks, if any does.
    """

    home: Path
    placement: Placement
    weights: Path | None = None
    refiner: Recipe | None = None


class EngineHandle:
    """An engine by its recipe; ``start`` makes the segmenter of a loaded one.

    Its version is known without loading it, and names the refining engine too, where there is one. An engine does not refine
    its own masks.
    """

    def __init__(self, recipe: Recipe, options: EngineOptions, start: Callable[[Engine], Segmenter]) -> None:
        self.recipe = recipe
        self._options = options
        self._start = start
        self._weights = options.weights or recipe.weights_in(options.home)
        self._refiner = None if options.refiner is None or options.refiner.name == recipe.name else options.refiner
        self.version = recipe.version(self._weights)
        if self._refiner is not None:
            self.version += f"+{self._refiner.version(self._refiner.weights_in(options.home))}"
        self._loaded: Segmenter | None = None
        self._failure: str | None = None
        self._lock = threading.Lock()

    @property
    def is_loaded(self) -> bool:
        return self._loaded is not None

    @property
    def weights(self) -> Path | None:
        """Where its weights are looked for."""
        return self._weights

    @property
    def problem(self) -> str | None:
        """Why the engine cannot answer and what to do, as far as that is known without loading it; None when nothing is."""
        if self._loaded is not None:
            return None
        return missing_for(self.recipe, self._weights) or self._failure

    def segmenter(self) -> Segmenter:
        """The segmenter, loaded by the first caller. Raises SetupError when the weights cannot be had."""
        with self._lock:
            if self._loaded is None:
                started = time.monotonic()
                self._loaded = self._start_loaded()
                log.info("loaded the engine %s in %.1f s", self.version, time.monotonic() - started)
            return self._loaded

    def try_loading(self) -> None:
        """Load the engine now; when that fails, ``problem`` says why, and the next who needs it tries again."""
        try:
            self.segmenter()
        except Exception:
            log.exception("the engine could not be loaded; the next request tries again")

    def switch(self, recipe: Recipe, weights: Path | None = None) -> None:
        """Answer with another engine from now on; what is under way ends with the old one, and nothing of either's caches or
        memory is read by the other. Both are in memory for a moment. Raises SetupError, and keeps the old one, when the new one
        cannot be loaded.
        """
        fresh = EngineHandle(recipe, replace(self._options, weights=weights), self._start)
        segmenter = fresh.segmenter()
        with self._lock:
            self.recipe, self._weights, self._refiner = recipe, fresh._weights, fresh._refiner
            self.version, self._loaded = fresh.version, segmenter

    def _start_loaded(self) -> Segmenter:
        """A segmenter of the engine; why there is none is remembered."""
        try:
            segmenter = self._start(replace(self._load(), version=self.version))
        except Exception as error:
            self._failure = str(error) if isinstance(error, MaskloomError) else f"{type(error).__name__}: {error}"
            raise
        self._failure = None
        return segmenter

    def _load(self) -> Engine:
        placement = self._options.placement
        engine = self.recipe.load(self._weights, placement)
        if self._refiner is None:
            return engine
        return self._refiner.refine(engine, self._refiner.weights_in(self._options.home), placement)
