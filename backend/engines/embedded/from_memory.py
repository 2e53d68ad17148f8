"""Labels that accepted regions taught to masks: which places look more like a label's examples than like anything else, and how
much what is found there looks like them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.engines.embedded.evidence import Calibration, Taught, above_usual, logit
from backend.engines.embedded.from_drawing import Drawing, decode_object
from backend.engines.embedded.from_text import Found, cover, meaning, shares_of, text_logits
from backend.engines.embedded.views import CLASSED, REGIONS, Canvas, Reader
from backend.values.features import ImageFeatures
from prompts.geometry import BoolArray, mask_box
from prompts.kinds import PointPrompt, PromptSet
from prompts.memory import Compared, LabelMemory, rivals
from prompts.space import PromptTokens

LEAST = 0.4
"""The least score of a region of a label that was taught."""
BIAS, PRESENCE, QUALITY, MARGIN, RIVAL, ALIKE = -0.215, 0.079, 0.057, 0.466, 0.333, 0.522
"""What speaks for a region, to the IoU to expect: least squares over regions of photos of names that no figure is reported on.
The logits of how sure its places are and of the judged IoU; how much more it looks like its label's examples than like what is
around them, and than like any other label; and how much it looks like them at all.
"""
AS_WHOLES = (1.0, 0.5)
"""What the cosine of a region as a whole counts beside that of its places: by the map that names regions, by the classifier."""
LARGE, AGREES, MOST_REDRAWN = 0.15, 0.3, 8
"""Regions that are drawn anew: their longer side as a share of the image's at least, the least IoU with what comes of it, and
how many, the likeliest ones.
"""
PRIOR, USUAL_WORTH = 2, 0.8
"""What is known of words that were taught counts as much as so many images do, in which words would be worth so much."""
MOST_RIVAL = 0.2
"""By so much another label has to be less alike to say everything that it can."""


def scores_of(
    compared: Compared, found: Sequence[Found], memories: Sequence[LabelMemory], wholes: Tensor | None = None
) -> dict[int, float]:
    """The IoU to expect in 0..1 of those regions, by number, that were found for a label; 0 of one that is less alike
    than its label's regions are. ``wholes (N, L)`` is how much more alike regions are as wholes, see ``alike_as_wholes``.
    """
    taught = [k for k, each in enumerate(found) if each.which < len(memories)]
    if not taught:
        return {}
    which = [found[k].which for k in taught]
    share, rows = cover([found[k].answer for k in taught], compared.inside), torch.arange(len(taught))
    inside, outside = _means(compared.inside, share), _means(compared.outside, share)
    alike, margin = inside[rows, which], (inside - outside)[rows, which]
    named = inside if wholes is None else inside + wholes[taught].to(inside)
    rival = (named - rivals(named.T).T)[rows, which].clamp(max=MOST_RIVAL)
    seen = (BIAS + MARGIN * margin + RIVAL * rival + ALIKE * alike).tolist()
    scores = {}
    for row, k in enumerate(taught):
        evidence, cut = found[k].evidence, memories[which[row]].threshold
        score = seen[row] + PRESENCE * logit(evidence.presence) + QUALITY * logit(evidence.quality)
        is_below = cut is not None and float(margin[row]) < cut.value
        scores[k] = 0.0 if is_below else min(max(score, 0.0), 1.0)
    return scores


def meant(features: ImageFeatures, masks: Sequence[BoolArray]) -> Tensor:
    """What regions ``(H, W)`` show as wholes, unit vectors ``(N, M, D)``: by the map from which regions are named, and by the
    classifier, where there is one.
    """
    maps = [features.tensors[name].float() for name in (REGIONS, CLASSED) if name in features.tensors]
    return torch.stack([meaning(each, shares_of(masks, each)) for each in maps], dim=1)


def alike_as_wholes(
    features: ImageFeatures, found: Sequence[Found], memories: Sequence[LabelMemory], strange: Sequence[int]
) -> Tensor:
    """By how much regions are more alike to each label's examples than their places tell ``(N, L)``, from what they show as
    wholes: of those that were found for a ``strange`` label, one without a meaning, and 0 of all others.
    """
    told = torch.zeros(len(found), len(memories))
    mine = [k for k, each in enumerate(found) if each.which in strange]
    if mine and all(memory.meant is not None for memory in memories):
        shown = torch.stack([memory.meant for memory in memories if memory.meant is not None])
        seen = meant(features, [found[k].answer.logits > 0 for k in mine])
        weights = torch.tensor(AS_WHOLES[: seen.shape[1]])
        told[mine] = torch.einsum("nmd,lmd,m->nl", seen.cpu(), shown.to(seen.dtype).cpu(), weights)
    return told


def renamed(compared: Compared, found: Sequence[Found], wholes: Tensor, strange: Sequence[int]) -> list[Found]:
    """Regions of ``strange`` labels, each for the one whose examples it is most alike to; all others as they are."""
    mine = [k for k, each in enumerate(found) if each.which in strange]
    named = list(found)
    if mine and len(strange) > 1:
        inside = _means(compared.inside, cover([found[k].answer for k in mine], compared.inside))
        likest = (inside + wholes[mine].to(inside))[:, list(strange)].argmax(dim=1).tolist()
        for k, best in zip(mine, likest, strict=True):
            named[k] = replace(found[k], which=strange[best])
    return named


def redrawn(reader: Reader, canvas: Canvas, found: Found, chance: NDArray[np.float32]) -> Found:
    """A region as a click in its middle finds it, where ``chance (H, W)`` says what looks like the examples: what began as a
    part of a thing becomes all of it. A thing that is small beside the image stays as it is, as clicks are looked at from
    afar; so does one of which the click finds something else.
    """
    mask = found.answer.logits > 0
    box = mask_box(mask)
    if box is None or max(box[2] - box[0], box[3] - box[1]) < LARGE * max(mask.shape):
        return found
    click = PromptSet((PointPrompt(_middle(mask)),))
    answer = decode_object(reader, canvas, Drawing(click, {}, None, chance))
    if answer is None:
        return found
    again = answer.logits > 0
    if (mask & again).sum() < AGREES * (mask | again).sum():
        return found
    return replace(found, answer=answer, evidence=replace(found.evidence, quality=answer.quality))


def _middle(mask: BoolArray) -> tuple[float, float]:
    """The pixel of a mask that is farthest from its edge, ``(x, y)``."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column) + 0.5, float(row) + 0.5


