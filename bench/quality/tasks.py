"""The five tasks: box, clicks, text, reference and video; each gives rows of a table, and cases to look at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from backend.values.masks import MaskSet
from bench.quality import baselines
from bench.quality.asking import Annotator, last_of, merged
from bench.quality.cases import VIDEO, Asked, Object
from bench.quality.measures import XY, boundary_f, clicks_needed, f1, iou, next_click
from prompts.geometry import BoolArray, mask_box, size_of
from prompts.kinds import BoxPrompt, Image, KeyedImage, MaskPrompt, PointPrompt, PromptSet, ReferencePrompt, TextPrompt
from train.data import VOID, Photo

CAP = 20
GRABCUT_CLICKS = 5
FOUND_AT_ALL = 0.1
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One answer to look at: the photo, the truth, the answer, what was asked and the IoU."""

    image: Image
    truth: BoolArray
    answer: BoolArray
    asked: str
    iou: float


@dataclass(slots=True)
class Outcome:
    """One task's figures, ``rows[measure][method]``, with its cases and its scores ``(expected, reached)``."""

    task: str
    asked: int
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)
    scores: list[tuple[float, float]] = field(default_factory=list)
    groups: dict[str, float] = field(default_factory=dict)


def boxes(annotator: Annotator, objects: Sequence[Object], grabcut: bool) -> Outcome:
    """IoU from the tight box of every object, beside GrabCut where that is wanted: it takes most of the time."""
    outcome = Outcome("box", len(objects))
    values: dict[str, list[float]] = defaultdict(list)
    by_source: dict[str, list[float]] = defaultdict(list)
    for each in objects:
        image, box = each.photo.image, mask_box(each.mask)
        assert box is not None
        answer = annotator.ask(image, [BoxPrompt(tuple(map(float, box)))])  # type: ignore[arg-type]
        found = {
            "maskloom": merged(answer),
            "filled box": baselines.box_mask(box, size_of(image)),
        }
        if grabcut:
            found["grabCut"] = baselines.grabcut_box(image, box)
        for method, mask in found.items():
            values[method].append(iou(mask, each.mask, each.void))
        by_source[each.photo.row.source].append(values["maskloom"][-1])
        outcome.cases.append(Case(image, each.mask, found["maskloom"], "box", values["maskloom"][-1]))
        outcome.scores.append((float(answer.scores[0]), values["maskloom"][-1]))
    outcome.rows["IoU"] = _means(values)
    outcome.groups = _means(by_source)
    return outcome


def clicks(annotator: Annotator, objects: Sequence[Object], grabcut: bool) -> Outcome:
    """IoU after 1, 3 and 5 clicks, and the clicks needed for 0.85 and 0.90, each next click in the largest error; beside
    GrabCut where that is wanted.
    """
    outcome = Outcome("clicks", len(objects))
    values: dict[str, list[list[float]]] = defaultdict(list)
    for each in objects:
        ours, first, score = _click_through(annotator, each)
        values["maskloom"].append(ours)
        if grabcut:
            values["grabCut"].append(_grabcut_through(each))
        start = next_click(np.zeros_like(each.mask), each.mask, each.void)
        values["disk at the click"].append(
            [iou(baselines.disk(start[0], size_of(each.mask)), each.mask, each.void)] if start else []
        )
        outcome.cases.append(Case(each.photo.image, each.mask, first, "1 click", ours[0]))
        outcome.scores.append((score, ours[0]))
    for count in (1, 3, 5):
        outcome.rows[f"IoU after {count}"] = _means(
            {
                method: [_after(row, count) for row in rows if row]
                for method, rows in values.items()
                if len(rows[0]) > 1 or count == 1
            }
        )
    for wanted in (0.85, 0.90):
        needed = [clicks_needed(row, wanted) for row in values["maskloom"]]
        outcome.rows[f"NoC@{wanted:.0%}".replace("%", "")] = {"maskloom": float(np.mean(needed))}
    return outcome


