"""One request of Label Studio in five verbs: read, recall, segment, remember, write."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from backend.images import ImageSource
from backend.labeling import drop_known
from backend.labelstudio.answer import write_empty, write_message, write_prediction, write_refusal, write_together
from backend.labelstudio.project_options import Wishes
from backend.labelstudio.request.likeness import label_to_answer
from backend.labelstudio.request.request import TaskRequest, read_predict
from backend.segmenter import Segmenter
from backend.serving.history import Recollection
from backend.serving.preannotation import names_of, question_about
from backend.single_flight import Bounds, SingleFlight
from backend.values.errors import MaskloomError
from backend.values.session import ForPrompts, Question, Round
from prompts.kinds import PromptError, PromptSet

log = logging.getLogger(__name__)

MOST_KEPT_BYTES = 64 << 20
KEPT_LIFETIME_S = 600.0
"""When a batch is cut at the deadline, Label Studio asks for its tasks again one by one: those already answered are kept."""

NOTHING_MARKED = (
    'nothing is marked that "this" could mean: draw it with a label or a tool that has a role in the labelling config, and '
    "wait five seconds until the page has saved it"
)

Answer = dict[str, Any]
HandOver = Callable[[str, Sequence[str], Mapping[str, Mapping[str, Any]]], bool]
"""Takes over the tasks of a project, with the answers that are ready, to write them later; False when it cannot."""


def _bytes_of(answer: Answer) -> int:
    """About how much memory an answer takes: nearly all of it are the numbers of its shapes."""
    return 1000 + sum(1000 + 8 * len(item["value"].get("rle", ())) for item in answer["result"])


KEPT = Bounds(MOST_KEPT_BYTES, _bytes_of, KEPT_LIFETIME_S, is_kept=lambda answer: bool(answer["result"]))


class EngineSource(Protocol):
    """The engine, loaded when it is first needed; its version can be told before."""

    @property
    def version(self) -> str: ...

    def segmenter(self) -> Segmenter: ...


@dataclass(frozen=True, slots=True)
class Service:
    """Answers Label Studio's requests; a task that fails costs that task alone."""

    engine: EngineSource
    images: ImageSource
    known: Recollection
    wishes: Wishes
    deadline_s: float
    hand_over: HandOver = lambda project, tasks, ready: False
    answers: SingleFlight[Answer] = field(default_factory=lambda: SingleFlight(KEPT))
    under_way: SingleFlight[Answer] = field(default_factory=lambda: SingleFlight(replace(KEPT, most_bytes=0)))

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
            if answers and time.monotonic() - started > self.deadline_s:
                return self._answer_later(tasks, answers)
            answers.append(self._refuse(body, task) if isinstance(task, MaskloomError) else self._answer_once(task))
        return answers

    def _answer_later(self, tasks: Sequence[TaskRequest | MaskloomError], answers: list[Answer]) -> list[Answer]:
        log.warning("answered %d of %d tasks within %.0f s", len(answers), len(tasks), self.deadline_s)
        readable = [task for task in tasks if isinstance(task, TaskRequest) and not task.interactive]
        names = {id(task): task.task_id for task in readable}
        ready = {names[id(task)]: answer for task, answer in zip(tasks, answers, strict=False) if id(task) in names}
        taken = bool(readable) and self.hand_over(readable[0].project, list(names.values()), ready)
        return [] if taken else answers[:1]

    def _answer_once(self, task: TaskRequest) -> Answer:
        """Identical requests at the same time are answered together; answers about label names alone are kept a while."""
        key = f"{self.engine.version}/{self.wishes.of(task.project)}/{task.fingerprint()}"
        return (self.under_way if task.interactive else self.answers).do(key, lambda: self._answer(task))

    def _answer(self, task: TaskRequest) -> Answer:
        parts = [self._answer_image(each) for each in task.images()]
        return write_together(parts, parts[0]["model_version"])

    def _answer_image(self, task: TaskRequest) -> Answer:
        version = self.engine.version
        try:
            image = self.images.load(task.image_url, task.project, task.task_id or None)
            task = self.known.complete(task)
            examples = self.known.examples(task, image)
            prompts = PromptSet((*task.prompts(image.size).prompts, *examples))
            if task.interactive and not len(prompts):
                return write_message(task, NOTHING_MARKED, version) if task.asks_for_marked else write_empty(version)
            memory = self.known.last_answer(task, version, prompts)
            armed = label_to_answer(task)
            wanted = self.wishes.of(task.project)
            question: Question = question_about(task, image, wanted)
            if len(prompts):
                question = ForPrompts(image, prompts, task.vocabulary, armed, memory, wanted.alternatives)
            done, segmenter = self._segment(question)
            version = segmenter.engine.version
            self.known.keep(task, version, done)
            masks = drop_known(done.masks, self.known.finished(task, image)) if task.interactive else wanted.apply(done.masks)
            return write_prediction(task, masks, version, wanted.form, names_of(masks, task, segmenter))
        except (MaskloomError, PromptError) as error:
            log.warning("task %s of project %s: %s", task.task_id, task.project, error)
            return write_message(task, str(error), version)
        except Exception as error:
            log.exception("task %s of project %s", task.task_id, task.project)
            return write_message(task, f"Maskloom failed on this task ({type(error).__name__}); its log says more", version)

    def _segment(self, question: Question) -> tuple[Round, Segmenter]:
        """The round and the segmenter that gave it: its engine may have been switched a moment ago."""
        segmenter = self.engine.segmenter()
        (done,) = segmenter.segment([question])
        if isinstance(done, MaskloomError):
            raise done
        return done, segmenter

    def _refuse(self, body: Mapping[str, Any], error: MaskloomError) -> Answer:
        log.warning("a task was refused: %s", error)
        return write_refusal(body, str(error), self.engine.version)
