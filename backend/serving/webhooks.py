"""Webhooks: accepted and deleted annotations, which Label Studio tells of, reach the memory bank in the background."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import replace

from backend.background import PAUSES_S, Worker, insist
from backend.labelstudio.events import Accepted, Gone, read_event
from backend.labelstudio.verdicts import compare
from backend.stores.answers import Answers
from backend.stores.memory import MemoryBank
from backend.values.errors import RequestError, StoreError

log = logging.getLogger(__name__)

MOST_WAITING = 10_000
MOST_BYTES = 64 << 20
"""Of all events that wait."""
ADVICE = "`maskloom remember` makes the memory of a project what its annotations say"


class AnnotationEvents:
    """Takes the bodies of webhooks at once, as Label Studio waits for a second at most, and reads them in the background;
    ``hear`` is told of each project whose memory may have changed, and of the labels.
    """

    def __init__(
        self,
        memory: MemoryBank,
        answers: Answers | None = None,
        key_of: Callable[[str], str] = str,
        hear: Callable[[str, Collection[str]], None] = lambda project, labels: None,
    ) -> None:
        self._memory = memory
        self._answers = answers
        self._key_of = key_of
        self._hear = hear
        self._is_closing = threading.Event()
        self._worker: Worker[bytes] = Worker("webhooks", self._persist, MOST_WAITING, MOST_BYTES, len)

    def enqueue(self, body: bytes) -> None:
        """Keep an event for later; one that is too large, alone or with those that wait, or one too many is left out."""
        if not self._worker.offer(body):
            log.warning("an event of %d bytes was left out: too many wait, or too large ones; %s", len(body), ADVICE)

    @property
    def waiting(self) -> int:
        """How many events wait to be read."""
        return self._worker.waiting

    def wait(self) -> None:
        """Until everything that was taken has been read."""
        self._worker.wait()

    def close(self, patience_s: float) -> None:
        """Read what waits, and take nothing more; no pauses are made any more."""
        self._is_closing.set()
        self._worker.close(patience_s)

    def _persist(self, body: bytes) -> None:
        """Label Studio sends an event once and believes that it was heard."""
        try:
            insist(lambda: self._remember(body), PAUSES_S, self._is_closing)
        except StoreError as error:
            raise StoreError(f"an event was not remembered: {error}; {ADVICE}") from error

    def _remember(self, body: bytes) -> None:
        try:
            event = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"an event of {len(body)} bytes is no JSON: {error}") from error
        for told in read_event(event, self._answers.about if self._answers else lambda project, task: (), self._key_of):
            match told:
                case Accepted():
                    take(told, self._memory)
                    self._hear(told.project, {each.label for each in told.examples if each.label is not None})
                case Gone():
                    self._memory.forget(told.project, annotations=told.annotations, tasks=told.tasks)
                    self._hear(told.project, ())


def take(told: Accepted, memory: MemoryBank) -> bool:
    """Remember an annotation with what it says about the suggestions; False where it is not to be remembered."""
    examples = compare(told.examples, told.suggested, told.was_derived)
    return memory.submit(replace(told.submission, examples=tuple(examples)))
