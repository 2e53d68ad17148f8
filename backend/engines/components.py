"""Connected components of a mask as answers: each is looked at within the box around it, and equal ones are one answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from backend.values.features import ImageFeatures
from backend.values.masks import Masks, MaskSet, RunLengths
from prompts.geometry import BoolArray, Size

SMALLEST_AREA = 4
MOST_INSTANCES = 100
"""Of one phrase or one label."""
MOST_FOUND = 1000
"""Of all phrases together."""
FULL_SIDE, SMALL_SIDE = 1 << 30, 64
"""Pixels of logits: a single object is remembered as it is."""

Place: TypeAlias = tuple[slice, slice]
"""Rows and columns of a window of the image."""


def components(mask: BoolArray) -> Iterator[tuple[Place, BoolArray]]:
    """The connected parts of a mask, the largest first: where the box around each lies, and the part within it."""
    if not mask.any():
        return
    _, numbered, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    for number in np.argsort(-areas, kind="stable")[:MOST_INSTANCES] + 1:
        if areas[number - 1] >= SMALLEST_AREA:
            x, y, width, height = stats[number, : cv2.CC_STAT_AREA].tolist()
            place = (slice(y, y + height), slice(x, x + width))
            yield place, numbered[place] == number


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One answer; its score is the mean cosine of its pixels with what was looked for, its embedding ``(D,)`` their mean."""

    runs: RunLengths
    score: float
    label: str | None
    embedding: NDArray[np.float32]


def components_found(
    features: ImageFeatures, mask: BoolArray, cosine: NDArray[np.float32], label: str | None
) -> Iterator[Found]:
    """The connected parts of a mask as answers, each looked at within the box around it."""
    for place, window in components(mask):
        yield found_in(features, place, window, cosine[place], label)


def found_in(features: ImageFeatures, place: Place, window: BoolArray, cosine: NDArray[np.float32], label: str | None) -> Found:
    """The pixels of a window ``(h, w)`` at a place of the image, with the cosines there ``(h, w)``."""
    rows, columns = place
    mean = features.grid[:, rows, columns][:, torch.from_numpy(window)].mean(dim=1)
    embedding: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=0).numpy()
    runs = RunLengths.placed(window, (columns.start, rows.start), features.size)
    return Found(runs, float(np.clip(cosine[window].mean(), 0, 1)), label, embedding)


def distinct(found: Sequence[Found]) -> list[Found]:
    """The best of those that are the same region, the first of equals; of too many the largest."""
    best: dict[bytes, Found] = {}
    for each in found:
        name = each.runs.edges.tobytes()
        best[name] = max(best.get(name, each), each, key=lambda one: one.score)
    if len(best) <= MOST_FOUND:
        return list(best.values())
    return sorted(best.values(), key=lambda one: one.runs.area, reverse=True)[:MOST_FOUND]


def mask_set(size: Size, found: Sequence[Found], side: int) -> MaskSet:
    """Answers with logits of at most ``side`` pixels: in full where they may be the memory of one object, else small."""
    if not found:
        return MaskSet.empty(size)
    shrink = min(1.0, side / max(size.height, size.width))
    shape = (max(1, round(size.height * shrink)), max(1, round(size.width * shrink)))
    rows, columns = (np.arange(small) * full // small for small, full in zip(shape, (size.height, size.width), strict=True))
    logits = np.full((len(found), *shape), -1, np.float16)
    for each, row in zip(found, logits, strict=True):
        row[each.runs.decode()[np.ix_(rows, columns)]] = 1
    return MaskSet(
        masks=Masks(size, tuple(each.runs for each in found)),
        scores=np.array([each.score for each in found], np.float32),
        labels=tuple(each.label for each in found),
        low_res_logits=logits,
        embeddings=np.stack([each.embedding for each in found]),
    )
