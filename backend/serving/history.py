"""History: the rounds of prompting about an object and the examples of a project, as one request reads and leaves them."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from backend.background import PAUSES_S, Worker, insist
from backend.images.limits import ImageSource
from backend.labelstudio.request.context import ReferenceRequest, masks_of, nothing_to_compare
from backend.labelstudio.request.request import InteractionRequest
from backend.labelstudio.tags import Role
from backend.stores.memory import MemoryBank
from backend.stores.sessions import Note, Notes, SessionStore
from backend.tiling import example_on
from backend.values.errors import MaskloomError, StoreError
from backend.values.masks import NOTHING_DRAWN
from backend.values.session import Example, Round, SessionKey
from prompts.kinds import KeyedImage, ObjectMemory, PromptSet, ReferencePrompt

log = logging.getLogger(__name__)


MOST_LATE = 1_000
"""Rounds that wait for a database that cannot be used, some ten kilobytes each."""


class LateWrites:
    """Writes at once where the database is free, or else in the background, in the order in which it was told: nobody who
    clicks waits for longer than it takes to see that somebody else holds the database.
    """

    def __init__(self) -> None:
        self._is_closing = threading.Event()
        self._worker: Worker[tuple[str, Callable[[], None]]] = Worker("late writes", self._persist, MOST_LATE)

    def write(self, what: str, work: Callable[[], None]) -> None:
        """Do the ``work``, which may raise StoreError; ``what`` is it about, for the log."""
        if self._worker.is_idle:
            try:
                work()
            except StoreError as error:
                log.warning("%s is remembered later: %s", what, error)
            else:
                return
        if not self._worker.offer((what, work)):
            log.warning("%s is not remembered: too much waits to be written", what)

    def wait(self) -> None:
        """Until everything is written, or given up."""
        self._worker.wait()

    def close(self, patience_s: float) -> None:
        """Write what waits, without pauses, and take nothing more."""
        self._is_closing.set()
        self._worker.close(patience_s)

    def _persist(self, late: tuple[str, Callable[[], None]]) -> None:
        what, work = late
        try:
            insist(work, PAUSES_S, self._is_closing)
        except StoreError as error:
            raise StoreError(f"{what} is not remembered: {error}") from error


@dataclass(frozen=True, slots=True)
class NewNotes:
    """The prompts ``now`` on a page as notes, and those ``seen`` there that the request was read with."""

    now: Sequence[Note]
    seen: Sequence[Note]


@dataclass(frozen=True, slots=True)
class History:
    """The sessions and the memory bank. A request reads with the first three verbs and leaves something with the last two; a
    store that cannot be used costs the memory and never the answer, and what was left is written when it can be used again.
    """

    sessions: SessionStore
    memory: MemoryBank
    images: ImageSource
    late: LateWrites

    def notes(self, task: InteractionRequest) -> list[Note]:
        """What this annotator prompted before on the page of a request."""
        try:
            return self.sessions.noted(_whose(page_key(task)))
        except StoreError as error:
            log.warning("task %s is answered without its earlier prompts: %s", task.task_id, error)
            return []

    def last_answer(self, task: InteractionRequest, version: str, prompts: PromptSet) -> ObjectMemory | None:
        """What the engine of this version answered before these prompts were added to."""
        if not prompts.drawn:
            return None
        try:
            return self.sessions.recall(_whose(_object_key(task)), version, prompts)
        except StoreError as error:
            log.warning("task %s is answered without its last answer: %s", task.task_id, error)
            return None

    def examples(self, task: InteractionRequest, image: KeyedImage) -> tuple[ReferencePrompt, ...]:
        """What to find more of, or not to find.

        Raises:
            RequestError: something is to be found that nothing shows.
            StoreError: nothing here shows it, and whether something elsewhere does cannot be looked up.
        """
        return tuple(example for wanted in task.reference_requests() for example in self._fulfil(wanted, task, image))

    def remember_round(self, task: InteractionRequest, notes: NewNotes, version: str, done: Round) -> None:
        """Keep what was asked and answered, and the prompts on the page when there were any."""
        kept = Notes(page_key(task), notes.now, notes.seen) if task.marks else None
        work = partial(self.sessions.remember, _object_key(task), version, done, kept)
        self.late.write(f"a round about task {task.task_id}", work)

    def remember_shown(self, task: InteractionRequest, image: KeyedImage) -> None:
        """Keep the examples that an image shows for the project's other tasks, in place of those that it showed before."""
        if not task.references and all(reference.label is not None for reference in task.typed.references):
            return
        place = repr((task.labels.image.name, task.image.item_index, task.task_id, task.annotator))
        draft = "draft " + hashlib.blake2b(place.encode(errors="surrogatepass"), digest_size=16).hexdigest()
        shown = [mark for mark in task.references if mark.role is Role.REFERENCE]
        blank = Example(task.project, task.task_id, draft, "", task.image_url, None, NOTHING_DRAWN)
        examples = [replace(blank, region=mark.short_id, runs=runs) for mark, runs in masks_of(shown, image.size)]
        work = partial(self.memory.replace, task.project, draft, examples)
        self.late.write(f"what task {task.task_id} shows", work)

    def _fulfil(self, wanted: ReferenceRequest, task: InteractionRequest, image: KeyedImage) -> Iterator[ReferencePrompt]:
        found = [example_on(image, runs, wanted.positive) for _, runs in masks_of(wanted.here, image.size)]
        try:
            found.extend(self._elsewhere(wanted, task))
        except StoreError as error:
            if not found and wanted.positive:
                raise
            log.warning("task %s is answered without examples of other tasks: %s", task.task_id, error)
        if not found and wanted.positive:
            raise nothing_to_compare(wanted.label)
        yield from found

    def _elsewhere(self, wanted: ReferenceRequest, task: InteractionRequest) -> Iterator[ReferencePrompt]:
        """Examples on other images of the project; those that cannot be seen again are left out."""
        for example in self.memory.recall(task.project, wanted.label, wanted.elsewhere) if wanted.elsewhere else ():
            if example.image_url == task.image_url:
                continue
            try:
                image = self.images.load(example.image_url, example.project, example.task)
            except MaskloomError as error:
                log.warning("an example of task %s cannot be seen again: %s", example.task, error)
                continue
            if image.size == example.runs.size:
                yield example_on(image, example.runs, wanted.positive)


def _object_key(task: InteractionRequest) -> SessionKey:
    page, label = task.image.item_index or 0, task.armed_label or ""
    return SessionKey(task.project, task.task_id, task.annotator, task.labels.image.name, page, label)


def page_key(task: InteractionRequest) -> SessionKey:
    return replace(_object_key(task), label="")


def _whose(key: SessionKey) -> tuple[SessionKey, ...]:
    """The annotator's session, and the one from before the first draft told who it is."""
    return (key, replace(key, annotator="")) if key.annotator else (key,)
