"""Stage one: the joint space, and the text tower distilled into it.

The space is the teacher's, centred on everyday names and reduced to its first principal axes, which are evened out half-way
(each divided by the fourth root of its variance) so that unrelated names end up near a right angle. What is no word lies along
the axis that names use least.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from prompts.encoders.embedded import TextTower, tokenize
from train import scenery
from train.data import read_rows
from train.loop import Plan
from train.names import Names
from train.phrases import Lesson, common_words, lessons
from train.teacher import Teacher
from train.wordnet import classes, synonyms

DIM = 128
EVERYDAY = 4_000
WORDS = 20_000
ABOUT = 45_000
HELD_OUT = 1000
LONGEST = 4
"""Words of the names of WordNet that are learnt."""
Vectors = NDArray[np.float32]


def principal_axes(embeddings: Vectors, dim: int = DIM) -> tuple[Vectors, Vectors]:
    """The centre ``(384,)`` and the projection ``(384, dim)`` of the joint space."""
    centre = embeddings.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov((embeddings - centre).T))
    top = np.argsort(values)[::-1][:dim]
    return centre.astype(np.float32), (axes[:, top] / values[top] ** 0.25).astype(np.float32)


def project(embeddings: Vectors, centre: Vectors, axes: Vectors) -> Vectors:
    """Teacher embeddings ``(N, 384)`` as unit vectors ``(N, dim)`` of the joint space."""
    moved = (embeddings - centre) @ axes
    result: Vectors = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    return result


def distil(tower: TextTower, phrases: Sequence[str], targets: Vectors, names: int, seconds: float) -> TextTower:
    """The tower, taught to answer ``phrases`` with ``targets``; half of what it sees are the first ``names`` phrases.

    Every step reads phrases of one number of words, so that no arithmetic is spent on padding.
    """
    rows, wanted = tokenize(phrases), torch.from_numpy(targets)
    buckets = _by_length(rows, names)
    table = [tower.table.weight]
    others = [weight for weight in tower.parameters() if weight is not tower.table.weight]
    optimizers = [torch.optim.SparseAdam(table, lr=1.0), torch.optim.AdamW(others, lr=1.0, weight_decay=1e-4)]
    began, step, running = time.monotonic(), 0, 1.0
    while (used := (time.monotonic() - began) / max(seconds, 1e-9)) < 1:
        for optimizer, rate in zip(optimizers, (4e-3, 2e-3), strict=True):
            optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 100) * (1 - used)
            optimizer.zero_grad()
        everything, named = buckets[int(torch.randint(len(buckets), ()))]
        picks = torch.cat([some[torch.randint(len(some), (128,))] for some in (everything, named)])
        loss = 1 - (tower(_forget(rows[picks])) * wanted[picks]).sum(dim=1).mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        running, step = 0.98 * running + 0.02 * loss.item(), step + 1
        if step % 200 == 0:
            print(f"text step {step} 1-cos {running:.4f}", flush=True)
    return tower.eval()


def _by_length(rows: torch.Tensor, names: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Phrase numbers grouped by their number of words, four and more together: all of a group, and the names among them."""
    words = rows[:, :, 0].ne(0).sum(dim=1).clamp(max=4)
    groups = [(words == count).nonzero()[:, 0] for count in words.unique()]
    return [(group, group[group < names]) for group in groups if (group < names).any()]


