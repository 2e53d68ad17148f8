"""What a pre-annotation is made of, and what a project's extra parameters (Settings, Model) ask of it.

Instances, one region a class, every pixel once, boxes; and what is good enough. Label Studio sends extra parameters as an
object or as its text.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.labelstudio.shapes import SHAPES
from backend.values.errors import ConfigError
from backend.values.masks import Masks, MaskSet, RunLengths, best_first, keep_best, overlaps
from backend.values.session import ForEverything, ForNames
from prompts.kinds import KeyedImage
from prompts.phrases import Vocabulary

if TYPE_CHECKING:  # what was learnt holds tensors, of which nothing is known here
    from prompts.memory import LabelMemory

ANY_LABEL = "*"
LEAST_LEFT = 0.5
"""A thing of which less than this share is left beside better ones is dropped, as in Kirillov et al. 2019, "Panoptic
Segmentation"."""


class Mode(StrEnum):
    """What the regions of a pre-annotation are."""

    INSTANCE = "instance"
    """Each thing is a region; regions may overlap."""
    SEMANTIC = "semantic"
    """Each class is one region; no pixel belongs to two."""
    PANOPTIC = "panoptic"
    """No pixel belongs to two regions: things are regions, stuff is one region a class."""
    EVERYTHING = "everything"
    """Whatever can be told apart is a region, named by the most similar label."""
    BOXES = "boxes"
    """Each thing is a rectangle, where the labelling config has some."""


@dataclass(frozen=True, slots=True)
class PreannotationOptions:
    """A project's choice. ``thresholds`` are least scores by label, under ``*`` for all others; ``min_area`` is in pixels;
    ``containment`` is the share of a region that may lie inside a better one, whatever its label; ``stuff`` are the labels that
    cannot be counted; ``rest`` is the label of every pixel that no region has, in a mode in which none has two; ``output`` is
    the shape to prefer (``polygon``); ``alternatives`` is how many masks may answer one click.
    """

    mode: Mode = Mode.INSTANCE
    thresholds: Mapping[str, float] = field(default_factory=dict)
    max_regions: int | None = None
    min_area: int = 0
    containment: float | None = None
    stuff: frozenset[str] = frozenset()
    rest: str | None = None
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
                named = masks[[label != self.rest for label in masks.labels]]
                classes = frozenset(filter(None, named.labels))
                masks = self._with_rest(merge_classes(without_overlaps(named, classes), classes))
            case Mode.PANOPTIC:
                named = masks[[label != self.rest for label in masks.labels]]
                masks = self._with_rest(without_overlaps(merge_classes(named, self.stuff), self.stuff))
            case _:
                pass
        return masks[best_first(masks.scores)[: self.max_regions]]

    def _with_rest(self, masks: MaskSet) -> MaskSet:
        """With what no region has as a region of the label that the project has for it, under the least of all scores."""
        left = ~masks.masks.union()
        if self.rest is None or not left.any():
            return masks
        columns = tuple(np.zeros((1, *each.shape[1:]), each.dtype) for each in (masks.low_res_logits, masks.embeddings))
        least = masks.scores.min(keepdims=True) if len(masks) else np.zeros(1, np.float32)
        return MaskSet.concatenate([masks, MaskSet(Masks.of([left], masks.size), least, (self.rest,), *columns)], masks.size)

    def _good_enough(self, masks: MaskSet) -> MaskSet:
        if not len(masks) or not (self.thresholds or self.min_area):
            return masks
        other = self.thresholds.get(ANY_LABEL, 0.0)
        least = np.array([self.thresholds.get(label or "", other) for label in masks.labels], np.float64)
        return masks[(masks.scores >= least) & (masks.masks.areas >= self.min_area)]


def without_contained(masks: MaskSet, most: float) -> MaskSet:
    """Without the rows of which more than a share lies inside a better row, whatever its label."""
    _, inside = overlaps(masks.masks)
    return masks[keep_best(inside, masks.scores, most)]


def merge_classes(masks: MaskSet, labels: frozenset[str]) -> MaskSet:
    """With all rows of each of these labels as one: the union, under the mean score, with the rest of its best row."""
    merged: list[MaskSet] = []
    for label in dict.fromkeys(masks.labels):
        rows = np.flatnonzero([its == label for its in masks.labels])
        if label in labels and len(rows) > 1:
            same, best = masks[rows], masks[rows[[int(masks.scores[rows].argmax())]]]
            merged.append(replace(best.with_masks([same.masks.union()]), scores=same.scores.mean(keepdims=True)))
        else:
            merged.append(masks[rows])
    return MaskSet.concatenate(merged, masks.size)


