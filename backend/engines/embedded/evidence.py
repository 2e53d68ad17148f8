"""What speaks for a region that words found, how it is weighed, and from which score on it counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

TENTHS = 10.0
"""Cosines are counted in tenths beside logits, so that a weight of either is worth about as much."""


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
    nobody taught is less alike to anything.
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

    def of_marks(self, quality: float) -> float:
        """The IoU to expect in 0..1 of an answer to marks alone that was judged to have ``quality``."""
        return _logistic(self.marks_scale * logit(quality) + self.marks_bias)

    def least(self, asked: int) -> Least:
        """The score that a region of one of ``asked`` phrases needs for its phrase to be there."""
        if asked == 1:
            return Least(self.presence, self.strange_presence, self.strange_presence)
        return Least(self.presence_among, self.strange_among, self.strange_presence)

    def of_evidence(self, evidence: Evidence) -> float:
        """The IoU to expect in 0..1 of a region that was found; 0 where what was asked for is most likely not there."""
        bias, *weights = self.evidence if evidence.familiar else self.strange
        return _logistic(bias + sum(weight * each for weight, each in zip(weights, evidence.values, strict=True)))


def logit(chance: float) -> float:
    likely = min(max(chance, 1e-4), 1 - 1e-4)
    return math.log(likely / (1 - likely))


def _logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))
