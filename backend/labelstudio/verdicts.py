"""What a person made of each suggestion: submitted regions are compared with those that were suggested for their task, and some
suggestions are canaries: damaged on purpose, so that it is known whether people still look.

That a region is a canary is told by its id, in a way that nobody sees who does not look for it: whatever reads annotations
knows it without asking anybody.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backend.labelstudio.shapes import covers_pixels, runs_of, shape_of, size_of_item
from backend.labelstudio.shapes.base import OURS, Answer, Json, read_value, region_id
from backend.values.masks import Masks, RunLengths, overlaps
from backend.values.session import Example, Verdict
from prompts.geometry import BoolArray, Size

UNTOUCHED_IOU = 0.98
"""A shape of which so much is left is as it was suggested: one that Label Studio's page has drawn anew may differ by pixels."""
LEAST_IOU = 0.5
"""A region under another id that covers less of a suggestion is another thing."""
LEFT = 0.65
"""The share of a region that is left of it."""
FEWEST_PIXELS = 64
"""Of a region that is damaged: of a smaller one nobody would see it."""
_DIGITS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """The submitted regions with what they say about the suggestions, after them the suggestions that were rejected, under the
    label that they had; and for suggestions that were damaged on purpose, by their label, whether people ``noticed``.
    """

    examples: tuple[Example, ...]
    noticed: tuple[tuple[str, bool], ...] = ()


def compare(drawn: Sequence[Example], suggested: Sequence[Example] | None, was_derived: bool = False) -> Compared:
    """What submitted regions say about the suggestions (None: none are known).

    Regions belong to a suggestion by their id, which Label Studio keeps, or by their shape. What is missing was deleted if
    anything in the annotation came from the suggestions, or Label Studio says so: ``was_derived``. A damaged suggestion says
    nothing about the engine: one that was left as it was is no example of anything.
    """
    if suggested is None:
        return _sifted(drawn, [each for each in drawn if is_canary(each.region)], {})
    pairs = _pairs(drawn, suggested)
    found = [_judged(region, suggested, pairs.get(row)) for row, region in enumerate(drawn)]
    if not (was_derived or pairs):
        return Compared(tuple(found))
    kept = {other for row, (other, _) in pairs.items() if drawn[row].label == suggested[other].label}
    lost = [replace(each, verdict=Verdict.REJECTED, iou=0.0) for row, each in enumerate(suggested) if row not in kept]
    told = found + [each for each in lost if each.label is not None and not is_canary(each.region)]
    canaries = [each for each in suggested if is_canary(each.region)]
    return _sifted(told, canaries, {row: suggested[other].region for row, (other, _) in pairs.items()})


def _sifted(told: Sequence[Example], canaries: Sequence[Example], came_from: Mapping[int, str]) -> Compared:
    """Examples without those ``canaries`` that were left as they were; ``came_from`` has the suggestions' ids of rows that have
    another one.
    """
    examples, overlooked = [], set[str]()
    for row, each in enumerate(told):
        name = came_from.get(row, each.region)
        if not is_canary(name):
            examples.append(each)
        elif each.verdict is Verdict.ACCEPTED or (each.iou or 0.0) >= UNTOUCHED_IOU:
            overlooked.add(name)
        else:
            examples.append(replace(each, verdict=Verdict.DRAWN, engine="", iou=None))
    noticed = tuple((each.label, each.region not in overlooked) for each in canaries if each.label is not None)
    return Compared(tuple(examples), noticed)


def _judged(region: Example, suggested: Sequence[Example], pair: tuple[int, float] | None) -> Example:
    if region.label is None:
        return region
    if pair is None:
        return replace(region, verdict=Verdict.MISSED)
    other, iou = suggested[pair[0]], pair[1]
    is_untouched = iou >= UNTOUCHED_IOU and region.label == other.label
    return replace(region, verdict=Verdict.ACCEPTED if is_untouched else Verdict.CORRECTED, engine=other.engine, iou=iou)