def _after(ious: Sequence[float], count: int) -> float:
    """The IoU after so many clicks; an object that needed fewer keeps its last."""
    return ious[min(count, len(ious)) - 1]


def _click_through(annotator: Annotator, each: Object) -> tuple[list[float], BoolArray, float]:
    """The IoU after every click, the first answer and its score."""
    reached: list[float] = []
    points: list[PointPrompt] = []
    mask, first, score, before = np.zeros_like(each.mask), np.zeros_like(each.mask), 0.0, None
    while len(reached) < CAP and (not reached or reached[-1] < 0.9 or len(reached) < 5):
        click = next_click(mask, each.mask, each.void)
        if click is None:
            break
        points.append(PointPrompt(click[0], click[1]))
        answer = annotator.ask(each.photo.image, points, before)
        mask, before = merged(answer), last_of(answer, before)
        reached.append(iou(mask, each.mask, each.void))
        if len(reached) == 1:
            first, score = mask, float(answer.scores[0])
    return reached, first, score


def _grabcut_through(each: Object) -> list[float]:
    reached: list[float] = []
    made: list[tuple[XY, bool]] = []
    mask: BoolArray | None = None
    while len(reached) < GRABCUT_CLICKS:
        click = next_click(np.zeros_like(each.mask) if mask is None else mask, each.mask, each.void)
        if click is None:
            break
        made.append(click)
        mask = baselines.grabcut_clicks(each.photo.image, made, mask)
        reached.append(iou(mask, each.mask, each.void))
    return reached


def text(annotator: Annotator, asked: Sequence[Asked]) -> Outcome:
    """Mean IoU per class of names over 1 % of the photo, cumulative IoU, and whether absent names give nothing."""
    outcome = Outcome("text", len(asked))
    by_name: dict[str, list[float]] = defaultdict(list)
    both = either = found = invented = missed = 0
    large: list[Asked] = []
    for each in asked:
        answer = annotator.ask(each.photo.image, [TextPrompt(each.name)])
        mask, void = merged(answer), each.photo.ids == VOID
        outcome.scores += _told(answer, each)
        present, claimed = bool(each.mask.any()), bool(mask.any())
        found, invented, missed = (
            found + (present and claimed),
            invented + (claimed and not present),
            missed + (present and not claimed),
        )
        if each.mask.mean() > 0.01:
            large.append(each)
            by_name[each.name].append(iou(mask, each.mask, void))
            both, either = both + int((mask & each.mask & ~void).sum()), either + int(((mask | each.mask) & ~void).sum())
            outcome.cases.append(Case(each.photo.image, each.mask, mask, each.name, by_name[each.name][-1]))
    never = [name for name, values in by_name.items() if max(values) < FOUND_AT_ALL]
    outcome.rows[f"names never found, of {len(by_name)}"] = {"maskloom": float(len(never))}
    rectangle = {share: _means_by_name(large, share) for share in SHARES}
    outcome.groups = _means(by_name)
    outcome.rows["mean IoU per class"] = {
        "maskloom": _mean(list(outcome.groups.values())),
        "middle rectangle": max(rectangle.values(), default=0.0),
    }
    outcome.rows["mean IoU per name and photo"] = {
        "maskloom": _mean([value for values in by_name.values() for value in values])
    }
    outcome.rows["cumulative IoU"] = {"maskloom": both / max(either, 1)}
    outcome.rows["presence F1"] = {"maskloom": f1(found, invented, missed)}
    outcome.rows["presence precision"] = {"maskloom": found / max(found + invented, 1)}
    outcome.rows["presence recall"] = {"maskloom": found / max(found + missed, 1)}
    return outcome


def _told(answer: MaskSet, each: Asked) -> list[tuple[float, float]]:
    """The score of every region and the IoU that it reached, with the whole name or with one object of it."""
    keys = [key for key, name in each.photo.row.names.items() if name == each.name]
    wanted = [each.mask, *(each.photo.ids == key for key in keys)] if each.mask.any() else []
    void = each.photo.ids == VOID
    return [
        (float(score), max((iou(np.asarray(mask, np.bool_), one, void) for one in wanted), default=0.0))
        for score, mask in zip(answer.scores, answer.masks, strict=True)
    ]


