"""Phrases and references to masks: which places look like them, which connected places are one thing, and what is absent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.engines.embedded import network
from backend.engines.embedded.network import ViewDecoder
from backend.engines.embedded.views import REGIONS, Answer, Canvas, around, chance_of, decode_views, look
from backend.values.features import ImageFeatures
from backend.values.masks import Masks, overlaps
from prompts.examples import Examples, example_of, likeness, together
from prompts.space import PromptTokens

MARGIN = 1.3
MOST_INSTANCES = 24
"""Connected places of one phrase that are looked at, and of all phrases together."""
MOST_TOGETHER = 128
LEAST_CELLS = 3
DUPLICATE = 0.6
SYNONYM = 0.6
"""The cosine from which on two phrases may mean the same thing."""
RIVALS = 8
"""How many phrases are heard at a place: the strongest ones."""
NAMING_SCALE = 18.0
"""How sharply a region is drawn to the names that are nearest to it."""
USUAL = 0.85
"""The share of the usual cosine of a phrase that says nothing."""
LEAST_AMONG = -4.0
FAMILIAR = 0.85
"""The cosine with a taught name from which on a phrase is as good as taught."""
STRONGEST, OF_PEAK = 20, 0.55
"""How many places make the peak of a phrase, and the share of its cosine that other places need at least."""
FAINT = -8.0
_CHUNK, _VIEWS = 64, 16


@dataclass(frozen=True, slots=True)
class Calibration:
    """Cosines to logits, and what speaks for a region that was found; chosen on held-out photos.

    ``evidence`` weighs what speaks for it, see ``Evidence``, and ``strange`` does for names that nobody taught; ``presence`` is
    the least score of what one phrase finds, ``presence_among`` that of phrases asked together, most of which are not there.
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
    evidence: tuple[float, ...] = (0.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    strange: tuple[float, ...] = (0.0, 1.0, 0.0, 0.0, 0.0, 0.0)

    def of_marks(self, quality: float) -> float:
        """The IoU to expect in 0..1 of an answer to marks alone that was judged to have ``quality``."""
        return _logistic(self.marks_scale * logit(quality) + self.marks_bias)

    def of_evidence(self, evidence: Evidence) -> float:
        """The IoU to expect in 0..1 of a region that was found; 0 where what was asked for is most likely not there."""
        bias, *weights = self.evidence if evidence.familiar else self.strange
        return _logistic(bias + sum(weight * each for weight, each in zip(weights, evidence.values, strict=True)))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a region: how sure its places are (the mean chance of the strongest), the cosines of its naming vector
    and of its places' mean with what was asked for, the log share of that among all names, and the judged IoU. Regions are
    named by the names that were taught: of another name, one that is not ``familiar``, they tell little.
    """

    presence: float
    named: float
    alike: float
    among: float
    quality: float
    familiar: bool = True

    @property
    def values(self) -> tuple[float, ...]:
        return logit(self.presence), self.named, self.alike, self.among, logit(self.quality)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One region that was found for the phrase or reference of a number: its mask and what speaks for it."""

    which: int
    answer: Answer
    evidence: Evidence


def said_logits(tokens: PromptTokens, grid: Tensor, calibration: Calibration, places: Tensor) -> Tensor:
    """One logit map ``(M, h, w)`` for each phrase, then one for all references together if there are any.

    ``places (B, D)`` are vectors of places of all kinds of photos, see ``usual``. What a negative phrase or reference claims is
    taken away from each.
    """
    shown = _shown(tokens, grid, calibration)
    wanted = torch.cat([_text(tokens.text, grid, calibration, places), shown])
    unwanted = _text(tokens.negative_text, grid, calibration, places)
    if len(unwanted) and len(wanted):
        rival = unwanted.amax(dim=0, keepdim=True)
        return torch.where(rival > wanted, -rival.abs() - 4, wanted)
    return wanted


def _text(vectors: Tensor, grid: Tensor, calibration: Calibration, places: Tensor) -> Tensor:
    return text_logits(above_usual(vectors, grid, places), calibration)


def above_usual(vectors: Tensor, grid: Tensor, places: Tensor) -> Tensor:
    """How much more the places of ``grid (D, h, w)`` look like phrases ``(M, D)`` than places usually do: cosines ``(M, h, w)``
    less a share of those that one place in twenty has. Names that were never taught are alike to nothing in particular.
    """
    cosines = torch.einsum("nd,dhw->nhw", vectors.to(grid), grid)
    if not len(places) or not len(vectors):
        return cosines
    return cosines - USUAL * usual(vectors, places).to(grid)[:, None, None]


def usual(vectors: Tensor, places: Tensor) -> Tensor:
    """The cosine ``(M,)`` with phrases ``(M, D)`` that one of twenty ``places (B, D)`` exceeds."""
    alike = vectors.float() @ places.to(vectors).float().T
    return alike.kthvalue(max(1, round(0.95 * len(places))), dim=1).values


def text_logits(cosines: Tensor, calibration: Calibration) -> Tensor:
    """Logits ``(M, h, w)`` from the cosines of places with phrases; where a phrase is very sure of some places, a place needs
    at least a share of their cosine.
    """
    if not cosines.numel():
        return cosines
    flat = cosines.flatten(1)
    peak = flat.topk(min(STRONGEST, flat.shape[1]), dim=1).values.mean(dim=1)[:, None, None]
    least = (OF_PEAK * peak * calibration.text_scale + calibration.text_bias).clamp(min=0)
    return cosines * calibration.text_scale + calibration.text_bias - least


def _shown(tokens: PromptTokens, grid: Tensor, calibration: Calibration) -> Tensor:
    """One logit map ``(1, h, w)`` for all references together, of which several are several examples; none without any."""
    examples = examples_of(tokens)
    if examples is None:
        return grid.new_zeros(0, grid.shape[1], grid.shape[2])
    return likeness(grid, examples)[None] * calibration.reference_scale + calibration.reference_bias


def examples_of(tokens: PromptTokens) -> Examples | None:
    """The places inside and outside of the references of a prompt set; None where none shows anything."""
    shown: list[Examples] = []
    for reference, there in tokens.references:
        if reference.mask.any() and isinstance(there, ImageFeatures):
            example = example_of(there.grid.float(), reference.mask)
            shown.append(example if reference.positive else example.refused())
    return together(shown) if any(len(example) for example in shown) else None


def meaning(regions: Tensor, share: Tensor) -> Tensor:
    """What regions show, unit vectors ``(N, D)``: the mean of the naming map ``(D, h, w)`` over the ``share (N, h, w)`` of each
    place that they cover.
    """
    pooled = (share.flatten(1) + 1e-6) @ regions.flatten(1).T.to(share)
    return torch.nn.functional.normalize(pooled, dim=1)


def compete(logits: Tensor, vectors: Tensor) -> Tensor:
    """Maps ``(M, h, w)`` of phrases asked together, each lowered where another phrase claims the place.

    What lies there is one thing: logits become log odds against the strongest rival. Phrases of nearly one meaning, by
    their ``vectors (M, D)``, are no rivals. The cost grows with the number of phrases, not with its square.
    """
    if len(logits) < 2:
        return logits
    flat = logits.flatten(1)
    claims, owner = flat.topk(min(RIVALS, len(flat)), dim=0)
    alike = vectors @ vectors.T >= SYNONYM
    lowered = []
    for start in range(0, len(flat), _CHUNK):
        same = alike[start : start + _CHUNK].to(owner.device)[:, owner]
        rival = torch.where(same, 0.0, claims.clamp(min=0)).amax(dim=1)
        lowered.append(flat[start : start + _CHUNK] - rival)
    return torch.cat(lowered).view_as(logits)


def presence_of(logits: Tensor) -> float:
    """How sure a map ``(h, w)`` is that its phrase is there at all: the mean chance of its strongest half per cent."""
    strongest = max(4, logits.numel() // 200)
    return float(torch.sigmoid(logits.flatten()).topk(min(strongest, logits.numel())).values.mean())


def find_all(decoder: ViewDecoder, canvas: Canvas, logits: Tensor, vectors: Tensor, names: Tensor) -> list[Found]:
    """Every region of maps ``(M, h, w)`` of phrases or references, with what speaks for it.

    ``vectors (M, D)`` are what was asked for, ``names (A, D)`` what else a region may be.
    """
    pieces = [(which, seed, presence) for which, each in enumerate(logits) for seed, presence in instances(each)]
    pieces = sorted(pieces, key=lambda piece: -piece[2])[:MOST_TOGETHER]
    answers = grow(decoder, canvas, [seed for _, seed, _ in pieces])
    kept = [k for k, answer in enumerate(answers) if (answer.logits > 0).any()]
    if not kept:
        return []
    asked = [pieces[k][0] for k in kept]
    judged = _judged(canvas, [answers[k] for k in kept], vectors[asked], names)
    known = familiar(vectors, names)
    return [
        Found(which, answers[k], Evidence(pieces[k][2], *judged[n], answers[k].quality, known[which]))
        for n, (k, which) in enumerate(zip(kept, asked, strict=True))
    ]


def familiar(vectors: Tensor, names: Tensor) -> list[bool]:
    """Whether phrases ``(M, D)`` are as good as one of the ``names (A, D)`` that were taught."""
    if not len(names):
        return [False] * len(vectors)
    return [bool(near) for near in (vectors @ names.to(vectors).T).amax(dim=1) >= FAMILIAR]


def grow(decoder: ViewDecoder, canvas: Canvas, seeds: Sequence[NDArray[np.float32]]) -> list[Answer]:
    """The masks that places, given as logits ``(h, w)``, grow to, in order."""
    grown: list[Answer] = []
    for start in range(0, len(seeds), _VIEWS):
        grown += _grow_some(decoder, canvas, seeds[start : start + _VIEWS])
    return grown


def _grow_some(decoder: ViewDecoder, canvas: Canvas, seeds: Sequence[NDArray[np.float32]]) -> list[Answer]:
    windows, maps = [], []
    for seed in seeds:
        box, chance = _on_canvas(seed, canvas)
        windows.append(around(box, MARGIN, least=32))
        maps.append(np.zeros((network.MAPS, network.MAP_SIDE, network.MAP_SIDE), np.float32))
        maps[-1][network.PREVIOUS] = look(chance, windows[-1], network.MAP_SIDE, outside=0)
    return decode_views(decoder, canvas, windows, np.stack(maps))


def _judged(canvas: Canvas, answers: Sequence[Answer], vectors: Tensor, names: Tensor) -> list[tuple[float, float, float]]:
    """For every answer: the cosines of its naming vector and of its places with ``vectors (N, D)``, and its log share."""
    grid, regions = canvas.features.grid.float(), canvas.features.tensors[REGIONS].float()
    named = meaning(regions, cover(answers, regions))
    alike = meaning(grid, cover(answers, grid))
    vectors, names = vectors.to(named), names.to(named)
    scores = NAMING_SCALE * named @ names.T
    own = NAMING_SCALE * (named * vectors).sum(dim=1)
    same = torch.where(vectors @ names.T > SYNONYM, scores, -torch.inf)
    mine = torch.logsumexp(torch.cat([same, own[:, None]], dim=1), dim=1)
    every = torch.logsumexp(torch.cat([scores, own[:, None]], dim=1), dim=1)
    each = torch.stack([own / NAMING_SCALE, (alike * vectors).sum(dim=1), (mine - every).clamp(min=LEAST_AMONG)], dim=1)
    return [(named, alike, among) for named, alike, among in each.tolist()]


def cover(answers: Sequence[Answer], like: Tensor) -> Tensor:
    """The share ``(N, h, w)`` of each place of a map ``(D, h, w)`` that answers cover."""
    cells = (like.shape[2], like.shape[1])
    shares = [cv2.resize((answer.logits > 0).astype(np.float32), cells, interpolation=cv2.INTER_AREA) for answer in answers]
    return torch.from_numpy(np.stack(shares)).to(like.device)


def best_of(found: Sequence[Found], scores: Sequence[float], vectors: Tensor) -> list[int]:
    """The numbers of what is kept, best first: of a phrase no region twice, and of two phrases that claim one region the
    better, unless they mean the same by their ``vectors (M, D)``.
    """
    order = sorted(range(len(found)), key=lambda k: -scores[k])
    if len(order) < 2:
        return order
    small = np.stack([each.answer.logits[::4, ::4] > 0 for each in found])
    iou, inside = overlaps(Masks.of_stack(small))
    rivals = (vectors @ vectors.T < SYNONYM).tolist()
    kept: list[int] = []
    for k in order:
        same = [j for j in kept if found[j].which == found[k].which]
        others = [j for j in kept if found[j].which != found[k].which and rivals[found[j].which][found[k].which]]
        repeated = any(iou[k, j] >= DUPLICATE or inside[k, j] >= 0.85 for j in same)
        if not repeated and all(iou[k, j] < DUPLICATE for j in others):
            kept.append(k)
    return kept


def instances(logits: Tensor) -> list[tuple[NDArray[np.float32], float]]:
    """The connected places of a map ``(h, w)`` that are claimed, largest first: a map of each alone, and its presence."""
    if not bool((logits > 0).any()):
        return []
    soft = np.asarray(logits.float().cpu().numpy(), np.float32)
    return [(piece, presence_of(torch.from_numpy(piece))) for piece in _pieces(soft)]


def _pieces(logits: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The connected places above one half as maps of their own ``(h, w)``, largest first."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats((logits > 0).astype(np.uint8), connectivity=4)
    order = 1 + np.argsort(stats[1:, cv2.CC_STAT_AREA])[::-1]
    large = [k for k in order[:MOST_INSTANCES].tolist() if stats[k, cv2.CC_STAT_AREA] >= LEAST_CELLS]
    return [_alone(logits, pieces == k) for k in large] if count > 1 else []


def _alone(logits: NDArray[np.float32], piece: NDArray[np.bool_]) -> NDArray[np.float32]:
    vicinity = cv2.dilate(piece.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.where(vicinity & ((logits <= 0) | piece), logits, FAINT).astype(np.float32)


def _on_canvas(seed: NDArray[np.float32], canvas: Canvas) -> tuple[tuple[float, float, float, float], NDArray[np.float32]]:
    """The box of a piece in canvas pixels, and its chance ``(H, W)``."""
    size = canvas.size
    rows, columns = np.nonzero(seed > 0)
    step = (size.width / seed.shape[1], size.height / seed.shape[0])
    low, high = (float(columns.min()), float(rows.min())), (float(columns.max()) + 1, float(rows.max()) + 1)
    box = (low[0] * step[0], low[1] * step[1], high[0] * step[0], high[1] * step[1])
    grown = cv2.resize(chance_of(seed), (size.width, size.height), interpolation=cv2.INTER_LINEAR)
    return box, np.asarray(grown, np.float32)


def logit(chance: float) -> float:
    likely = min(max(chance, 1e-4), 1 - 1e-4)
    return math.log(likely / (1 - likely))


def _logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))
