"""What a project teaches, measured with a simulated annotator: ``python -m bench.rounds --data DIR``.

The annotator keeps a suggestion with an IoU above 0.9 as it is, gives one with another label its own, corrects one above 0.5 by
clicks, deletes all others, and clicks what is missing, each of which is an interaction. Rules and weights are chosen on one
half of the held-out names (``--names chosen``), figures are told of the other. Encoded images and what a group of names has
cost are kept below ``--state``, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import typer

from backend.caches import Codec, DiskCache
from backend.engines.catalogue import find_engine
from backend.segmenter import Segmenter
from backend.values.features import FeatureCache, features_from_bytes, features_to_bytes
from backend.values.masks import MaskSet
from backend.values.session import ForNames, ForPrompts, Question, Round
from bench.quality.measures import iou, next_click
from prompts.examples import ShownImage
from prompts.geometry import BoolArray
from prompts.kinds import KeyedImage, MaskPrompt, ObjectMemory, PointPrompt, PromptSet
from prompts.memory import LabelMemory, learn
from prompts.phrases import Vocabulary
from train.data import VOID, Photo, Row, load, read_rows
from train.held_out import is_chosen_by, is_held_out, is_reported

SOURCES = ("caltech101_natural", "caltech101_plain", "grocery_natural", "weizmann_horses", "coco_person")
"""Sources whose photos show one thing, in the middle of most; the masks of horses and persons alone were drawn by people, the
others by GrabCut or by the colour of a plain background, with parts that are missing.
"""
DRAWN = frozenset({"weizmann_horses", "coco_person"})
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


DONE = KEPT, CORRECTED, CLICKED, RENAMED, DELETED = "kept", "corrected by clicks", "clicked from nothing", "renamed", "deleted"
"""What is done about suggestions, and about objects that have none."""


@dataclass(slots=True)
class Tally:
    """What one round cost: how often each thing was ``done``, its interactions, and how often it was given up."""

    objects: int = 0
    done: dict[str, list[int]] = field(default_factory=dict)
    seconds: float = 0.0
    ious: list[float] = field(default_factory=list)

    def count(self, what: str, interactions: int, given_up: int = 0, often: int = 1) -> None:
        """Something was done so often."""
        self.done[what] = [a + b for a, b in zip(self.of(what), (often, interactions, given_up), strict=True)]

    def of(self, what: str) -> tuple[int, ...]:
        """How often something was done, the interactions that it took, and how often it was given up."""
        return tuple(self.done.get(what, [0, 0, 0]))

    def add(self, other: Tally) -> None:
        self.objects, self.seconds = self.objects + other.objects, self.seconds + other.seconds
        self.ious += other.ious
        for what, (often, interactions, given_up) in other.done.items():
            self.count(what, interactions, given_up, often)


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
        """Put one task right; the suggestions that were deleted or given another label."""
        found = answer(self._segmenter, ForNames(task.image, self._vocabulary, learnt))
        regions = _regions(found)
        best = _suggestion_of(task, regions)
        wrong = [region for k, region in enumerate(regions) if k != best]
        tally.count(DELETED, len(wrong), often=len(wrong))
        if task.label is not None:
            label, start = regions[best] if best is not None else (task.label, None)
            quality = iou(start, task.truth, task.void) if start is not None else 0.0
            tally.objects += 1
            tally.ious.append(iou(_merged(found, task.label), task.truth, task.void))
            if label != task.label:
                tally.count(RENAMED, 1)
                wrong.append((label, regions[best or 0][1]))
            if quality <= UNTOUCHED:
                tally.count(CLICKED if start is None else CORRECTED, *self._clicks(task, start, learnt))
            elif label == task.label:
                tally.count(KEPT, 0)
        return [(label, mask) for label, mask in wrong if label is not None]

    def _clicks(self, task: Task, start: BoolArray | None, learnt: tuple[LabelMemory, ...]) -> tuple[int, bool]:
        """The clicks until a mask is good, from a suggestion or from nothing, and whether it was given up."""
        mask = start if start is not None else np.zeros_like(task.truth)
        drawn: list[MaskPrompt | PointPrompt] = [MaskPrompt(start)] if start is not None else []
        memory, version = None, self._segmenter.engine.version
        for count in range(MOST_CLICKS):
            click = next_click(mask, task.truth, task.void)
            if click is None or iou(mask, task.truth, task.void) > UNTOUCHED:
                return count, False
            drawn.append(PointPrompt(click[0], click[1]))
            question = ForPrompts(task.image, PromptSet(tuple(drawn)), self._vocabulary, task.label, memory, learnt=learnt)
            found = answer(self._segmenter, question)
            if len(found):
                mask, memory = np.asarray(found.masks[0]), ObjectMemory(found.low_res_logits[0], version)
        return MOST_CLICKS, iou(mask, task.truth, task.void) <= UNTOUCHED


def answer(segmenter: Segmenter, question: Question) -> MaskSet:
    """Raises the error of a question that has no answer."""
    (done,) = segmenter.segment([question])
    if not isinstance(done, Round):
        raise done
    return done.masks


def _suggestion_of(task: Task, regions: Sequence[tuple[str | None, BoolArray]]) -> int | None:
    """The number of the suggestion that shows a task's object well enough to be corrected, rather one of its label."""
    reached = [iou(mask, task.truth, task.void) for _, mask in regions]
    good = [k for k, each in enumerate(reached) if each > WORTH_CORRECTING and task.label is not None]
    return max(good, key=lambda k: (regions[k][0] == task.label, reached[k]), default=None)