def _means(maps: Tensor, share: Tensor) -> Tensor:
    """The mean ``(N, L)`` of maps ``(L, h, w)`` over the ``share (N, h, w)`` of each place that regions cover."""
    weight = share.flatten(1) + 1e-6
    return weight / weight.sum(dim=1, keepdim=True) @ maps.flatten(1).T.to(weight)


def what_was_shown(tokens: PromptTokens) -> Tensor:
    """What references show, one unit vector ``(1, D)`` for all; no row where there is none."""
    if not len(tokens.reference):
        return tokens.reference
    return torch.nn.functional.normalize(tokens.reference.mean(dim=0, keepdim=True), dim=1)


def meanings(memories: Sequence[LabelMemory], said: Sequence[Tensor | None]) -> Tensor:
    """What labels mean, unit vectors ``(L, D)``: the mean of what was ``said (M, D)`` of one, or else of its examples."""
    means = [
        (memory.shown.inside if words is None else words).float().mean(dim=0)
        for memory, words in zip(memories, said, strict=True)
    ]
    return torch.nn.functional.normalize(torch.stack(means), dim=1)


def worth_of_words(vectors: Tensor, memory: LabelMemory, taught: Taught, calibration: Calibration) -> float:
    """How much a label's phrases ``(M, D)`` tell about its own examples, in 0..1: by how much they divide the inside from the
    outside better than chance (Youden's J).
    """
    inside, outside = memory.shown.inside.float(), memory.shown.outside.float()
    if not len(vectors) or not len(inside) or not len(outside):
        return 0.0
    grid = torch.cat([inside, outside]).T[:, :, None]
    said = text_logits(above_usual(vectors, grid, taught), calibration).amax(dim=0)[:, 0] > 0
    told, wrong = said[: len(inside)].float().mean(), said[len(inside) :].float().mean()
    return max(0.0, float(told - wrong))


@dataclass(frozen=True, slots=True)
class Trust:
    """How much the ``examples`` of a label and its ``words`` count, each in 0..1, and whether the words ``is_known`` to the
    encoder.
    """

    examples: float
    words: float
    is_known: bool

    @classmethod
    def of(cls, worth: float, is_known: bool, images: int) -> Trust:
        """Words that were taught count from the start, and the examples of their label by how many ``images`` show them; a
        label that means nothing has its examples alone, and its words as far as they are ``worth`` something about these.
        """
        if not is_known:
            return cls(1.0, worth, is_known)
        share = images / (images + PRIOR)
        return cls(share, share * worth + (1 - share) * USUAL_WORTH, is_known)

    def weigh(self, alike: Tensor, said: Tensor) -> Tensor:
        """Logits ``(h, w)`` from those of examples ``(h, w)`` and of phrases ``(M, h, w)``, of which the strongest is heard.
        What does not look like the examples of a name that is known is not lost, as far as its words are to be believed.
        """
        heard = said.amax(dim=0) * self.words if len(said) else torch.zeros_like(alike)
        against = self.examples * (1 - self.words) if self.is_known else self.examples
        return heard + alike.clamp(min=0) * self.examples + alike.clamp(max=0) * against
