"""Memory: whose object the last round is about, and what accepted and rejected regions of a project teach about its labels:
memories, thresholds, examples that look wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prompts.examples import NEAREST, Examples, ShownImage, example_of, meant_by, near, thinned, together
from prompts.geometry import BoolArray, size_of
from prompts.kinds import PromptSet, TextPrompt
from prompts.phrases import LabelPhrases

FEWEST_ACCEPTED, FEWEST_REJECTED = 5, 5
"""Regions of either kind from which on a label has a threshold of its own."""
FEWEST_COUNTED = 3
"""Images, of a label and of all, from which on it is known how many regions are usual."""
FEWEST_TO_DOUBT = 3
"""Images of a label from which on one of them can be told to be unlike the others."""
COMPARED, LEAST_COMPARED, FEW_LABELS = 48, 24, 5
"""Places of an image on either side by which images are compared with each other, and the least where there are more than a few
labels.
"""
STRANGER = 0.05
"""So much more than its own label's an example has to look like something else to be doubted."""
CLEAR = 0.5
"""Of those that look wrong, which are taken out first: those by so large a share of the largest difference."""
RESAMPLED = 200
MOST_PLACES, LEAST_PLACES, ALL_PLACES = 4096, 256, 16384
"""Places of a label on either side that an answer compares with: of few labels, of many, and of all labels together."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """The least margin of a region of a label: where ``accepted`` and ``rejected`` many regions divide best, and the interval
    ``low`` to ``high`` that holds nine of ten such values when the regions are drawn anew (Efron 1979).
    """

    value: float
    low: float
    high: float
    accepted: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Usual:
    """The most regions of a label, and of all labels, that an image has shown on which there are some of it."""

    of_label: int
    of_all: int


@dataclass(frozen=True, slots=True, eq=False)
class LabelMemory:
    """What is known about a ``label`` and the ``phrases`` that find it: places inside and outside of regions of ``images`` many
    images, as the engine of version ``space`` sees them, which no other may read; the least margin of its regions, and how many
    are usual, each None where too little is known; ``least`` is the least score of a region that is worth suggesting, ``meant``
    what they show as wholes, unit vectors ``(M, D)``.
    """

    label: str
    phrases: tuple[str, ...]
    shown: Examples
    images: int
    space: str
    threshold: Threshold | None = None
    usual: Usual | None = None
    least: float = 0.0
    meant: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Doubt:
    """An example that looks less like the other ones of its label than like something else: the number of its ``image``, and
    what it ``looks_like``, another label or None for what surrounds them; the mean cosines with both.
    """

    image: int
    label: str
    looks_like: str | None
    own: float
    other: float


def learn(entries: Sequence[LabelPhrases], images: Sequence[ShownImage], space: str) -> tuple[LabelMemory, ...]:
    """The memories of those labels that an image shows; examples that are doubted teach nothing."""
    strange = {(doubt.image, doubt.label) for doubt in doubts(images)}
    most = max(LEAST_PLACES, min(MOST_PLACES, ALL_PLACES // max(len(entries), 1)))
    found = []
    for entry in entries:
        there = [k for k, image in enumerate(images) if len(image.inside.get(entry.label, ()))]
        trusted = [k for k in there if (k, entry.label) not in strange]
        if trusted:
            shown = _shown(entry.label, trusted, images, most)
            threshold = threshold_of(entry.label, trusted, images)
            counted = [image for k, image in enumerate(images) if (k, entry.label) not in strange]
            facts = (threshold, usual_of(entry.label, counted), 0.0, meant_by(entry.label, [images[k] for k in trusted]))
            found.append(LabelMemory(entry.label, entry.phrases, shown, len(trusted), space, *facts))
    return tuple(found)


def usual_of(label: str, images: Sequence[ShownImage]) -> Usual | None:
    """How many regions are usual on images; None where fewer have been counted than it takes to tell. Of a label that fewer
    images show as many are as of all.
    """
    every = [image.counts for image in images if image.counts]
    if len(every) < FEWEST_COUNTED:
        return None
    mine, most = [counts[label] for counts in every if label in counts], max(sum(counts.values()) for counts in every)
    return Usual(max(mine) if len(mine) >= FEWEST_COUNTED else most, most)


def _shown(label: str, trusted: Sequence[int], images: Sequence[ShownImage], most: int) -> Examples:
    """At most so many places on either side of a label's regions, with every look-alike that was rejected, wherever it was."""
    refused = [thinned(image.refused[label], most // 8) for image in images if label in image.refused]
    shown = together(Examples(images[k].inside[label], images[k].outside) for k in trusted)
    return Examples(thinned(shown.inside, most), torch.cat([thinned(shown.outside, most), *refused]))


def diverse(label: str, images: Sequence[ShownImage], most: int) -> list[int]:
    """The numbers of at most so many images that show a label, the first one and then each the least like those before."""
    mine = [k for k, image in enumerate(images) if len(image.inside.get(label, ()))]
    if len(mine) <= most:
        return mine
    means = torch.stack([images[k].inside[label].float().mean(dim=0) for k in mine])
    alike = torch.nn.functional.normalize(means, dim=1) @ torch.nn.functional.normalize(means, dim=1).T
    chosen = [0]
    while len(chosen) < most:
        nearest = alike[:, chosen].amax(dim=1)
        nearest[chosen] = torch.inf
        chosen.append(int(nearest.argmin()))
    return [mine[k] for k in sorted(chosen)]


def asked_for(memories: Sequence[LabelMemory], prompts: PromptSet, label: str | None, space: str) -> list[LabelMemory]:
    """Those of a space whose labels are asked for, where nothing is asked for but by name; that of the armed ``label`` where
    one thing is drawn, and nothing is said.
    """
    if prompts.drawn:
        like = armed(memories, label, space)
        return [like] if like is not None and not prompts.said and len(list(prompts.objects())) == 1 else []
    if not prompts.phrases or len(prompts.of(TextPrompt)) < len(prompts):
        return []
    return [each for each in memories if each.space == space and not set(each.phrases).isdisjoint(prompts.phrases)]


def armed(memories: Sequence[LabelMemory], label: str | None, space: str) -> LabelMemory | None:
    """The one of a label in a space, if there is one."""
    return next((each for each in memories if each.label == label and each.space == space), None)


def margins_of(places: Tensor, regions: Sequence[BoolArray], memories: Sequence[LabelMemory]) -> Tensor:
    """How much more each of N regions ``(H, W)`` of an image with places ``(D, h, w)`` looks like the inside of each label's
    examples than like their outside: differences of cosines ``(N, L)``.
    """
    found = []
    for region in regions:
        some = thinned(example_of(places, region).inside.float(), COMPARED)
        found.append([_alike(some, memory.shown.inside) - _alike(some, memory.shown.outside) for memory in memories])
    return torch.tensor(found, dtype=torch.float32).reshape(len(regions), len(memories))


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """How much every place of an image looks like what each label's examples show: mean cosines ``(L, h, w)`` with the nearest
    places ``inside`` of them and ``outside``.
    """

    inside: Tensor
    outside: Tensor

    @classmethod
    def of(cls, grid: Tensor, memories: Sequence[LabelMemory]) -> Compared:
        """The places of ``grid (D, h, w)`` beside those of L labels."""
        flat, shape = grid.flatten(1).T.float(), (len(memories), *grid.shape[1:])
        inside = torch.stack([near(flat, memory.shown.inside) for memory in memories])
        outside = torch.stack([near(flat, memory.shown.outside) for memory in memories])
        return cls(inside.reshape(shape), outside.reshape(shape))

    def margins(self) -> Tensor:
        """How much more places look like the inside of each label than like its outside and like any other label: differences
        of cosines ``(L, h, w)``.
        """
        return self.inside - torch.maximum(self.outside, rivals(self.inside))


def rivals(alike: Tensor) -> Tensor:
    """For each row of ``alike (L, ...)`` the largest of the other rows; -1 for a single row."""
    if len(alike) < 2:
        return torch.full_like(alike, -1.0)
    best = alike.topk(2, dim=0).values
    return torch.where(alike == best[0], best[1], best[0])


def taught_names(names: Sequence[str | None], memories: Sequence[LabelMemory]) -> list[str | None]:
    """Phrases that find a label that was taught as this label, everything else as it is."""
    labels: dict[str | None, str] = {phrase: memory.label for memory in memories for phrase in memory.phrases}
    return [labels.get(name, name) for name in names]


def not_refuted(
    places: Tensor, regions: Sequence[BoolArray], names: Sequence[str | None], memories: Sequence[LabelMemory]
) -> list[int]:
    """The numbers of regions ``(H, W)`` that may stay under their names: all but those under a name that several images
    taught which look more like what is around its examples, in an image with places ``(D, h, w)``.
    """
    row_of = {memory.label: k for k, memory in enumerate(memories) if memory.images >= FEWEST_TO_DOUBT}
    margins = margins_of(places, regions, memories)
    rows = [row_of.get(name or "") for name in taught_names(names, memories)]
    return [k for k, row in enumerate(rows) if row is None or float(margins[k, row]) > 0]


def doubts(images: Sequence[ShownImage]) -> list[Doubt]:
    """The examples that look wrong, by what the other images of all labels show. A wrong one makes right ones of the label that
    it is of look wrong as well: the clearest are taken out, and the others are looked at anew.
    """
    left, found, about = list(images), list[Doubt](), {label for image in images for label in image.inside}
    while there := _doubts(left, about):
        least = CLEAR * max(each.other - each.own for each in there)
        clear = [each for each in there if each.other - each.own >= least]
        for each in clear:
            inside = {label: places for label, places in left[each.image].inside.items() if label != each.label}
            left[each.image] = replace(left[each.image], inside=inside)
        found += clear
        about = {each.label for each in there}  # what was taken out makes no other label's examples look worse
    return sorted(found, key=lambda each: (each.label, each.image))


def _doubts(images: Sequence[ShownImage], about: Collection[str]) -> list[Doubt]:
    labels = sorted({label for image in images for label in image.inside})
    most = max(LEAST_COMPARED, COMPARED * FEW_LABELS // max(len(labels), FEW_LABELS))
    shown = {label: _inside(label, range(len(images)), images, most) for label in labels}
    every = {label: torch.cat(places) for label, places in shown.items() if places}
    return [doubt for label in every if label in about for doubt in _doubts_about(label, images, shown[label], every)]


def _doubts_about(
    label: str, images: Sequence[ShownImage], places: Sequence[Tensor], every: Mapping[str, Tensor]
) -> list[Doubt]:
    """Of the images that show a label with some ``places`` each, beside ``every`` label's places."""
    mine = [k for k, image in enumerate(images) if len(image.inside.get(label, ()))]
    if len(mine) < FEWEST_TO_DOUBT:
        return []
    rivals: dict[str | None, Tensor] = {None: _alike_elsewhere(places, _outside(mine, images, max(map(len, places))))}
    for other, shown in every.items():
        if other != label:
            rivals[other] = _means(near(every[label], shown), places)
    most, which = torch.stack(list(rivals.values())).max(dim=0)
    own, names = _alike_elsewhere(places, places), list(rivals)
    return [
        Doubt(k, label, names[int(which[row])], float(own[row]), float(most[row]))
        for row, k in enumerate(mine)
        if most[row] > own[row] + STRANGER
    ]


def _inside(label: str, which: Iterable[int], images: Sequence[ShownImage], most: int = COMPARED) -> list[Tensor]:
    """Some places inside a label's regions on each of those images that show some."""
    shown = (images[k].inside[label] for k in which if len(images[k].inside.get(label, ())))
    return [thinned(each, most).float() for each in shown]


def _outside(which: Iterable[int], images: Sequence[ShownImage], most: int = COMPARED) -> list[Tensor]:
    return [thinned(images[k].outside, most).float() for k in which]


def _alike_elsewhere(places: Sequence[Tensor], shown: Sequence[Tensor]) -> Tensor:
    """For each of N images ``(N,)`` the mean cosine of its places with the nearest of those that all others show; -1 where
    these show none.
    """
    cosines = torch.cat(list(places)) @ torch.cat(list(shown)).T
    mine, theirs = (
        torch.arange(len(side)).repeat_interleave(torch.tensor([len(each) for each in side])) for side in (places, shown)
    )
    cosines[mine[:, None] == theirs[None]] = -torch.inf
    best = cosines.topk(min(NEAREST, cosines.shape[1]), dim=1).values
    there = best.isfinite()
    found = torch.where(there, best, 0.0).sum(dim=1) / there.sum(dim=1)
    return _means(torch.where(there.any(dim=1), found, -1.0), places)


def _means(values: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """The means ``(N,)`` of the values of N parts' places."""
    ends = np.cumsum([len(part) for part in parts])
    return torch.stack([values[end - len(part) : end].mean() for part, end in zip(parts, ends.tolist(), strict=True)])


def _alike(places: Tensor, shown: Tensor) -> float:
    return float(near(places, shown).mean()) if len(shown) else -1.0


def threshold_of(label: str, trusted: Sequence[int], images: Sequence[ShownImage]) -> Threshold | None:
    """The least margin of a region of a label; None where fewer regions were accepted or rejected than it takes to tell.

    An accepted region's margin is measured by the other images alone.
    """
    refused = [thinned(image.refused[label].float(), COMPARED) for image in images if len(image.refused.get(label, ()))]
    if len(trusted) < FEWEST_ACCEPTED or len(refused) < FEWEST_REJECTED:
        return None
    inside, outside = _inside(label, trusted, images), _outside(trusted, images)
    accepted = _alike_elsewhere(inside, inside) - _alike_elsewhere(inside, outside)
    every = torch.cat(refused)
    rejected = _means(near(every, torch.cat(inside)) - near(every, torch.cat(outside)), refused)
    value, low, high = _interval(np.asarray(accepted, np.float32), np.asarray(rejected, np.float32))
    return Threshold(value, low, high, len(accepted), len(rejected))


def _interval(accepted: NDArray[np.float32], rejected: NDArray[np.float32]) -> tuple[float, float, float]:
    """The best cut, and the 5th and the 95th percentile of those of resampled regions."""
    dice = np.random.default_rng(0)
    drawn = [side[dice.integers(len(side), size=(RESAMPLED, len(side)))] for side in (accepted, rejected)]
    low, high = np.percentile(best_cuts(*drawn), (5, 95))
    return float(best_cuts(accepted[None], rejected[None])[0]), float(low), float(high)


def best_cuts(inside: NDArray[np.float32], outside: NDArray[np.float32]) -> NDArray[np.float32]:
    """For each of R rows the threshold ``(R,)`` at or above which lie the most values of ``inside (R, N)`` and the fewest of
    ``outside (R, M)``, each counted as a share of its own (the largest balanced accuracy, Brodersen et al. 2010); the middle of
    the gap. Neither side may be empty.
    """
    values = np.sort(np.concatenate([inside, outside], axis=1), axis=1)
    cuts = np.concatenate([values[:, :1], (values[:, 1:] + values[:, :-1]) / 2], axis=1)
    within, beyond = ((side[:, None] >= cuts[..., None]).mean(axis=2) for side in (inside, outside))
    return np.asarray(cuts[np.arange(len(cuts)), (within - beyond).argmax(axis=1)], np.float32)


def owner_of(objects: Sequence[PromptSet], before: BoolArray) -> int | None:
    """Which of several drawn objects (see PromptSet.objects) the previous mask ``(H, W)`` is of: the one whose drawing covers
    most of it, the smallest drawing where several cover as much, and None where none does. A single object owns it anyway.
    """
    size = size_of(before)
    return owner_among([each.region(size) | each.region(size, positive=False) for each in objects], before)


def owner_among(drawings: Sequence[BoolArray], before: BoolArray) -> int | None:
    """The same for the pixels ``(H, W)`` of each object's drawing."""
    if len(drawings) == 1:
        return 0
    covered = [int((drawing & before).sum()) for drawing in drawings]
    best = max(range(len(drawings)), key=lambda k: (covered[k], -int(drawings[k].sum())), default=None)
    return best if best is not None and covered[best] else None
