"""What was taught of names, which places of a map may be one thing, what speaks for a region that words found, how it is
weighed, and what counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_INSTANCES, LEAST_CELLS = 24, 3
"""Connected places of one phrase that are looked at, and of how many cells one is made at least."""
LEVELS = (0.0, -1.2)
"""The logits from which on places hang together: what is claimed is often a part; less sure places join parts to a whole."""
REPEATED = 0.9
"""The IoU from which on the places of two levels are the same."""
FAINT = -8.0
"""The logit of places that are no part of a thing."""
TENTHS = 10.0
"""Cosines are counted in tenths beside logits, so that a weight of either is worth about as much."""


USUAL = 0.85
"""The share of the usual cosine of a phrase that says nothing."""
FAMILIAR = 0.85
"""The cosine with a taught name from which on a phrase is as good as taught."""


@dataclass(frozen=True, slots=True, eq=False)
class Prototypes:
    """What each of P names looks like: unit vectors ``(P, D)`` of its places and of its regions, and the cosine with places
    ``(P,)`` that is ``usual``, which says nothing.

    Where photos showed a name, they lie between what it says and the mean of what was seen (Snell et al. 2017, "Prototypical
    Networks for Few-shot Learning"), and the usual cosine is by how much that of places at its edge is above that of others.
    """

    places: Tensor
    regions: Tensor
    usual: Tensor

    @classmethod
    def none(cls, dim: int) -> Prototypes:
        return cls(torch.zeros(0, dim), torch.zeros(0, dim), torch.zeros(0))


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """Unit vectors of the ``names (A, D)`` that a region may have, of the classifier's ``classes (C, D)``, and of ``places
    (B, D)`` of all kinds of photos; and the ``prototypes`` of those names that photos showed, the first P.
    """

    names: Tensor
    classes: Tensor
    places: Tensor
    prototypes: Prototypes

    @property
    def regions(self) -> Tensor:
        """What regions of each name look like ``(A, D)``."""
        return torch.cat([self.prototypes.regions, self.names[len(self.prototypes.regions) :]])

    def places_of(self, vectors: Tensor) -> Tensor:
        """What places of phrases ``(M, D)`` look like, in that shape; see ``_seen_or_said``."""
        return self._seen_or_said(vectors, self.prototypes.places, vectors)

    def regions_of(self, vectors: Tensor) -> Tensor:
        """What regions of phrases ``(M, D)`` look like, in that shape; see ``_seen_or_said``."""
        return self._seen_or_said(vectors, self.prototypes.regions, vectors)

    def usual_of(self, vectors: Tensor) -> Tensor:
        """The cosine ``(M,)`` of places with phrases ``(M, D)`` that says nothing; see ``_seen_or_said``."""
        return self._seen_or_said(vectors, self.prototypes.usual, USUAL * usual(vectors, self.places))

    def _seen_or_said(self, vectors: Tensor, seen: Tensor, said: Tensor) -> Tensor:
        """What was ``seen (P, ...)`` of the nearest name, where phrases ``(M, D)`` are as good as one that photos showed; else
        what is ``said (M, ...)``. Names that were never taught are alike to nothing in particular.
        """
        if not len(seen) or not len(vectors):
            return said
        near, which = (vectors.float() @ self.names[: len(seen)].to(vectors).float().T).max(dim=1)
        is_shown = (near >= FAMILIAR).view(-1, *[1] * (said.ndim - 1))
        return torch.where(is_shown, seen.to(said)[which], said)


def usual(vectors: Tensor, places: Tensor) -> Tensor:
    """The cosine ``(M,)`` with phrases ``(M, D)`` that one of twenty ``places (B, D)`` exceeds; 0 without any."""
    if not len(places):
        return vectors.new_zeros(len(vectors))
    alike = vectors.float() @ places.to(vectors).float().T
    return alike.kthvalue(max(1, round(0.95 * len(places))), dim=1).values.to(vectors)


def above_usual(vectors: Tensor, grid: Tensor, taught: Taught) -> Tensor:
    """How much more the places of ``grid (D, h, w)`` look like phrases ``(M, D)`` than is usual: cosines ``(M, h, w)`` less
    what says nothing.
    """
    vectors = vectors.to(grid)
    return torch.einsum("nd,dhw->nhw", taught.places_of(vectors), grid) - taught.usual_of(vectors)[:, None, None]


def are_familiar(vectors: Tensor, names: Tensor) -> list[bool]:
    """Whether phrases ``(M, D)`` are as good as one of the ``names (A, D)`` that were taught."""
    if not len(names) or not len(vectors):
        return [False] * len(vectors)
    return [bool(near) for near in (vectors @ names.to(vectors).T).amax(dim=1) >= FAMILIAR]


class Classed(NamedTuple):
    """What the classifier says for a phrase: the cosines of a region, of the photo's likest places, of the nearest class."""

    region: float = 0.0
    shown: float = 0.0
    nearest: float = 0.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a region: how sure its places are (the mean chance of the strongest), the cosines of its naming vector
    and of its places' mean with what was asked for, the log share of that among all names, the judged IoU, and what the
    classifier says. Regions are named by the names that were taught: of another name, one that is not ``familiar``, they
    tell little.
    """

    presence: float
    named: float
    alike: float
    among: float
    quality: float
    classed: Classed
    familiar: bool = True
    vouched: bool = False

    @property
    def values(self) -> tuple[float, ...]:
        told = (each * TENTHS for each in (self.alike, *self.classed))
        return logit(self.presence), self.named, self.among, logit(self.quality), *told


class Least(NamedTuple):
    """The least score of what is there: of a name that was taught, of one that nobody taught, and of one that the classifier
    is nearly as sure of as it can be.
    """

    taught: float
    strange: float
    vouched: float

    def of(self, evidence: Evidence) -> float:
        if evidence.familiar:
            return self.taught
        return self.vouched if evidence.vouched else self.strange


@dataclass(frozen=True, slots=True)
class Calibration:
    """Cosines to logits, and what speaks for a region that was found; chosen on held-out photos.

    ``evidence`` weighs what speaks for it, see ``Evidence``, and ``strange`` does for names that nobody taught; ``presence`` is
    the least score of what one phrase finds, ``presence_among`` that of phrases asked together, most of which are not there;
    ``strange_presence`` and ``strange_among`` are the same of names that nobody taught, whose logits get ``strange_lift``: what
    nobody taught is less alike to anything. ``vouched_presence`` is that of those that the classifier is sure of.
    ``marks_scale`` and ``marks_bias`` are what the logit of the expected IoU becomes where marks alone were drawn, from which
    nobody can tell how large the object is.
    """

    text_scale: float
    text_bias: float
    reference_scale: float
    reference_bias: float
    presence: float
    presence_among: float
    marks_scale: float = 1.0
    marks_bias: float = 0.0
    evidence: tuple[float, ...] = (0.0, 1.0, *(0.0,) * 7)
    strange: tuple[float, ...] = (0.0, 1.0, *(0.0,) * 7)
    strange_presence: float = 0.5
    strange_among: float = 0.5
    strange_lift: float = 0.0
    vouched_presence: float = 0.5

    def of_marks(self, quality: float) -> float:
        """The IoU to expect in 0..1 of an answer to marks alone that was judged to have ``quality``."""
        return _logistic(self.marks_scale * logit(quality) + self.marks_bias)

    def least(self, asked: int) -> Least:
        """The score that a region of one of ``asked`` phrases needs for its phrase to be there."""
        if asked == 1:
            return Least(self.presence, self.strange_presence, self.vouched_presence)
        return Least(self.presence_among, self.strange_among, self.vouched_presence)

    def of_evidence(self, evidence: Evidence) -> float:
        """The IoU to expect in 0..1 of a region that was found; 0 where what was asked for is most likely not there. What the
        classifier is sure of is weighed as what nobody taught: names of which a photo or two were shown are known badly.
        """
        is_taught = evidence.familiar and not evidence.vouched
        bias, *weights = self.evidence if is_taught else self.strange
        return _logistic(bias + sum(weight * each for weight, each in zip(weights, evidence.values, strict=True)))


def logit(chance: float) -> float:
    likely = min(max(chance, 1e-4), 1 - 1e-4)
    return math.log(likely / (1 - likely))


def _logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))


def presence_of(logits: Tensor) -> float:
    """How sure a map ``(h, w)`` is that its phrase is there at all: the mean chance of the places that are claimed, of at most
    half per cent of the map, so that a small thing can be as sure as a large one.
    """
    most = max(LEAST_CELLS, logits.numel() // 200)
    strongest = min(max(int((logits > 0).sum()), LEAST_CELLS), most, logits.numel())
    return float(torch.sigmoid(logits.flatten()).topk(strongest).values.mean())


def instances(logits: Tensor) -> list[tuple[NDArray[np.float32], float]]:
    """The connected places of a map ``(h, w)`` of which some are claimed, at every level, largest first: a map of each alone,
    and its presence.
    """
    if not bool((logits > 0).any()):
        return []
    soft = np.asarray(logits.float().cpu().numpy(), np.float32)
    found: list[NDArray[np.bool_]] = []
    seeds: list[tuple[NDArray[np.float32], float]] = []
    for level in LEVELS:
        for piece in _pieces(soft, level):
            if all((piece & other).sum() < REPEATED * (piece | other).sum() for other in found):
                found.append(piece)
                seeds.append((_alone(soft - level, piece), presence_of(torch.from_numpy(_alone(soft, piece)))))
    return seeds


def _pieces(logits: NDArray[np.float32], level: float) -> list[NDArray[np.bool_]]:
    """The connected places ``(h, w)`` above a level, largest first, of those that hold a claimed one."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats((logits > level).astype(np.uint8), connectivity=4)
    order = 1 + np.argsort(stats[1:, cv2.CC_STAT_AREA])[::-1]
    large = [k for k in order[:MOST_INSTANCES].tolist() if stats[k, cv2.CC_STAT_AREA] >= LEAST_CELLS]
    found = [pieces == k for k in large] if count > 1 else []
    return [piece for piece in found if (logits[piece] > 0).any()]


def _alone(logits: NDArray[np.float32], piece: NDArray[np.bool_]) -> NDArray[np.float32]:
    vicinity = cv2.dilate(piece.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.where(vicinity & ((logits <= 0) | piece), logits, FAINT).astype(np.float32)