def _means_by_name(asked: Sequence[Asked], share: float) -> float:
    by_name: dict[str, list[float]] = defaultdict(list)
    for each in asked:
        by_name[each.name].append(iou(baselines.middle(size_of(each.mask), share), each.mask, each.photo.ids == VOID))
    return _mean(list(_means(by_name).values()))


def reference(annotator: Annotator, shots: str, chosen: Sequence[tuple[Asked, ...]]) -> Outcome:
    """IoU on a photo when others of the same class show what to look for."""
    outcome = Outcome(f"{shots}-shot reference", len(chosen))
    values: dict[str, list[float]] = defaultdict(list)
    for *shown, here in chosen:
        prompts = [ReferencePrompt(KeyedImage.of(there.photo.image), there.mask) for there in shown]
        answer = annotator.ask(here.photo.image, prompts)
        mask, void = merged(answer), here.photo.ids == VOID
        values["maskloom"].append(iou(mask, here.mask, void))
        values["middle rectangle"].append(iou(baselines.middle(size_of(here.mask), 0.6), here.mask, void))
        outcome.cases.append(Case(here.photo.image, here.mask, mask, f"like that {here.name}", values["maskloom"][-1]))
    outcome.rows["IoU"] = _means(values)
    return outcome


def video(annotator: Annotator, photos: Sequence[Photo], limit: int) -> Outcome:
    """J and F from frame to frame: the first frame's mask is given, and followed from there; J&F of each clip as well."""
    sequences: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        if photo.row.source == VIDEO:
            sequences[str(photo.row.extra["sequence"])].append(photo)
    outcome = Outcome("video", sum(len(frames[:limit]) - 1 for frames in sequences.values()))
    values: dict[str, dict[str, list[float]]] = {"J": defaultdict(list), "F": defaultdict(list)}
    for name, frames in sequences.items():
        frames = sorted(frames, key=lambda photo: int(str(photo.row.extra["frame"])))[:limit]
        for method, follow in (("maskloom", _follower(annotator)), ("grabCut", _grabcut_follower), ("first mask kept", _keep)):
            for photo, mask in zip(frames[1:], follow(frames), strict=True):
                truth = photo.ids == 1
                values["J"][method].append(iou(mask, truth, photo.ids == VOID))
                values["F"][method].append(boundary_f(mask, truth))
                if method == "maskloom":
                    outcome.cases.append(
                        Case(photo.image, truth, mask, f"{name} {photo.row.extra['frame']}", values["J"][method][-1])
                    )
            if method == "maskloom":
                outcome.groups[name] = _mean([v for of in values.values() for v in of[method][1 - len(frames) :]])
    if not sequences:
        return outcome
    outcome.rows = {measure: _means(of) for measure, of in values.items()}
    outcome.rows["J&F"] = {method: (outcome.rows["J"][method] + outcome.rows["F"][method]) / 2 for method in outcome.rows["J"]}
    return outcome


def _follower(annotator: Annotator) -> Callable[[Sequence[Photo]], list[BoolArray]]:
    """By the engine's tracker."""

    def follow(frames: Sequence[Photo]) -> list[BoolArray]:
        session = annotator.start_following()
        session.prompt(0, frames[0].image, 1, PromptSet((MaskPrompt(frames[0].ids == 1),)))
        return [session.follow(number, frame.image)[1].mask for number, frame in enumerate(frames[1:], 1)]

    return follow


def _grabcut_follower(frames: Sequence[Photo]) -> list[BoolArray]:
    answers, mask = [], frames[0].ids == 1
    for frame in frames[1:]:
        mask = baselines.grabcut_mask(frame.image, mask)
        answers.append(mask)
    return answers


def _keep(frames: Sequence[Photo]) -> list[BoolArray]:
    return [frames[0].ids == 1] * (len(frames) - 1)


def _means(values: dict[str, list[float]]) -> dict[str, float]:
    return {key: _mean(some) for key, some in values.items()}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
