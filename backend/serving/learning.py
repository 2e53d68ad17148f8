"""What the annotations of a project teach about its labels: their regions become places in the engine's eyes, kept by version.

An answer waits for them a few seconds at most; what is not there yet is learnt in the background, for the next answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from backend.background import Worker
from backend.caches import Bounds, DiskCache, SingleFlight
from backend.images.limits import ImageSource
from backend.segmenter import EngineSource, Segmenter
from backend.serving.learnt import (
    MOST_LABELS,
    NOTHING_LEARNT,
    ExampleImage,
    ExampleSource,
    LabelExamples,
    Learnt,
    examples_of,
    images_of,
)
from backend.values.errors import MaskloomError, StoreError
from prompts.examples import ShownImage
from prompts.memory import LabelMemory
from prompts.phrases import Vocabulary

log = logging.getLogger(__name__)

MOST_KEPT_BYTES = 128 << 20
WANTED_S = 300.0
"""So long what an image shows is held that no answer wanted meanwhile; it is on disk as well."""
MOST_LISTS, MOST_LISTED_BYTES = 256, 64 << 20
"""Labels whose examples are held, of all projects, and what they and the images that they lie on may take."""
MOST_WAITING = 1_000
MOST_ASKED = 64
"""Projects of which is known what was asked last."""
PATIENCE_S = 3.0
"""So long an answer waits for examples that nobody has looked at yet."""
AHEAD_S = 120.0
"""So long what the next answer needs is waited for in the background."""
CLOSING_S = 1.0
UNREADABLE_S = 300.0
"""So long an image that could not be read is not asked for again."""


class Asking(Protocol):
    """Who is to be taught: a task, and the labels that are looked for on it."""

    @property
    def task_id(self) -> str: ...

    @property
    def vocabulary(self) -> Vocabulary: ...


class ProjectAsking(Asking, Protocol):
    """Of a project."""

    @property
    def project(self) -> str: ...


Teach = Callable[[Asking, Segmenter], tuple[LabelMemory, ...]]


def teach_nothing(asking: Asking, segmenter: Segmenter) -> tuple[LabelMemory, ...]:
    """For runs without memory."""
    return ()


class Learning:
    """Learns from the examples of projects; ``least`` tells what training found for a project, the least score of a suggestion
    of each label. Whatever cannot be read or remembered costs its share of what is known, never an answer.
    """

    def __init__(
        self,
        bank: ExampleSource,
        images: ImageSource,
        kept: DiskCache[ShownImage],
        least: Callable[[str], Mapping[str, float]] = lambda project: {},
    ) -> None:
        self._bank = bank
        self._least = least
        self._images = images
        self._kept = kept
        self._known: OrderedDict[str, tuple[float, ShownImage]] = OrderedDict()
        self._known_bytes = 0
        self._lists: OrderedDict[tuple[str, str], LabelExamples] = OrderedDict()
        self._wants: SingleFlight[list[ExampleImage]] = SingleFlight(
            Bounds(MOST_LISTED_BYTES, lambda images: sum(image.nbytes for image in images) + 1)
        )
        self._asked: OrderedDict[str, Vocabulary] = OrderedDict()
        self._due: set[str] = set()
        self._complete: SingleFlight[Learnt] = SingleFlight(Bounds(MOST_KEPT_BYTES, lambda learnt: learnt.nbytes))
        self._unreadable: dict[str, float] = {}
        self._under_way: set[str] = set()
        self._changed = threading.Condition()
        self._worker: Worker[tuple[ExampleImage, Segmenter]] = Worker("learning", self._learn, MOST_WAITING)
        self._ahead: Worker[tuple[str, Vocabulary, EngineSource]] = Worker("learning ahead", self._prepare, MOST_ASKED)

    def about(self, task: ProjectAsking, engine: EngineSource, patience_s: float = PATIENCE_S) -> Learnt:
        """What is known about the labels of a task after at most so many seconds."""
        with self._changed:
            self._asked[task.project] = task.vocabulary
            self._asked.move_to_end(task.project)
            while len(self._asked) > MOST_ASKED:
                self._asked.popitem(last=False)
        try:
            return self.learnt(task.project, task.vocabulary, engine.segmenter(), patience_s)
        except Exception as error:
            log.warning("task %s is answered without what annotations taught: %s", task.task_id, error)
            return NOTHING_LEARNT

    def learnt(self, project: str, vocabulary: Vocabulary, segmenter: Segmenter, patience_s: float = PATIENCE_S) -> Learnt:
        """What is known about the labels of a vocabulary after at most so many seconds."""
        if not project or not segmenter.can_learn:
            return NOTHING_LEARNT
        try:
            wanted = self._wanted(project, vocabulary.labels[:MOST_LABELS])
            least = self._least(project) if wanted else {}
        except StoreError as error:
            log.warning("project %s is answered without what its annotations taught: %s", project, error)
            return NOTHING_LEARNT
        if not wanted:
            return NOTHING_LEARNT
        found = self._shown(wanted, segmenter, patience_s)
        images = tuple((image, found[image.key]) for image in wanted if image.key in found)
        missing = tuple(image.task for image in wanted if image.key not in found)
        trained = tuple(sorted((label, score) for label, score in least.items() if label in vocabulary.labels))
        learnt = Learnt(vocabulary.entries[:MOST_LABELS], images, segmenter.engine.version, missing, trained)
        return self._complete.do(repr((learnt.digest, learnt.labels, missing)), lambda: learnt)

    def hear(self, engine: EngineSource, project: str, labels: Collection[str]) -> None:
        """Begin to learn what annotations have just said about labels, so that the next answer need not wait for it."""
        with self._changed:
            if project in self._due:
                return
            vocabulary = self._asked.get(project) or Vocabulary.from_names(sorted(labels))
            if len(vocabulary) and self._ahead.offer((project, vocabulary, engine)):
                self._due.add(project)

    def wait(self) -> None:
        """Until everything that was begun in the background has ended."""
        self._ahead.wait()
        self._worker.wait()

    def close(self) -> None:
        """Begin nothing more, and let what is under way end if it takes no longer than a moment."""
        self._ahead.close(0.0)
        self._worker.close(CLOSING_S)

    def _prepare(self, work: tuple[str, Vocabulary, EngineSource]) -> None:
        project, vocabulary, engine = work
        with self._changed:
            self._due.discard(project)  # what is heard from now on is learnt once more
        self.learnt(project, vocabulary, engine.segmenter(), AHEAD_S).prepare()

    def _wanted(self, project: str, labels: Collection[str]) -> list[ExampleImage]:
        """The images to learn from; what has changed since is read anew, label by label."""
        changes = self._bank.changes(project, labels)
        with self._changed:
            known = {label: self._lists.get((project, label)) for label in labels}
        found = {label: each for label, each in known.items() if each is not None and each.changes == changes[label]}
        fresh = [label for label in labels if label not in found]
        found |= {label: examples_of(self._bank, project, label, changes[label]) for label in fresh}
        with self._changed:
            for label in labels:
                self._lists[project, label] = found[label]
                self._lists.move_to_end((project, label))
            while sum(each.nbytes for each in self._lists.values()) > MOST_LISTED_BYTES or len(self._lists) > MOST_LISTS:
                self._lists.popitem(last=False)
        told = [each for each in found.values() if each.accepted or each.rejected]
        if not told:
            return []
        key = repr((project, [(label, changes[label]) for label in labels]))
        return self._wants.do(key, lambda: images_of([found[label] for label in labels]))

    def _shown(self, wanted: Sequence[ExampleImage], segmenter: Segmenter, patience_s: float) -> dict[str, ShownImage]:
        """What images show, as far as it is known in time."""
        version, until = segmenter.engine.version, time.monotonic() + patience_s
        found = {image.key: self._recalled(key_of(image, version)) for image in wanted}
        missing = [image for image in wanted if found[image.key] is None]
        for image in missing:
            self._begin(image, segmenter)
        with self._changed:
            keys = {key_of(image, version) for image in missing}
            self._changed.wait_for(lambda: self._under_way.isdisjoint(keys), max(0.0, until - time.monotonic()))
        found |= {image.key: self._recalled(key_of(image, version)) for image in missing}
        return {key: shown for key, shown in found.items() if shown is not None}

    def _recalled(self, key: str) -> ShownImage | None:
        with self._changed:
            _, known = self._known.get(key, (0.0, None))
        shown = self._kept.get(key) if known is None else known
        if shown is not None:
            self._keep(key, shown)
        return shown

    def _keep(self, key: str, shown: ShownImage) -> None:
        """Hold what somebody wants now, and give up what nobody wanted for a while, or there is no room for."""
        now = time.monotonic()
        with self._changed:
            _, before = self._known.pop(key, (0.0, None))
            self._known[key] = now, shown
            if before is not shown:
                self._known_bytes += shown.nbytes - (0 if before is None else before.nbytes)
            while len(self._known) > 1:
                oldest, (wanted_at, left) = next(iter(self._known.items()))
                if now - wanted_at < WANTED_S and self._known_bytes <= MOST_KEPT_BYTES:
                    break
                del self._known[oldest]
                self._known_bytes -= left.nbytes

    def _begin(self, image: ExampleImage, segmenter: Segmenter) -> None:
        """Learn an image in the background, unless somebody does, or it could not be read a while ago."""
        key = key_of(image, segmenter.engine.version)
        with self._changed:
            if key in self._under_way or time.monotonic() - self._unreadable.get(key, -UNREADABLE_S) < UNREADABLE_S:
                return
            self._under_way.add(key)
        if not self._worker.offer((image, segmenter)):
            self._end(key)

    def _end(self, key: str) -> None:
        with self._changed:
            self._under_way.discard(key)
            self._changed.notify_all()

    def _learn(self, work: tuple[ExampleImage, Segmenter]) -> None:
        image, segmenter = work
        key = key_of(image, segmenter.engine.version)
        try:
            shown = look(image, self._images, segmenter)
            self._keep(key, shown)
            self._kept.put(key, shown)
        except Exception:
            with self._changed:
                self._unreadable = {key: at for key, at in self._unreadable.items() if time.monotonic() - at < UNREADABLE_S}
                self._unreadable[key] = time.monotonic()
            raise
        finally:
            self._end(key)


def look(image: ExampleImage, images: ImageSource, segmenter: Segmenter) -> ShownImage:
    """What an image shows. Raises MaskloomError when it cannot be seen again as it was."""
    found = images.load(image.url, image.project, image.task or None)
    if found.size != image.size:
        raise MaskloomError(f"the image of task {image.task} has another size than when its regions were accepted")
    regions, refused = ([(label, runs.decode()) for label, runs in side] for side in (image.regions, image.refused))
    return segmenter.show(found, regions, refused)


def key_of(image: ExampleImage, version: str) -> str:
    """Under which it is kept what an image shows to an engine."""
    return f"{version} {image.key}"
