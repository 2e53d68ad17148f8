"""The gate of a memory: does a version find what was accepted as well as the one before, and which of its regions are doubtful?

Every task is asked without what it shows itself, so that nothing is measured on what was taught.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

import numpy as np

from backend.images.limits import ImageSource
from backend.segmenter import Segmenter
from backend.serving.learning import Teach, teach_nothing
from backend.stores.snapshots import FrozenMemory
from backend.values.errors import MaskloomError
from backend.values.masks import Masks, MaskSet, overlaps
from backend.values.session import Example, ForNames
from prompts.kinds import PromptError
from prompts.phrases import LabelPhrases, Vocabulary

log = logging.getLogger(__name__)

MOST_TASKS = 24
"""Tasks that are asked, those that were submitted last."""
FOUND_IOU = 0.5
LOST_IOU = 0.1
SLACK = 0.001
"""So much less is no worse: what is measured on a few regions is no more exact."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A region that the rest of the memory contradicts: it ``looks_like`` another label, or, if that is empty, like none."""

    task: str
    annotation: str
    region: str
    label: str
    looks_like: str = ""


@dataclass(slots=True)
class Tally:
    """What was found of the accepted regions: the IoU of each region by label, and how many answers were wrong."""

    ious: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    wrong: int = 0
    regions: list[tuple[Example, float, str]] = field(default_factory=list)

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


@dataclass(frozen=True, slots=True)
class Gate:
    """Weighs versions of memories on the images of a project with an engine."""

    segmenter: Callable[[], Segmenter]
    images: ImageSource
    teacher: Callable[[FrozenMemory | None], Teach]

    def weigh(self, memory: FrozenMemory, before: FrozenMemory | None) -> dict[str, Any]:
        """What was measured of a version and of the one before (None: without any), as plain values; ``is_no_worse`` sums up.

        A version that cannot be weighed, as nothing else than one task is known, is no worse.
        """
        tasks = _newest_tasks(memory)
        now = self._ask(tasks, memory)
        then = self._ask(tasks, before)
        is_weighed = len({each.task for each in memory.examples}) > 1 and bool(now.regions)
        return {
            "is_no_worse": not is_weighed or now.quality >= then.quality - SLACK,
            "is_weighed": is_weighed,
            "tasks": len(tasks),
            "regions": len(now.regions),
            "quality": round(now.quality, 4),
            "quality_before": round(then.quality, 4),
            "iou": round(now.iou, 4),
            "iou_before": round(then.iou, 4),
            "before": before.name if before is not None else "no memory",
            "doubtful": [_plain(doubt) for doubt in _doubts(now)],
        }

    def _ask(self, tasks: Mapping[tuple[str, str], list[Example]], memory: FrozenMemory | None) -> Tally:
        tally, segmenter = Tally(), self.segmenter()
        teach = self.teacher(memory) if memory is not None else teach_nothing
        labels = sorted({str(each.label) for found in tasks.values() for each in found})
        vocabulary = Vocabulary(tuple(LabelPhrases.of(label) for label in labels))
        for (task, url), shown in tasks.items():
            try:
                image = self.images.load(url, shown[0].project, task or None)
                learnt = teach(_Asked(task, vocabulary), segmenter)
                (done,) = segmenter.segment([ForNames(image, vocabulary, learnt)])
            except (MaskloomError, PromptError) as error:
                log.warning("task %s cannot be weighed: %s", task, error)
                continue
            if not isinstance(done, MaskloomError) and done.masks.size == shown[0].runs.size:
                _add(tally, shown, done.masks)
        return tally


@dataclass(frozen=True, slots=True)
class _Asked:
    task_id: str
    vocabulary: Vocabulary


def _newest_tasks(memory: FrozenMemory) -> dict[tuple[str, str], list[Example]]:
    """The accepted regions of the tasks that were submitted last, by task and image; those of one size on an image."""
    tasks: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in sorted(memory.examples, key=lambda each: (-each.made_at, each.task, each.region)):
        same = tasks[example.task, example.image_url]
        if not same or same[0].runs.size == example.runs.size:
            same.append(example)
    return dict(list(tasks.items())[:MOST_TASKS])


def _add(tally: Tally, shown: Sequence[Example], found: MaskSet) -> None:
    ious, _ = overlaps(Masks(found.size, (*(each.runs for each in shown), *found.masks.runs)))
    between = np.asarray(ious, np.float64).reshape(len(shown) + len(found), -1)[: len(shown), len(shown) :]
    same = np.array([[label == each.label for label in found.labels] for each in shown], np.bool_).reshape(between.shape)
    right = np.where(same, between, 0.0)
    best = right.max(axis=1) if len(found) else np.zeros(len(shown))
    for row, example in enumerate(shown):
        tally.ious[str(example.label)].append(float(best[row]))
        other = int(between[row].argmax()) if len(found) else -1
        looks_like = str(found.labels[other]) if other >= 0 and between[row, other] > FOUND_IOU else ""
        tally.regions.append((example, float(best[row]), looks_like if looks_like != example.label else ""))
    tally.wrong += int((right.max(axis=0) <= FOUND_IOU).sum()) if len(found) else 0


def _doubts(tally: Tally) -> Iterator[Doubt]:
    """Regions that the others of their label do not find: as another label is there, or nothing, where the rest is found."""
    for example, iou, looks_like in tally.regions:
        others = [each for each in tally.ious[str(example.label)] if each is not iou]
        is_lost = iou < LOST_IOU and len(others) > 1 and median(others) > FOUND_IOU
        if (iou < FOUND_IOU and looks_like) or is_lost:
            yield Doubt(example.task, example.annotation, example.region, str(example.label), looks_like)


def _plain(doubt: Doubt) -> dict[str, str]:
    return {name: getattr(doubt, name) for name in ("task", "annotation", "region", "label", "looks_like")}
