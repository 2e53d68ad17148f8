"""Training on a project's annotations: from which score on a suggestion of each label is worth making. It is fitted on some of
the tasks, and used only if it makes the suggestions for the others better.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.evaluation.gate import FOUND_IOU, SLACK, Gate, Tasks, newest_tasks, right_ious
from backend.serving.versions import NEWEST, Memories
from backend.stores.snapshots import FrozenMemory, Snapshot
from backend.values.errors import RequestError

MOST_TASKS = 200
"""Tasks that are looked at, those that were submitted last."""
FEWEST_TASKS = 6
HELD_BACK = 3
"""One of so many tasks is held back."""
FEWEST = 5
"""Right suggestions of a label, and wrong ones, from which on something is fitted to it."""
SAVED = 2.0
"""The interactions that a right suggestion saves; a wrong one costs one, as it has to be deleted."""

Watch = Callable[[int, int], None]
"""Hears how many tasks of how many were asked."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A suggestion for a task that was annotated: its score, and whether annotators left a region of its label there."""

    label: str
    score: float
    is_right: bool


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training: the version that is used from now on, None where it was refused, and what was measured."""

    adopted: Snapshot | None
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Training:
    """Trains on the annotations of projects."""

    gate: Gate
    memories: Memories

    def train(self, project: str, watch: Watch = lambda done, total: None) -> Trained:
        """Fit, measure on tasks that were held back, and adopt what is better.

        Raises RequestError where too little was annotated.
        """
        memory = self.memories.find(NEWEST, project)
        tasks = newest_tasks(memory, MOST_TASKS) if memory is not None else {}
        if memory is None or len(tasks) < FEWEST_TASKS:
            raise RequestError(f"training needs {FEWEST_TASKS} annotated tasks at least; project {project} has {len(tasks)}")
        memory = memory.with_least({})
        held, own = split(tasks)
        least = fit_least(self._suggestions(own, memory, lambda done: watch(done, len(tasks))))
        report = {**self._compared(held, memory, least), "least": least, "trained_on": len(own)}
        watch(len(tasks), len(tasks))
        is_better = bool(least) and report["quality"] > report["quality_before"] + SLACK
        return Trained(self.memories.adopt(project, least, report) if is_better else None, report)

    def _suggestions(self, tasks: Tasks, memory: FrozenMemory, watch: Callable[[int], None]) -> list[Suggestion]:
        """What is suggested for tasks, each without what it teaches itself."""
        told = []
        answers = self.gate.answers(tasks, self.gate.vocabulary_of(memory), self.gate.teacher(memory))
        for number, (shown, found) in enumerate(answers):
            best = right_ious(shown, found).max(axis=0) if len(found) else np.zeros(0)
            told += [
                Suggestion(str(label), float(score), bool(iou > FOUND_IOU))
                for label, score, iou in zip(found.labels, found.scores, best, strict=True)
            ]
            watch(number + 1)
        return told

    def _compared(self, tasks: Tasks, memory: FrozenMemory, least: dict[str, float]) -> dict[str, Any]:
        """What is found of held-back tasks with what was fitted and without."""
        vocabulary, teaching = self.gate.vocabulary_of(memory), self.gate.teacher(memory)
        then = self.gate.tally(tasks, vocabulary, teaching)
        now = self.gate.tally(tasks, vocabulary, self.gate.teacher(memory.with_least(least))) if least else then
        return {
            "tasks": len(tasks),
            "regions": sum(map(len, now.ious.values())),
            "quality": round(now.quality, 4),
            "quality_before": round(then.quality, 4),
            "iou": round(now.iou, 4),
            "iou_before": round(then.iou, 4),
            "before": "the same without training",
            "doubtful": self.gate.doubtful(memory, teaching),
        }


def split(tasks: Tasks) -> tuple[Tasks, Tasks]:
    """The tasks that are held back, with all their images, and the others; which ones depends on their numbers alone."""
    names = sorted({task for task, _ in tasks}, key=lambda name: hashlib.blake2b(name.encode(errors="surrogatepass")).digest())
    held = frozenset(names[::HELD_BACK])
    return {key: tasks[key] for key in tasks if key[0] in held}, {key: tasks[key] for key in tasks if key[0] not in held}


def fit_least(suggestions: Iterable[Suggestion]) -> dict[str, float]:
    """For each label the score from which on suggestions are worth most; none where all are, or too few were made to tell."""
    by_label: dict[str, list[Suggestion]] = defaultdict(list)
    for each in suggestions:
        by_label[each.label].append(each)
    found = {}
    for label, mine in sorted(by_label.items()):
        right = sum(each.is_right for each in mine)
        if min(right, len(mine) - right) >= FEWEST and (cut := _best_cut(mine)) is not None:
            found[label] = cut
    return found


def _best_cut(suggestions: list[Suggestion]) -> float | None:
    """The score, in the middle between two suggestions, from which on most interactions are saved; None if all are worth it."""
    ranked = sorted(suggestions, key=lambda each: -each.score)
    worth = np.cumsum([SAVED if each.is_right else -1.0 for each in ranked])
    last = np.array([k + 1 == len(ranked) or ranked[k].score > ranked[k + 1].score for k in range(len(ranked))])
    best = int(np.where(last, worth, -np.inf).argmax())
    return None if best + 1 == len(ranked) else (ranked[best].score + ranked[best + 1].score) / 2
