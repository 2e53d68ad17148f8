"""What a pre-annotation is made of: instances, one region a class, every pixel once, boxes; and what is good enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from backend.values.masks import MaskSet, overlaps

ANY_LABEL = "*"
LEAST_LEFT = 0.5
"""A thing of which less than this share is left beside better ones is dropped, as in Kirillov et al. 2019, "Panoptic
Segmentation"."""


class Mode(StrEnum):
    """What the regions of a pre-annotation are."""

    INSTANCE = "instance"
    """Each thing is a region; regions may overlap."""
    SEMANTIC = "semantic"
    """Each class is one region."""
    PANOPTIC = "panoptic"
    """No pixel belongs to two regions: things are regions, stuff is one region a class."""
    EVERYTHING = "everything"
    """Whatever can be told apart is a region, named by the most similar label."""
    BOXES = "boxes"
    """Each thing is a rectangle, where the labelling config has some."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A project's choice. ``thresholds`` are least scores by label, under ``*`` for all others; ``min_area`` is in pixels;
    ``containment`` is the share of a region that may lie inside a better one, whatever its label; ``stuff`` are the labels that
    cannot be counted; ``output`` is the shape to prefer (``polygon``); ``alternatives`` is how many masks may answer one click.
    """

    mode: Mode = Mode.INSTANCE
    thresholds: Mapping[str, float] = field(default_factory=dict)
    max_regions: int | None = None
    min_area: int = 0
    containment: float | None = None
    stuff: frozenset[str] = frozenset()
    output: str = ""
    alternatives: int = 1

    @property
    def form(self) -> str:
        """The shape to prefer in answers, ``rectangle`` for boxes; empty for the usual order."""
        return "rectangle" if self.mode is Mode.BOXES else self.output

    def apply(self, masks: MaskSet) -> MaskSet:
        """The regions to answer with, best first."""
        masks = self._good_enough(masks)
        if self.containment is not None:
            masks = without_contained(masks, self.containment)
        match self.mode:
            case Mode.SEMANTIC:
                masks = merge_classes(masks, frozenset(filter(None, masks.labels)))
            case Mode.PANOPTIC:
                masks = without_overlaps(merge_classes(masks, self.stuff), self.stuff)
            case _:
                pass
        return masks[_best_first(masks)[: self.max_regions]]

    def _good_enough(self, masks: MaskSet) -> MaskSet:
        if not len(masks) or not (self.thresholds or self.min_area):
            return masks
        other = self.thresholds.get(ANY_LABEL, 0.0)
        least = np.array([self.thresholds.get(label or "", other) for label in masks.labels], np.float64)
        return masks[(masks.scores >= least) & (masks.masks.sum(axis=(1, 2)) >= self.min_area)]


def without_contained(masks: MaskSet, most: float) -> MaskSet:
    """Without the rows of which more than a share lies inside a better row, whatever its label."""
    _, inside = overlaps(masks.masks)
    kept: list[int] = []
    for row in _best_first(masks):
        if all(inside[row, better] <= most for better in kept):
            kept.append(row)
    return masks[kept]


def merge_classes(masks: MaskSet, labels: frozenset[str]) -> MaskSet:
    """With all rows of each of these labels as one: the union, under the mean score, with the rest of its best row."""
    merged: list[MaskSet] = []
    for label in dict.fromkeys(masks.labels):
        rows = np.flatnonzero([its == label for its in masks.labels])
        if label in labels and len(rows) > 1:
            best = masks[rows[[int(masks.scores[rows].argmax())]]]
            merged.append(
                MaskSet(
                    np.any(masks.masks[rows], axis=0, keepdims=True),
                    masks.scores[rows].mean(keepdims=True),
                    (label,),
                    best.low_res_logits,
                    best.embeddings,
                )
            )
        else:
            merged.append(masks[rows])
    return MaskSet.concatenate(merged, masks.size)


def without_overlaps(masks: MaskSet, stuff: frozenset[str]) -> MaskSet:
    """With every pixel in one row at most: things before stuff, better ones first; things that keep too little are dropped."""
    taken = np.zeros(masks.masks.shape[1:], np.bool_)
    free, kept = masks.masks.copy(), []
    for row in sorted(_best_first(masks), key=lambda row: masks.labels[row] in stuff):
        free[row] &= ~taken
        least = 0.0 if masks.labels[row] in stuff else LEAST_LEFT * float(masks.masks[row].sum())
        if free[row].sum() >= max(least, 1):
            taken |= free[row]
            kept.append(row)
    rest = masks[kept]
    return MaskSet(free[kept], rest.scores, rest.labels, rest.low_res_logits, rest.embeddings) if kept else rest


def _best_first(masks: MaskSet) -> list[int]:
    return list(np.argsort(-masks.scores, kind="stable").tolist())