def _regions(found: MaskSet) -> list[tuple[str | None, BoolArray]]:
    return [(label, np.asarray(mask)) for label, mask in zip(found.labels, found.masks, strict=True)]


def _merged(found: MaskSet, label: str) -> BoolArray:
    return found[[row for row, each in enumerate(found.labels) if each == label]].masks.union()


def photos_of(rows: Sequence[Row], names: Sequence[str], most: int = MOST_PHOTOS) -> dict[str, list[Photo]]:
    """The photos of each name that has enough, ``most`` of each, those on natural backgrounds first."""
    found = {}
    for name in names:
        mine = [row for row in rows if set(row.names.values()) == {name}]
        mine.sort(key=lambda row: (SOURCES.index(row.source), str(row.image)))
        if len(mine) >= ENOUGH:
            found[name] = load(mine[:most], {})
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


@dataclass(frozen=True, slots=True)
class Rounds:
    """Rounds of so many photos of every name, some of which are labels of the project, all others look-alikes that are none."""

    kind: str
    photos: int
    most_labels: int

    def measure(self, segmenter: Segmenter, groups: Iterable[Group], state: Path) -> list[str]:
        """What each round costs with and without a memory; what was measured before is read from ``state``."""
        tallies = {learns: [Tally() for _ in range(ROUNDS)] for learns in (False, True)}
        later = {learns: Tally() for learns in tallies}
        for group in groups:
            for learns, rounds in tallies.items():
                done = self._work(segmenter, group, learns, state)
                for tally, more in zip((*rounds, *[later[learns]] * (ROUNDS - 1)), (*done, *done[1:]), strict=True):
                    tally.add(more)
        told = [f"round {k + 1}: {_compared(tallies[False][k], tallies[True][k])}" for k in range(ROUNDS)]
        return [*told, *_spent(later[False], later[True])]

    def _work(self, segmenter: Segmenter, group: Group, learns: bool, state: Path) -> list[Tally]:
        """The rounds of one group, each of which is kept when all are done."""
        name = repr((self, sorted(group.names.values()), learns, segmenter.engine.version))
        file = state / f"{hashlib.blake2b(name.encode(), digest_size=10).hexdigest()}.json"
        if file.exists():
            return [Tally(**each) for each in json.loads(file.read_text())]
        labels, tallies = list(group.names)[: self.most_labels], [Tally() for _ in range(ROUNDS)]
        annotator = Annotator(segmenter, Vocabulary.from_names(labels), learns)
        for number, tally in enumerate(tallies):
            tasks = [task for label in group.names for task in group.tasks(label, number * self.photos, self.photos)]
            annotator.work([task if task.label in labels else replace(task, label=None) for task in tasks], tally)
        file.write_text(json.dumps([asdict(each) for each in tallies]))
        return tallies


