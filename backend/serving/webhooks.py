"""Webhooks: accepted and deleted annotations, which Label Studio tells of, reach the memory bank in the background."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import replace

from backend.background import PAUSES_S, Worker, insist
from backend.labelstudio.events import Accepted, Gone, TrainingAsked, read_event
from backend.labelstudio.verdicts import compare
from backend.stores.answers import Answers
from backend.stores.memory import MemoryBank
from backend.values.errors import RequestError, StoreError
from backend.values.session import Example

log = logging.getLogger(__name__)

MOST_WAITING = 10_000
MOST_BYTES = 64 << 20
"""Of all events that wait."""
ADVICE = "`maskloom remember` makes the memory of a project what its annotations say"


class AnnotationEvents:
    """Takes the bodies of webhooks at once, as Label Studio waits for a second at most, and reads them in the background;
    ``hear`` is told of each project whose memory may have changed, and of the labels, ``train`` of each that somebody wants to
    train. Of a region whose image this server ``knows`` not, nothing is kept: whoever reaches the address of webhooks could
    have it fetch what they like.
    """

    def __init__(
        self,
        memory: MemoryBank,
        answers: Answers | None = None,
        key_of: Callable[[str], str] = str,
        hear: Callable[[str, Collection[str]], None] = lambda project, labels: None,
        knows: Callable[[str, str], bool] = lambda url, project: True,
        train: Callable[[str], None] = lambda project: None,
    ) -> None:
        self._memory = memory
        self._answers = answers
        self._key_of = key_of
        self._hear = hear
        self._knows = knows
        self._train = train
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
                    told = self._of_known_images(told)
                    take(told, self._memory)
                    self._hear(told.project, {each.label for each in told.examples if each.label is not None})
                case Gone():
                    self._memory.forget(told.project, annotations=told.annotations, tasks=told.tasks)
                    self._hear(told.project, ())
                case TrainingAsked() if self._memory.labels(told.project):
                    self._train(told.project)

    def _of_known_images(self, told: Accepted) -> Accepted:
        """An annotation with those of its regions whose images are known."""
        urls = {each.image_url for each in (*told.examples, *(told.suggested or ()))}
        unknown = {url for url in urls if not self._knows(url, told.project)}
        if not unknown:
            return told
        log.warning(
            "annotation %s: the regions of %d images are not remembered, as no task with these addresses was asked about; %s",
            told.annotation,
            len(unknown),
            ADVICE,
        )

        def known(examples: tuple[Example, ...]) -> tuple[Example, ...]:
            return tuple(each for each in examples if each.image_url not in unknown)

        suggested = None if told.suggested is None else known(told.suggested)
        return replace(told, submission=replace(told.submission, examples=known(told.examples)), suggested=suggested)


def take(told: Accepted, memory: MemoryBank) -> bool:
    """Remember an annotation with what it says about the suggestions; False where it is not to be remembered."""
    found = compare(told.examples, told.suggested, told.was_derived)
    return memory.submit(replace(told.submission, examples=found.examples, noticed=found.noticed))
