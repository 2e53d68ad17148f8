"""Versions of a memory in bulk runs: which one a run uses, and what it teaches, the same for every item wherever it is done."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from backend.caches import DiskCache
from backend.images.limits import ImageSource
from backend.labelstudio.api import Project
from backend.segmenter import Segmenter
from backend.serving.learning import Asking, Learning, ProjectAsking
from backend.serving.learnt import MOST_EXAMPLES, ExampleImage, Learnt
from backend.stores.memory import MemoryBank
from backend.stores.snapshots import FrozenMemory, Snapshot, Snapshots
from backend.values.errors import RequestError
from prompts.examples import ShownImage
from prompts.memory import Doubt, LabelMemory
from prompts.phrases import Vocabulary

log = logging.getLogger(__name__)

NEWEST, NONE, CHOSEN = "newest", "none", ""
"""What ``--memory`` can say beside a number; nothing said means the version that was chosen for bulk runs."""
LOOKING_S = 3600.0
"""So long a run waits until its examples have been looked at: what it answers must not depend on how busy a machine is."""


def teach_newest(learning: Learning, asking: ProjectAsking, segmenter: Segmenter) -> tuple[LabelMemory, ...]:
    """For runs that go on with what the page was asked: what is known at the moment."""
    return learning.learnt(asking.project, asking.vocabulary, segmenter).besides(asking.task_id)


class Teaching:
    """Teaches every item of a run from one version."""

    def __init__(self, memory: FrozenMemory, images: ImageSource, places: DiskCache[ShownImage]) -> None:
        self._memory = memory
        self._learning = Learning(memory, images, places, memory.least)
        self._known: dict[Vocabulary, Learnt] = {}
        self._one_learns = threading.Lock()

    def __call__(self, asking: Asking, segmenter: Segmenter) -> tuple[LabelMemory, ...]:
        """The memories of the labels, without what the task itself shows. Raises RequestError when the version cannot be used
        as it is, because an image of it cannot be seen any more.
        """
        with self._one_learns:
            learnt = self._known.get(asking.vocabulary)
            if learnt is None:
                learnt = self._learn(asking.vocabulary, segmenter)
                self._known = {**self._known, asking.vocabulary: learnt} if len(self._known) < 100 else {}
        return learnt.besides(asking.task_id)

    def doubts(self, vocabulary: Vocabulary, segmenter: Segmenter) -> list[tuple[ExampleImage, Doubt]]:
        """The examples that nothing is learnt from, as they look wrong."""
        return self._learn(vocabulary, segmenter).doubts()

    def _learn(self, vocabulary: Vocabulary, segmenter: Segmenter) -> Learnt:
        learnt = self._learning.learnt(self._memory.project, vocabulary, segmenter, LOOKING_S)
        if learnt.missing:
            raise RequestError(
                f"{self._memory.name} cannot be used: the images of tasks {', '.join(learnt.missing[:8])} cannot be seen any "
                "more (the log says why); leave memory out with --memory none, or freeze a new version"
            )
        return learnt


Weigh = Callable[[FrozenMemory, FrozenMemory | None], Mapping[str, Any]]


class Memories:
    """Finds the version that a run asks for; ``weigh`` is the gate that a version has to pass before bulk runs use it without
    being told: it measures one against the one before, and says ``is_no_worse``. ``key_of`` tells under which key a project of
    Label Studio is remembered.
    """

    def __init__(self, bank: MemoryBank, snapshots: Snapshots, weigh: Weigh, key_of: Callable[[Project], str]) -> None:
        self.key_of = key_of
        self._bank = bank
        self._snapshots = snapshots
        self._weigh = weigh

    def find(self, asked: str, project: str) -> FrozenMemory | None:
        """The version that ``--memory`` says; None for a run without memory. A memory that was never frozen is frozen now.

        Raises RequestError for what cannot be meant, or a version that is not there.
        """
        match asked:
            case "none":
                return None
            case "newest":
                return self._load(self._frozen(project))
            case "":
                return self._chosen(project)
            case _ if asked.isdecimal():
                return self._load(self._snapshots.get(project, int(asked)))
            case _:
                raise RequestError(f"--memory can be a number, {NEWEST} or {NONE}, not {asked[:40]!r}")

    def only_frozen(self) -> Memories:
        """The same for who only tells what would be done: nothing is frozen that is not yet."""
        return _OnlyFrozen(self._bank, self._snapshots, self._weigh, self.key_of)

    def freeze(self, project: str) -> tuple[Snapshot | None, bool]:
        """Freeze a memory as it is now and weigh it; bulk runs use it if it is no worse. The version, and whether they do."""
        frozen = self._frozen(project)
        memory = self._load(frozen)
        if frozen is None or memory is None:
            return None, False
        before = self._snapshots.for_bulk(project)
        report = self._weigh(memory, self._load(before) if before is not None and before.n != frozen.n else None)
        self._snapshots.note(project, frozen.n, report)
        if is_good := bool(report["is_no_worse"]):
            self._snapshots.choose(project, frozen.n)
        return self._snapshots.get(project, frozen.n), is_good

    def adopt(self, project: str, least: Mapping[str, float], report: Mapping[str, Any]) -> Snapshot:
        """A version with what training has found, which is used from now on; going back to an earlier one takes it away."""
        frozen = self._snapshots.freeze(project, least)
        if frozen is None:
            raise RequestError(f"project {project} has nothing to freeze any more")
        self._snapshots.note(project, frozen.n, report)
        self._snapshots.choose(project, frozen.n)
        return self._snapshots.get(project, frozen.n)

    def _frozen(self, project: str) -> Snapshot | None:
        return self._snapshots.freeze(project)

    def _chosen(self, project: str) -> FrozenMemory | None:
        known = self._snapshots.all(project)
        if not known:
            frozen, is_good = self.freeze(project)
            return self._load(frozen) if is_good else None
        lost = next((each for each in known if each.is_for_bulk and each.is_withdrawn), None)
        if lost is not None:
            log.warning("%s of project %s is withdrawn; bulk runs go without memory until one is frozen", lost.name, project)
        return self._load(self._snapshots.for_bulk(project))

    def _load(self, snapshot: Snapshot | None) -> FrozenMemory | None:
        if snapshot is None:
            return None
        project, n = snapshot.project, snapshot.n
        labels = self._snapshots.labels(project, n)
        accepted = [each for label in labels for each in self._bank.recall(project, label, MOST_EXAMPLES, n)]
        rejected = [each for label in labels for each in self._bank.rejected(project, label, MOST_EXAMPLES, n)]
        return FrozenMemory(snapshot, accepted, rejected)


class _OnlyFrozen(Memories):
    """Finds what was frozen before, and writes nothing."""

    def freeze(self, project: str) -> tuple[Snapshot | None, bool]:
        return self._frozen(project), False

    def _frozen(self, project: str) -> Snapshot | None:
        return next((each for each in self._snapshots.all(project) if not each.is_withdrawn), None)
