"""What a project teaches, measured with a simulated annotator: ``python -m bench.rounds --data DIR``.

The annotator keeps a suggestion with an IoU above 0.9 as it is, corrects one above 0.5 by clicks, deletes what is wrong and
clicks what is missing. Names are divided in two: with one half rules were chosen, figures are told of the other.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import typer

from backend.engines.catalogue import find_engine
from backend.segmenter import Segmenter
from backend.values.features import FeatureCache
from backend.values.masks import MaskSet
from backend.values.session import ForNames, ForPrompts, Question, Round
from bench.quality.measures import iou, next_click
from prompts.examples import ShownImage
from prompts.geometry import BoolArray
from prompts.kinds import KeyedImage, MaskPrompt, ObjectMemory, PointPrompt, PromptSet
from prompts.memory import LabelMemory, learn
from prompts.phrases import Vocabulary
from train.data import VOID, Photo, Row, load, read_rows
from train.held_out import is_held_out

SOURCES = ("caltech101_natural", "caltech101_plain", "grocery_natural", "weizmann_horses", "coco_person")
"""Sources whose photos show one thing, in the middle of most; those of horses and persons alone have masks drawn by people."""
CHOSEN = (
    "anchor", "cannon", "flamingo", "headphones", "kangaroo", "lotus flower", "papaya", "revolver", "scorpion", "wrench",
)  # fmt: skip
"""Held-out names with which rules and weights were chosen; nothing is told of them."""
NONSENSE = ("blicket", "dax", "wug", "toma")
UNTOUCHED, WORTH_CORRECTING, MOST_CLICKS = 0.9, 0.5, 10
LABELS, ROUNDS = 4, 3
"""Labels of a project, and rounds of work on it."""
SHOWN, ASKED = (0, 1, 5), 2
"""Examples of a label that were accepted, and photos of it that are asked about next."""
ENOUGH, MOST_PHOTOS = 7, 10


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One photo of a project with the truth of one label, which is none of the project's where ``label`` is None."""

    image: KeyedImage
    label: str | None
    truth: BoolArray
    void: BoolArray


@dataclass(slots=True)
class Tally:
    """What one round cost: interactions and seconds of the engine, over objects, of which some were accepted untouched."""

    objects: int = 0
    interactions: int = 0
    untouched: int = 0
    seconds: float = 0.0
    ious: list[float] = field(default_factory=list)


class Annotator:
    """Works through the rounds of one project with or without a memory."""

    def __init__(self, segmenter: Segmenter, vocabulary: Vocabulary, learns: bool) -> None:
        self._segmenter = segmenter
        self._vocabulary = vocabulary
        self._learns = learns
        self._shown: list[ShownImage] = []

    def work(self, tasks: Sequence[Task], tally: Tally) -> None:
        """One round: what was suggested is put right, and remembered for the next one."""
        shown = []
        learnt = learn(self._vocabulary.entries, self._shown, self._segmenter.engine.version) if self._shown else ()
        for task in tasks:
            began = time.perf_counter()
            refused = self._annotate(task, learnt, tally)
            tally.seconds += time.perf_counter() - began
            regions = [(task.label, task.truth)] if task.label is not None else []
            if self._learns and (regions or refused):
                shown.append(self._segmenter.show(task.image, regions, refused))
        self._shown += shown

    def _annotate(self, task: Task, learnt: tuple[LabelMemory, ...], tally: Tally) -> list[tuple[str, BoolArray]]:
        """Put one task right; the suggestions that were deleted."""
        found = answer(self._segmenter, ForNames(task.image, self._vocabulary, learnt))
        reached = [iou(mask, task.truth, task.void) if label == task.label else 0.0 for label, mask in _regions(found)]
        best = int(np.argmax(reached)) if reached and max(reached) > WORTH_CORRECTING else None
        wrong = [region for k, region in enumerate(_regions(found)) if k != best]
        tally.interactions += len(wrong)
        if task.label is not None:
            quality = reached[best] if best is not None else 0.0
            tally.objects, tally.untouched = tally.objects + 1, tally.untouched + (quality > UNTOUCHED)
            tally.ious.append(iou(_merged(found, task.label), task.truth, task.void))
            start = np.asarray(found.masks[best]) if best is not None else None
            tally.interactions += 0 if quality > UNTOUCHED else self._clicks(task, start, learnt)
        return [(label, mask) for label, mask in wrong if label is not None]

    def _clicks(self, task: Task, start: BoolArray | None, learnt: tuple[LabelMemory, ...]) -> int:
        """The clicks until a mask is good, from a suggestion or from nothing."""
        mask = start if start is not None else np.zeros_like(task.truth)
        drawn: list[MaskPrompt | PointPrompt] = [MaskPrompt(start)] if start is not None else []
        memory, version = None, self._segmenter.engine.version
        for count in range(MOST_CLICKS):
            click = next_click(mask, task.truth, task.void)
            if click is None or iou(mask, task.truth, task.void) > UNTOUCHED:
                return count
            drawn.append(PointPrompt(click[0], click[1]))
            question = ForPrompts(task.image, PromptSet(tuple(drawn)), self._vocabulary, task.label, memory, learnt=learnt)
            found = answer(self._segmenter, question)
            if len(found):
                mask, memory = np.asarray(found.masks[0]), ObjectMemory(found.low_res_logits[0], version)
        return MOST_CLICKS


