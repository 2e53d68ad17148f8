"""The gate of a memory: does a version find what was accepted as well as the one before, and which of its regions are doubtful?

Every task is asked without what it shows itself, so that nothing is measured on what was taught.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.images.limits import ImageSource
from backend.segmenter import Segmenter
from backend.serving.learning import Teach, teach_nothing
from backend.serving.learnt import ExampleImage
from backend.serving.versions import Teaching
from backend.stores.snapshots import FrozenMemory
from backend.values.errors import MaskloomError
from backend.values.masks import Masks, MaskSet, overlaps
from backend.values.session import Example, ForNames
from prompts.kinds import PromptError
from prompts.memory import Doubt
from prompts.phrases import LabelPhrases, Vocabulary

log = logging.getLogger(__name__)

MOST_TASKS = 24
"""Tasks that are asked, those that were submitted last."""
FOUND_IOU = 0.5
SLACK = 0.001
"""So much less is no worse: what is measured on a few regions is no more exact."""


@dataclass(slots=True)
class Tally:
    """What was found of the accepted regions: the IoU of each region by label, and how many answers were wrong."""

    ious: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    wrong: int = 0

    @property
    def iou(self) -> float:
        """The mean IoU of the accepted regions with the best answer of their label."""
        return mean(found) if (found := [iou for each in self.ious.values() for iou in each]) else 0.0

    @property
    def quality(self) -> float:
        """Panoptic quality (Kirillov et al. 2019): the IoU of what was found, over what there is and what was wrong."""
        all_ious = [iou for each in self.ious.values() for iou in each]
        found = [iou for iou in all_ious if iou > FOUND_IOU]
        missed = len(all_ious) - len(found)
        return sum(found) / (len(found) + missed / 2 + self.wrong / 2) if all_ious else 0.0


Tasks = Mapping[tuple[str, str], Sequence[Example]]
"""The accepted regions of tasks, by task and image."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Weighs versions of memories on the images of a project with an engine; ``known`` tells what the labels of a project are
    called.
    """

    segmenter: Callable[[], Segmenter]
    images: ImageSource
    teacher: Callable[[FrozenMemory], Teaching]
    known: Callable[[str], Vocabulary]

    def weigh(self, memory: FrozenMemory, before: FrozenMemory | None) -> dict[str, Any]:
        """What was measured of a version and of the one before (None: without any), as plain values; ``is_no_worse`` sums up,
        and ``doubtful`` are the regions that nothing is learnt from.

        A version that cannot be weighed, as nothing else than one task is known, is no worse.
        """
        tasks, vocabulary = newest_tasks(memory, MOST_TASKS), self.vocabulary_of(memory)
        teaching = self.teacher(memory)
        now = self.tally(tasks, vocabulary, teaching)
        then = self.tally(tasks, vocabulary, self.teacher(before) if before is not None else teach_nothing)
        is_weighed = len({each.task for each in memory.examples}) > 1 and bool(now.ious)
        return {
            "is_no_worse": not is_weighed or now.quality >= then.quality - SLACK,
            "is_weighed": is_weighed,
            "tasks": len(tasks),
            "regions": sum(map(len, now.ious.values())),
            "quality": round(now.quality, 4),
            "quality_before": round(then.quality, 4),
            "iou": round(now.iou, 4),
            "iou_before": round(then.iou, 4),
            "before": before.name if before is not None else "no memory",
            "doubtful": self.doubtful(memory, teaching),
        }

    def vocabulary_of(self, memory: FrozenMemory) -> Vocabulary:
        """All labels of a memory with the phrases that the project has for them: they compete, as they do on the page."""
        known = {entry.label: entry for entry in self.known(memory.project).entries}
        labels = sorted({str(each.label) for each in memory.examples})
        return Vocabulary(tuple(known.get(label) or LabelPhrases.of(label) for label in labels))

    def doubtful(self, memory: FrozenMemory, teaching: Teaching) -> list[dict[str, str]]:
        """The regions of a memory that nothing is learnt from, as plain values."""
        doubts = teaching.doubts(self.vocabulary_of(memory), self.segmenter())
        return [each for image, doubt in doubts for each in _doubtful(memory, image, doubt)]

    def tally(self, tasks: Tasks, vocabulary: Vocabulary, teach: Teach) -> Tally:
        """What is found of accepted regions."""
        tally = Tally()
        for shown, found in self.answers(tasks, vocabulary, teach):
            _add(tally, shown, found)
        return tally

    def answers(self, tasks: Tasks, vocabulary: Vocabulary, teach: Teach) -> Iterator[tuple[Sequence[Example], MaskSet]]:
        """The accepted regions of each task with what is suggested for it, without what the task itself teaches."""
        segmenter = self.segmenter()
        for (task, url), shown in tasks.items():
            try:
                image = self.images.load(url, shown[0].project, task or None)
                learnt = teach(_Asked(task, vocabulary), segmenter)
                (done,) = segmenter.segment([ForNames(image, vocabulary, learnt)])
            except (MaskloomError, PromptError) as error:
                log.warning("task %s cannot be weighed: %s", task, error)
                continue
            if not isinstance(done, MaskloomError) and done.masks.size == shown[0].runs.size:
                yield shown, done.masks


@dataclass(frozen=True, slots=True)
class _Asked:
    task_id: str
    vocabulary: Vocabulary


def newest_tasks(memory: FrozenMemory, most: int) -> dict[tuple[str, str], list[Example]]:
    """The accepted regions of the tasks that were submitted last, by task and image; those of one size on an image."""
    tasks: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in sorted(memory.examples, key=lambda each: (-each.made_at, each.task, each.region)):
        same = tasks[example.task, example.image_url]
        if not same or same[0].runs.size == example.runs.size:
            same.append(example)
    return dict(list(tasks.items())[:most])


def right_ious(shown: Sequence[Example], found: MaskSet) -> NDArray[np.float64]:
    """The IoU ``(N, M)`` of N accepted regions with M suggestions of the same label; 0 for those of another."""
    ious, _ = overlaps(Masks(found.size, (*(each.runs for each in shown), *found.masks.runs)))
    between = np.asarray(ious, np.float64).reshape(len(shown) + len(found), -1)[: len(shown), len(shown) :]
    same = np.array([[label == each.label for label in found.labels] for each in shown], np.bool_).reshape(between.shape)
    return np.where(same, between, 0.0)


def _add(tally: Tally, shown: Sequence[Example], found: MaskSet) -> None:
    right = right_ious(shown, found)
    for row, example in enumerate(shown):
        tally.ious[str(example.label)].append(float(right[row].max()) if len(found) else 0.0)
    tally.wrong += int((right.max(axis=0) <= FOUND_IOU).sum()) if len(found) else 0


def _doubtful(memory: FrozenMemory, image: ExampleImage, doubt: Doubt) -> Iterator[dict[str, str]]:
    """The regions of a label on an image, of which it is doubted that they show it, as plain values."""
    for each in memory.examples:
        if (each.task, each.image_url, each.label) == (image.task, image.url, doubt.label):
            where = {"task": each.task, "annotation": each.annotation, "region": each.region}
            yield {**where, "label": doubt.label, "looks_like": doubt.looks_like or ""}
