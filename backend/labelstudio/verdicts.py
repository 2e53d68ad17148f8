"""What a person made of each suggestion: submitted regions are compared with those that were suggested for their task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from backend.values.masks import Masks, overlaps
from backend.values.session import Example, Verdict
from prompts.geometry import Size

UNTOUCHED_IOU = 0.98
"""A shape of which so much is left is as it was suggested: one that Label Studio's page has drawn anew may differ by pixels."""
LEAST_IOU = 0.5
"""A region under another id that covers less of a suggestion is another thing."""


def compare(drawn: Sequence[Example], suggested: Sequence[Example] | None, was_derived: bool = False) -> list[Example]:
    """The submitted regions with what they say about the suggestions (None: nothing was suggested as far as is known), and
    after them the suggestions that were rejected, under the label that they had.

    Regions belong to a suggestion by their id, which Label Studio keeps, or by their shape. What is missing was deleted if
    anything in the annotation came from the suggestions, or Label Studio says so: ``was_derived``.
    """
    if suggested is None:
        return list(drawn)
    pairs = _pairs(drawn, suggested)
    found = [_judged(region, suggested, pairs.get(row)) for row, region in enumerate(drawn)]
    if not (was_derived or pairs):
        return found
    kept = {other for row, (other, _) in pairs.items() if drawn[row].label == suggested[other].label}
    lost = [replace(each, verdict=Verdict.REJECTED, iou=0.0) for row, each in enumerate(suggested) if row not in kept]
    return found + [each for each in lost if each.label is not None]


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