def _pairs(drawn: Sequence[Example], suggested: Sequence[Example]) -> dict[int, tuple[int, float]]:
    """For each drawn region that belongs to a suggestion the suggestion's place and their IoU; each belongs to one at most."""
    ious = sorted(_ious(drawn, suggested), reverse=True)
    by_id: dict[int, tuple[int, float]] = {}
    places = {(each.image_url, each.region): place for place, each in enumerate(suggested)}
    known = {(row, other): iou for iou, _, row, other in ious}
    for row, region in enumerate(drawn):
        if (other := places.get((region.image_url, region.region))) is not None:
            by_id[row] = other, known.get((row, other), 0.0)
    taken = {other for other, _ in by_id.values()}
    for iou, _, row, other in ious:
        if iou >= LEAST_IOU and row not in by_id and other not in taken:
            by_id[row] = other, iou
            taken.add(other)
    return by_id


def _ious(drawn: Sequence[Example], suggested: Sequence[Example]) -> Iterator[tuple[float, bool, int, int]]:
    """The IoU of regions and suggestions on the same image that touch, whether their labels are the same, and their places."""
    images: dict[tuple[str, Size], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for kind, regions in enumerate((drawn, suggested)):
        for place, region in enumerate(regions):
            images[region.image_url, region.runs.size][kind].append(place)
    for (_, size), (rows, others) in images.items():
        if not rows or not others:
            continue
        runs = (*(drawn[row].runs for row in rows), *(suggested[other].runs for other in others))
        ious, _ = overlaps(Masks(size, runs))
        for i, row in enumerate(rows):
            for j, other in enumerate(others):
                if (iou := float(ious[i, len(rows) + j])) > 0:
                    yield iou, drawn[row].label == suggested[other].label, row, other


@dataclass(frozen=True, slots=True)
class Canaries:
    """Damages a ``share`` in 0..1 of the suggested regions, by chance."""

    share: float
    dice: np.random.Generator

    def among(self, answer: Answer) -> Answer:
        """An answer whose regions are numbered, of which some have lost a part. What cannot be drawn in one piece is left."""
        result = answer.get("result") or ()
        spoilt: dict[str, dict[str, Any]] = {}
        for item in result:
            if covers_pixels(item) and self.dice.random() < self.share and (value := _without_a_part(item)) is not None:
                spoilt[region_id(item)] = value
        return {**answer, "result": list(_with(result, spoilt))} if spoilt else answer


def is_canary(region: str) -> bool:
    """Whether an id is that of a suggestion that was damaged."""
    plain, seal = region[:-_DIGITS], region[-_DIGITS:]
    return region.startswith(OURS) and plain.count("_") == 2 and not plain.endswith("_") and seal == _seal(plain)


def has_canaries(answer: Answer) -> bool:
    """Whether some regions of an answer were damaged."""
    return any(is_canary(region_id(item)) for item in answer.get("result") or ())


def is_overlooked(item: Json) -> bool:
    """Whether a result is a damaged suggestion that nobody has changed, as Label Studio tells it."""
    return is_canary(region_id(item)) and item.get("origin") in (None, "prediction")


def _with(result: Sequence[Json], spoilt: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Results where all of a damaged region have its new shape, if any has a shape, and its new id."""
    for item in result:
        if (shape := spoilt.get(name := region_id(item))) is None:
            yield dict(item)
            continue
        value = read_value(item)
        kept = {key: each for key, each in value.items() if key not in shape} | {
            key: shape[key] for key in shape if key in value
        }
        yield {**item, "id": name + _seal(name), "value": kept}


def _seal(plain: str) -> str:
    return hashlib.blake2b(f"canary {plain}".encode(errors="surrogatepass"), digest_size=_DIGITS // 2).hexdigest()


def _without_a_part(item: Json) -> dict[str, Any] | None:
    """The value of a result's shape without one end of it; None where that is no shape of one piece."""
    shape, runs = shape_of(item), runs_of(item, size_of_item(item))
    if shape is None or runs.area < FEWEST_PIXELS:
        return None
    written = shape.write(RunLengths.of(cut(runs.decode())))
    return written[0].value if len(written) == 1 else None


def cut(mask: BoolArray) -> BoolArray:
    """A mask ``(H, W)`` without that end of its longer side which comes last."""
    rows, columns = np.nonzero(mask)
    along = rows if np.ptp(rows) > np.ptp(columns) else columns
    left = along <= np.quantile(along, LEFT)
    found = np.zeros_like(mask)
    found[rows[left], columns[left]] = True
    return found