def without_overlaps(masks: MaskSet, stuff: frozenset[str]) -> MaskSet:
    """With every pixel in one row at most: things before stuff, better ones first; things that keep too little are dropped."""
    taken = np.zeros((masks.size.height, masks.size.width), np.bool_)
    free: dict[int, RunLengths] = {}
    for row in sorted(best_first(masks.scores), key=lambda row: masks.labels[row] in stuff):
        (rows, columns), whole = masks.masks.runs[row].window()
        left = whole & ~taken[rows, columns]
        least = 0.0 if masks.labels[row] in stuff else LEAST_LEFT * float(whole.sum())
        if left.sum() >= max(least, 1):
            taken[rows, columns] |= left
            free[row] = RunLengths.placed(left, (columns.start, rows.start), masks.size)
    return replace(masks[list(free)], masks=Masks(masks.size, tuple(free.values())))


MOST_ALTERNATIVES = 5
MOST_PROJECTS = 10_000


class ProjectOptions:
    """The choice of each project, as its last ``/setup`` told; the default for others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_project: OrderedDict[str, PreannotationOptions] = OrderedDict()

    def register(self, project: str, wanted: PreannotationOptions) -> None:
        """Take the place of the project's earlier choice."""
        with self._lock:
            self._by_project[project] = wanted
            self._by_project.move_to_end(project)
            while len(self._by_project) > MOST_PROJECTS:
                self._by_project.popitem(last=False)

    def of(self, project: str) -> PreannotationOptions:
        with self._lock:
            return self._by_project.get(project, PreannotationOptions())


def read_extra_params(found: Any) -> PreannotationOptions:
    """The choice that extra parameters make; keys that we do not know are left to others.

    Raises:
        ConfigError: a key that we know has a value that it cannot have.
    """
    given = _object(found)
    thresholds = _thresholds(given.get("thresholds"))
    if given.get("threshold") is not None:
        thresholds[ANY_LABEL] = _number(given, "threshold", most=1.0)
    return PreannotationOptions(
        mode=_mode(given.get("mode")),
        thresholds=thresholds,
        max_regions=int(_number(given, "max_regions")) if given.get("max_regions") is not None else None,
        min_area=int(_number(given, "min_area")) if given.get("min_area") is not None else 0,
        containment=_number(given, "containment", most=1.0) if given.get("containment") is not None else None,
        stuff=_names(given.get("stuff")),
        rest=_name(given.get("rest")),
        output=_output(given.get("output")),
        alternatives=int(_number(given, "alternatives", most=MOST_ALTERNATIVES))
        if given.get("alternatives") is not None
        else 1,
    )


def _object(found: Any) -> Mapping[str, Any]:
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            return {}
    return found if isinstance(found, Mapping) else {}


def _mode(found: Any) -> Mode:
    try:
        return Mode(found) if found is not None else Mode.INSTANCE
    except ValueError:
        raise ConfigError(f"extra parameters: 'mode' can be {', '.join(Mode)}, not {found!r}") from None


def _thresholds(found: Any) -> dict[str, float]:
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ConfigError("extra parameters: expected an object of least scores by label under 'thresholds'")
    return {str(label): _number(found, label, most=1.0) for label in found}


def _number(given: Mapping[str, Any], key: str, most: float = 1e9) -> float:
    found = given.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= most:
        raise ConfigError(f"extra parameters: expected a number in 0..{most:g} under {key!r}, got {str(found)[:40]!r}")
    return float(found)


def _output(found: Any) -> str:
    if found is not None and found not in tuple(SHAPES):
        raise ConfigError(f"extra parameters: 'output' can be {', '.join(SHAPES)}, not {found!r}")
    return found or ""


def _names(found: Any) -> frozenset[str]:
    if found is None:
        return frozenset()
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ConfigError("extra parameters: expected a list of labels under 'stuff'")
    return frozenset(found)


def _name(found: Any) -> str | None:
    if found is not None and not isinstance(found, str):
        raise ConfigError(f"extra parameters: expected a label under 'rest', got {str(found)[:40]!r}")
    return found or None


def question_about(
    vocabulary: Vocabulary, image: KeyedImage, wanted: PreannotationOptions, learnt: tuple[LabelMemory, ...] = ()
) -> ForNames | ForEverything:
    """The question about an image on which nothing was drawn or typed, with what is ``learnt`` about the labels.

    Whoever asks answers with ``wanted.apply`` of the masks and with ``names_of`` them.
    """
    if wanted.mode is Mode.EVERYTHING:
        return ForEverything(image, vocabulary, learnt)
    return ForNames(image, vocabulary, learnt)
