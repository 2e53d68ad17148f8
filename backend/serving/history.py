"""What is known when a request arrives: earlier prompts on the same object, the last answer about it, and examples."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backend.images import ImageSource
from backend.labelstudio.request.joining import join, notes_of
from backend.labelstudio.request.likeness import Wish, nothing_to_compare, wishes
from backend.labelstudio.request.request import TaskRequest
from backend.labelstudio.shapes.base import Role
from backend.stores.memory import MemoryBank
from backend.stores.sessions import SessionStore
from backend.values.errors import MaskloomError
from backend.values.session import Example, Round, SessionKey
from prompts.geometry import BoolArray, size_of
from prompts.kinds import Image, PromptSet, ReferencePrompt
from prompts.memory import ObjectMemory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recollection:
    """The sessions and the memory bank, read for one request and written after it."""

    sessions: SessionStore
    memory: MemoryBank
    images: ImageSource

    def complete(self, task: TaskRequest) -> TaskRequest:
        """The request with the earlier prompts that belong to its object."""
        return join(task, self._notes(task)) if task.interactive else task

    def last_answer(self, task: TaskRequest, version: str, prompts: PromptSet) -> ObjectMemory | None:
        """What the engine of this version answered before these prompts were added to."""
        if not prompts.drawn:
            return None
        found = (self.sessions.recall(key, version, prompts) for key in _whose(_object_key(task)))
        return next(filter(None, found), None)

    def examples(self, task: TaskRequest, image: Image) -> tuple[ReferencePrompt, ...]:
        """What to find more of, or not to find.

        Raises:
            RequestError: something is to be found that nothing shows.
        """
        self._keep_shown(task, image)
        return tuple(example for wish in wishes(task) for example in self._fulfil(wish, task, image))

    def finished(self, task: TaskRequest, image: Image) -> BoolArray:
        """The masks ``(M, H, W)`` that the annotation has already, where more of them are wanted."""
        wanted = task.draft.finished if task.likes or task.references else ()
        size = size_of(image)
        return np.stack([mark.mask(size) for mark in wanted]) if wanted else np.zeros((0, *image.shape[:2]), np.bool_)

    def keep(self, task: TaskRequest, version: str, done: Round) -> None:
        """Remember what was asked and answered; an answer that cannot be remembered is given all the same."""
        try:
            self.sessions.append(_object_key(task), version, done)
            if task.marks and task.interactive:
                self.sessions.note(_page_key(task), notes_of(task, self._notes(task)))
        except Exception:  # the disk is full, or another process holds the database or has just written the same note
            log.exception("a round about task %s could not be remembered", task.task_id)

    def _notes(self, task: TaskRequest) -> Sequence[Mapping[str, Any]]:
        found = (self.sessions.noted(key) for key in _whose(_page_key(task)))
        return next(filter(None, found), [])

    def _fulfil(self, wish: Wish, task: TaskRequest, image: Image) -> Iterator[ReferencePrompt]:
        masks = [mark.mask(size_of(image)) for mark in wish.here]
        found = [ReferencePrompt(image, mask, wish.positive) for mask in masks if mask.any()]
        for example in self.memory.recall(task.project, wish.label, wish.elsewhere) if wish.elsewhere else ():
            if example.image_url != task.image_url:
                found.extend(self._shown_elsewhere(example, wish.positive))
        if not found and wish.positive:
            raise nothing_to_compare(wish.label)
        yield from found

    def _shown_elsewhere(self, example: Example, positive: bool) -> Iterator[ReferencePrompt]:
        try:
            image = self.images.load(example.image_url, example.project, example.task)
        except MaskloomError as error:
            log.warning("an example of task %s cannot be seen again: %s", example.task, error)
            return
        if image.shape[:2] == example.mask.shape:
            yield ReferencePrompt(image, example.mask, positive)

    def _keep_shown(self, task: TaskRequest, image: Image) -> None:
        """Remember the examples of an image for the project's other tasks, in place of those that it showed before."""
        if not task.references and not any(like.label is None for like in task.likes):
            return
        place = repr((task.image_tag, task.item_index, task.task_id, task.annotator))
        draft = "draft " + hashlib.blake2b(place.encode(errors="surrogatepass"), digest_size=16).hexdigest()
        shown = [mark for mark in task.references if mark.role is Role.REFERENCE]
        masks = [(mark, mark.mask(size_of(image))) for mark in shown]
        blank = Example(task.project, task.task_id, draft, "", task.image_url, None, np.zeros((1, 1), np.bool_))
        examples = [replace(blank, region=mark.id[:50], mask=mask) for mark, mask in masks if mask.any()]
        self.memory.replace(task.project, draft, examples)


def _object_key(task: TaskRequest) -> SessionKey:
    page, label = task.item_index or 0, task.armed_label or ""
    return SessionKey(task.project, task.task_id, task.annotator, task.image_tag, page, label)


def _page_key(task: TaskRequest) -> SessionKey:
    return replace(_object_key(task), label="")


def _whose(key: SessionKey) -> tuple[SessionKey, ...]:
    """The annotator's session, and the one from before the first draft told who it is."""
    return (key, replace(key, annotator="")) if key.annotator else (key,)