def _forget(rows: torch.Tensor) -> torch.Tensor:
    """One word in seven is read by its n-grams alone, so that words nobody taught can be read too."""
    forgotten = torch.rand(rows.shape[:2]) < 0.15
    rows = rows.clone()
    rows[:, :, :2] *= (~forgotten).unsqueeze(2)
    rows[:, :, 0] += (forgotten & rows[:, :, 2].ne(0)).long()
    return rows


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """The joint space: the teacher's, its ``centre (384,)`` and ``axes (384, dim)``, and the unit vector ``nothing (dim,)``."""

    teacher: Teacher
    centre: Vectors
    axes: Vectors
    nothing: Vectors

    def vectors(self, phrases: Sequence[str]) -> Vectors:
        """Unit vectors ``(N, dim)`` of phrases, as the teacher says them."""
        return project(self.teacher.encode(phrases), self.centre, self.axes)

    def targets(self, taught: Sequence[Lesson]) -> Vectors:
        """What the tower shall answer ``(N, dim)``."""
        phrases = list(dict.fromkeys(said for lesson in taught for said in (lesson.phrase, lesson.noun) if said))
        place = {phrase: k for k, phrase in enumerate(phrases)}
        known = self.vectors(phrases)
        rows = [self._target(lesson, known, place) for lesson in taught]
        found: Vectors = np.stack(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
        return found.astype(np.float32)

    def _target(self, lesson: Lesson, known: Vectors, place: dict[str, int]) -> Vectors:
        if not lesson.noun:
            return self.nothing
        noun, phrase = known[place[lesson.noun]], known[place[lesson.phrase]]
        return np.asarray(lesson.share * noun + (1 - lesson.share) * phrase, np.float32)


def make_space(data: Path, teacher: Teacher) -> Space:
    """The joint space of the data's names, ImageNet's and everyday words."""
    everyday = list(dict.fromkeys([*vocabulary(data), *common_words(teacher.vocabulary)[:EVERYDAY]]))
    centre, axes = principal_axes(teacher.encode(everyday))
    return Space(teacher, centre, axes, least_used(project(teacher.encode(vocabulary(data)), centre, axes)))


def least_used(vectors: Vectors) -> Vectors:
    """The unit vector ``(D,)`` that unit vectors ``(N, D)`` are least along."""
    found: Vectors = np.linalg.eigh(vectors.T @ vectors)[1][:, 0].astype(np.float32)
    return found


def vocabulary(data: Path) -> list[str]:
    """The names of the data, of ImageNet's classes with their synonyms, and of scenery."""
    said = {name for row in read_rows(data) for name in row.names.values()}
    return sorted(said | {name for names in classes() for name in names} | set(scenery.EVERY.values()))


def run(data: Path, teacher_folder: Path, tower: TextTower, plan: Plan) -> TextTower:
    """The tower distilled into the joint space.

    What the plan's folder holds already is gone on with: the teacher is asked once, and seconds are counted over all starts.
    """
    written, checkpoint, used = plan.folder / "lessons.pt", plan.checkpoint, 0.0
    if not written.exists():
        _write_lessons(data, Teacher(teacher_folder), plan.folder)
    saved = torch.load(written, weights_only=True)
    phrases, targets, names = saved["phrases"], saved["targets"].numpy(), len(saved["names"])
    if checkpoint.exists():
        before = torch.load(checkpoint, weights_only=True)
        tower.load_state_dict(before["tower"])
        used = before["seconds"]
    tower = distil(tower, phrases[:-HELD_OUT], targets[:-HELD_OUT], names, plan.minutes * 60 - used)
    torch.save({"tower": tower.state_dict(), "seconds": max(used, plan.minutes * 60)}, checkpoint)
    with torch.inference_mode():
        vectors, unseen = tower(tokenize(phrases[:names])), tower(tokenize(phrases[-HELD_OUT:]))
    print("cosine to the teacher: names", _agreement(vectors, targets[:names]))
    print("cosine to the teacher: phrases held out", _agreement(unseen, targets[-HELD_OUT:]))
    return tower


@torch.inference_mode()
def taught(data: Path, tower: TextTower) -> tuple[Names, torch.Tensor]:
    """What a trained tower says of all names, and of ImageNet's classes ``(1000, dim)``: the mean of their names."""
    names, tower = tuple(vocabulary(data)), tower.cpu().eval()
    of_classes = torch.stack([tower(tokenize(list(each))).mean(dim=0) for each in classes()])
    return Names(names, tower(tokenize(list(names)))), F.normalize(of_classes, dim=1)


def _write_lessons(data: Path, teacher: Teacher, out: Path) -> None:
    """Ask the teacher once: names first, then words, then phrases about names, the last of them held out."""
    space, names = make_space(data, teacher), vocabulary(data)
    nouns = [words[0] for words in synonyms().values() if len(words[0].split()) <= LONGEST]
    learnt = lessons(names, list(dict.fromkeys([*nouns, *common_words(teacher.vocabulary)[:WORDS]])), ABOUT)
    dice = np.random.default_rng(0)
    learnt = learnt[: len(names)] + [learnt[k] for k in dice.permutation(np.arange(len(names), len(learnt)))]
    found = {"phrases": [lesson.phrase for lesson in learnt], "targets": torch.from_numpy(space.targets(learnt))}
    torch.save({**found, "names": names}, out / "lessons.pt")


def _agreement(vectors: torch.Tensor, targets: Vectors) -> float:
    return round(float((vectors * torch.from_numpy(targets)).sum(dim=1).mean()), 4)