def answer(segmenter: Segmenter, question: Question) -> MaskSet:
    """Raises the error of a question that has no answer."""
    (done,) = segmenter.segment([question])
    if not isinstance(done, Round):
        raise done
    return done.masks


def _regions(found: MaskSet) -> list[tuple[str | None, BoolArray]]:
    return [(label, np.asarray(mask)) for label, mask in zip(found.labels, found.masks, strict=True)]


def _merged(found: MaskSet, label: str) -> BoolArray:
    return found[[row for row, each in enumerate(found.labels) if each == label]].masks.union()


def photos_of(rows: Sequence[Row], names: Sequence[str]) -> dict[str, list[Photo]]:
    """The photos of each name that has enough, those on natural backgrounds first."""
    found = {}
    for name in names:
        mine = sorted(
            (row for row in rows if set(row.names.values()) == {name}),
            key=lambda row: (SOURCES.index(row.source), str(row.image)),
        )
        if len(mine) >= ENOUGH:
            found[name] = load(mine[:MOST_PHOTOS], {})
    return found


def task_of(photo: Photo, name: str, label: str | None) -> Task:
    return Task(KeyedImage.of(photo.image), label, photo.name_mask(name), photo.ids == VOID)


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Labels of one project by the names that they hide, with the photos that show them in the order in which they come."""

    names: dict[str, str]
    photos: dict[str, list[Photo]]

    def tasks(self, label: str, start: int, count: int) -> list[Task]:
        """Some photos of a label, each with its truth."""
        return [task_of(photo, self.names[label], label) for photo in self.photos[label][start : start + count]]


def groups_of(photos: dict[str, list[Photo]], hidden: Sequence[str], seed: int) -> Iterator[Group]:
    """The names in fours, in an order that the seed decides; labels are nonsense, or the names themselves without any."""
    dice = np.random.default_rng(seed)
    names = dice.permutation(sorted(photos)).tolist()
    for start in range(0, max(len(names) - LABELS, 0) + 1, LABELS):
        some = names[start : start + LABELS]
        labels = dict(zip(hidden or some, some, strict=False))
        order = {label: dice.permutation(len(photos[name])) for label, name in labels.items()}
        yield Group(labels, {label: [photos[name][k] for k in order[label]] for label, name in labels.items()})


def measure_taught(segmenter: Segmenter, photos: dict[str, list[Photo]], seeds: int) -> list[str]:
    """IoU of the next suggestions after so many examples of a label that means nothing, alone and beside three others."""
    reached: dict[tuple[int, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(seeds):
        for group in groups_of(photos, NONSENSE, seed):
            for count in SHOWN:
                for asked in (*([word] for word in group.names), list(group.names)):
                    for name, value in _suggested(segmenter, group, asked, count):
                        reached[len(asked), count][name].append(value)
    return [
        f"{labels} labels, {count} examples of each: mean IoU {_mean([_mean(each) for each in by_name.values()]):.3f} "
        f"({sum(map(len, by_name.values()))} photos of {len(by_name)} names)"
        for (labels, count), by_name in sorted(reached.items())
    ]


def _suggested(segmenter: Segmenter, group: Group, asked: Sequence[str], count: int) -> Iterator[tuple[str, float]]:
    """The hidden name and the IoU of each next photo of the labels that are asked for."""
    vocabulary = Vocabulary.from_names(asked)
    examples = [task for label in asked for task in group.tasks(label, 0, count)]
    shown = [segmenter.show(task.image, [(str(task.label), task.truth)]) for task in examples]
    learnt = learn(vocabulary.entries, shown, segmenter.engine.version)
    for label in asked:
        for task in group.tasks(label, max(SHOWN), ASKED):
            found = answer(segmenter, ForNames(task.image, vocabulary, learnt))
            yield group.names[label], iou(_merged(found, label), task.truth, task.void)


def measure_rounds(segmenter: Segmenter, groups: Iterable[Group], a_round: int, most_labels: int) -> list[str]:
    """What each round of so many photos of every name costs with and without a memory; some of a group are labels of the
    project, all others look-alikes that are not.
    """
    tallies: dict[bool, list[Tally]] = {learns: [Tally() for _ in range(ROUNDS)] for learns in (False, True)}
    for group in groups:
        labels = list(group.names)[:most_labels]
        for learns, rounds in tallies.items():
            annotator = Annotator(segmenter, Vocabulary.from_names(labels), learns)
            for number, tally in enumerate(rounds):
                tasks = [task for label in group.names for task in group.tasks(label, number * a_round, a_round)]
                mine = [task if task.label in labels else replace(task, label=None) for task in tasks]
                annotator.work(mine, tally)
    pairs = zip(tallies[False], tallies[True], strict=True)
    return [f"round {number + 1}: {_compared(off, on)}" for number, (off, on) in enumerate(pairs)]


def _compared(off: Tally, on: Tally) -> str:
    """A round without and with a memory, in words."""
    change = _per(on.interactions, on) / max(_per(off.interactions, off), 1e-6) - 1
    return (
        f"{on.objects} objects; interactions per object {_per(off.interactions, off):.2f} without memory, "
        f"{_per(on.interactions, on):.2f} with it ({change:+.0%}); accepted untouched {_per(off.untouched, off):.0%}, "
        f"{_per(on.untouched, on):.0%}; IoU {_mean(off.ious):.3f}, {_mean(on.ious):.3f}; seconds of the engine "
        f"{_per(off.seconds, off):.2f}, {_per(on.seconds, on):.2f}"
    )


def _per(number: float, tally: Tally) -> float:
    return number / max(tally.objects, 1)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def main(
    data: Path = typer.Option(..., help="The folder that holds one folder per source, each with an index.jsonl."),
    engine: str = typer.Option("embedded", help="The engine's name; see `maskloom parts`."),
    seeds: int = typer.Option(1, help="How many orders of names and photos are tried for labels without a meaning."),
    projects: int = typer.Option(100, help="Projects of four labels at most, for each kind of rounds."),
    photos: int = typer.Option(2, help="Photos of each label in a round."),
    only: list[str] = typer.Option(["taught", "hidden", "seen", "strangers"], help="What to measure."),
) -> None:
    """Teach labels by accepted regions and print what the next suggestions are worth."""
    rows = read_rows(data)
    named = [row for row in rows if row.mask and row.source in SOURCES and len(set(row.names.values())) == 1]
    names = sorted({name for row in named for name in row.names.values()})
    told = photos_of(named, [name for name in names if is_held_out(name) and name not in CHOSEN])
    seen = photos_of([row for row in named if row.split == "val"], [name for name in names if not is_held_out(name)])
    segmenter = Segmenter(find_engine(engine).load(None), FeatureCache(1 << 30))
    print(
        f"{segmenter.engine.version}; held-out names: {', '.join(told)}; names that were taught: {', '.join(seen)}", flush=True
    )
    measures: dict[str, Callable[[], list[str]]] = {
        "taught": lambda: measure_taught(segmenter, told, seeds),
        "hidden": lambda: measure_rounds(segmenter, islice(groups_of(told, NONSENSE, 0), projects), photos, LABELS),
        "seen": lambda: measure_rounds(segmenter, islice(groups_of(seen, (), 0), projects), photos, LABELS),
        "strangers": lambda: measure_rounds(segmenter, islice(groups_of(told, NONSENSE, 0), projects), photos, LABELS // 2),
    }
    for name in only:
        print(f"-- {name}", *measures[name](), sep="\n", flush=True)


if __name__ == "__main__":
    typer.run(main)