def _compared(off: Tally, on: Tally) -> str:
    """A round without and with a memory, in words."""
    cost, now = (_per(sum(tally.of(what)[1] for what in DONE), tally) for tally in (off, on))
    kept, deleted = ([_per(tally.of(what)[0], tally) for tally in (off, on)] for what in (KEPT, DELETED))
    return (
        f"{on.objects} objects; interactions per object {cost:.2f} without memory, {now:.2f} with it "
        f"({now / max(cost, 1e-6) - 1:+.0%}); accepted untouched {kept[0]:.0%}, {kept[1]:.0%}; "
        f"deleted {deleted[0]:.2f}, {deleted[1]:.2f}; "
        f"IoU {_mean(off.ious):.3f}, {_mean(on.ious):.3f}; seconds of the engine "
        f"{_per(off.seconds, off):.2f}, {_per(on.seconds, on):.2f}"
    )


def _spent(off: Tally, on: Tally) -> Iterator[str]:
    """Where interactions went without and with a memory, in a line for each thing that was done."""
    yield f"from round 2 on, {on.objects} objects; without and with memory: how many, interactions, given up"
    for what in DONE:
        yield f"  {what:20} {'   '.join(''.join(f'{number:6}' for number in each.of(what)) for each in (off, on))}"


def _per(number: float, tally: Tally) -> float:
    return number / max(tally.objects, 1)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def segmenter_of(engine: str, state: Path) -> Segmenter:
    """An engine whose encoded images are kept on disk."""
    loaded = find_engine(engine).load(None)
    codec = Codec("encoded images", ".features", features_to_bytes, features_from_bytes)
    return Segmenter(loaded, FeatureCache(0, spill=DiskCache(state / "features", loaded.version, 16 << 30, codec)))


def main(
    data: Path = typer.Option(..., help="The folder that holds one folder per source, each with an index.jsonl."),
    state: Path = typer.Option(..., help="Where encoded images and finished groups are kept; of one state of the code."),
    engine: str = typer.Option("embedded", help="The engine's name; see `maskloom parts`."),
    names: str = typer.Option("reported", help="Of which held-out names: `reported`, or `chosen` to choose rules with."),
    seeds: int = typer.Option(1, help="How many orders of names and photos are tried for labels without a meaning."),
    projects: int = typer.Option(100, help="Projects of four labels at most, for each kind of rounds."),
    photos: int = typer.Option(2, help="Photos of each label in a round."),
    only: list[str] = typer.Option(["taught", "hidden", "drawn", "seen", "strangers"], help="What to measure."),
) -> None:
    """Teach labels by accepted regions and print what the next suggestions are worth."""
    rows = read_rows(data)
    named = [row for row in rows if row.mask and row.source in SOURCES and len(set(row.names.values())) == 1]
    known = sorted({name for row in named for name in row.names.values()})
    is_wanted = is_reported if names == "reported" else is_chosen_by
    most = max(MOST_PHOTOS, ROUNDS * photos)
    told = photos_of(named, [name for name in known if is_wanted(name)], most)
    seen = photos_of([row for row in named if row.split == "val"], [name for name in known if not is_held_out(name)], most)
    drawn = {name: found for name, found in seen.items() if all(photo.row.source in DRAWN for photo in found)}
    segmenter = segmenter_of(engine, state)
    print(f"{segmenter.engine.version}; held-out: {', '.join(told)}; taught: {', '.join(seen)}", flush=True)

    def rounds(kind: str, of: dict[str, list[Photo]], hidden: Sequence[str], labels: int = LABELS) -> list[str]:
        return Rounds(kind, photos, labels).measure(segmenter, islice(groups_of(of, hidden, 0), projects), state)

    measures: dict[str, Callable[[], list[str]]] = {
        "taught": lambda: measure_taught(segmenter, told, seeds),
        "hidden": lambda: rounds("hidden", told, NONSENSE),
        "drawn": lambda: rounds("drawn", drawn, NONSENSE),
        "seen": lambda: rounds("seen", seen, ()),
        "strangers": lambda: rounds("strangers", told, NONSENSE, LABELS // 2),
    }
    for name in only:
        print(f"-- {name}", *measures[name](), sep="\n", flush=True)


if __name__ == "__main__":
    typer.run(main)
