"""Phrases and references to masks: which places look like them, which connected places are one thing, and what is absent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from backend.engines.embedded import network
from backend.engines.embedded.evidence import Calibration, Classed, Evidence, Taught, above_usual, are_familiar, instances
from backend.engines.embedded.views import CLASSED, REGIONS, Answer, Canvas, Reader, around, chance_of, decode_views, look
from backend.values.features import ImageFeatures
from backend.values.masks import Masks, overlaps
from prompts.examples import Examples, example_of, likeness, together
from prompts.geometry import BoolArray
from prompts.space import PromptTokens

MARGIN, ROOM = 1.3, 1.4
"""How much longer than its places, and than what they grew to, a window is."""
MOST_TOGETHER = 128
"""Places of all phrases together that are looked at."""
DUPLICATE, CONTAINED = 0.6, 0.85
SYNONYM = 0.6
"""The cosine from which on two phrases may mean the same thing."""
RIVALS = 8
"""How many phrases are heard at a place: the strongest ones."""
NAMING_SCALE = 18.0
"""How sharply a region is drawn to the names that are nearest to it."""
LEAST_AMONG = -4.0
VOUCHED, NEAR = 0.9, 0.5
"""The share of the cosine with its nearest class that a phrase has where the classifier is sure of it, and the least such."""
WITNESSED, SURE = 0.75, 3.0
"""The share of its best place's cosine from which on the classifier claims a place, and the logit of that one."""
STRONGEST, OF_PEAK = 20, 0.55
"""How many places make the peak of a phrase, and the share of its cosine that other places need at least."""
SHOWING = 4
"""How many places make the peak of a phrase in what the classifier sees."""
FORESEEN = 0.8
"""The quality of the mask that places may grow to, as long as they have not."""
_CHUNK, _VIEWS = 64, 16
Box = tuple[float, float, float, float]
Piece = tuple[int, NDArray[np.float32], float]
"""The number of a phrase, connected places as logits ``(h, w)`` that it claims, and how sure it is of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One region that was found for the phrase or reference of a number: its mask and what speaks for it."""

    which: int
    answer: Answer
    evidence: Evidence


def said_logits(tokens: PromptTokens, grid: Tensor, calibration: Calibration, taught: Taught) -> Tensor:
    """One logit map ``(M, h, w)`` for each phrase, then one for all references together if there are any. What a negative
    phrase or reference claims is taken away from each.
    """
    shown = _shown(tokens, grid, calibration)
    wanted = torch.cat([_text(tokens.text, grid, calibration, taught), shown])
    unwanted = _text(tokens.negative_text, grid, calibration, taught)
    if len(unwanted) and len(wanted):
        rival = unwanted.amax(dim=0, keepdim=True)
        return torch.where(rival > wanted, -rival.abs() - 4, wanted)
    return wanted


def _text(vectors: Tensor, grid: Tensor, calibration: Calibration, taught: Taught) -> Tensor:
    return text_logits(above_usual(vectors, grid, taught), calibration)


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


@dataclass(frozen=True, slots=True, eq=False)
class Claims:
    """Maps ``(M, h, w)`` of phrases or references as logits, their ``vectors (M, D)``, which are judged as taught names, and of
    which the classifier is sure.
    """

    logits: Tensor
    vectors: Tensor
    familiar: Sequence[bool]
    vouched: Sequence[bool]

    def but_for(self, shown: Sequence[bool], logits: Tensor) -> Claims:
        """The same with the ``logits (M, h, w)`` as they were of what was shown, which is judged as taught names are."""
        if not any(shown):
            return self
        lifted = torch.where(torch.tensor(shown, device=logits.device)[:, None, None], logits, self.logits)
        return Claims(lifted, self.vectors, [a or b for a, b in zip(self.familiar, shown, strict=True)], self.vouched)


def claims_of(canvas: Canvas, logits: Tensor, vectors: Tensor, taught: Taught, lift: float) -> Claims:
    """The claims of phrases, where those of names that nobody taught get a ``lift``. One that was taught, but claims no place
    where the classifier is nearly as sure of it as it can be, claims the places that the classifier sees it at, and is judged
    as if it had not been taught.
    """
    known = torch.tensor(are_familiar(vectors, taught.names), dtype=torch.bool)
    sure = torch.zeros(len(vectors), dtype=torch.bool)
    lifted = logits + lift * (~known).to(logits)[:, None, None]
    if CLASSED in canvas.features.tensors and len(taught.classes) and len(vectors):
        mixtures = canvas.features.tensors[CLASSED].float()
        shown = shown_at_all(mixtures, vectors.to(mixtures))
        nearest = (vectors @ taught.classes.to(vectors).T).amax(dim=1).to(shown)
        sure = ((shown >= VOUCHED * nearest) & (nearest >= NEAR)).cpu()
        quiet = (logits.flatten(1).amax(dim=1) <= 0).cpu()
        for which in (quiet & sure).nonzero()[:, 0].tolist():
            lifted[which], known[which] = _witnessed(mixtures, vectors[which], logits[which]), False
    return Claims(lifted, vectors, known.tolist(), sure.tolist())


def _witnessed(mixtures: Tensor, vector: Tensor, like: Tensor) -> Tensor:
    """Where the classifier sees a phrase, as logits ``(h, w)``: places with a share of the most that it has anywhere."""
    alike = torch.einsum("d,dhw->hw", vector.to(mixtures), F.normalize(mixtures, dim=0))
    fine = F.interpolate(alike[None, None], size=like.shape, mode="bilinear")[0, 0]
    return ((fine / alike.max().clamp(min=1e-6) - WITNESSED) / (1 - WITNESSED) * SURE).to(like)


def find_all(
    reader: Reader, canvas: Canvas, claims: Claims, taught: Taught, is_hopeful: Callable[[int, Evidence], bool] | None = None
) -> list[Found]:
    """Every region that is claimed, with what speaks for it; ``taught`` is what else a region may be. Places that are not
    hopeful, by the number of their phrase and what would speak for them if they were the region, are not grown.
    """
    grid = canvas.features.grid
    pieces = [(which, seed, presence) for which, each in enumerate(claims.logits) for seed, presence in instances(each)]
    if is_hopeful is not None and pieces:
        share = shares_of((seed > 0 for _, seed, _ in pieces), grid)
        foreseen = _evidence(canvas, claims, taught, pieces, share, [FORESEEN] * len(pieces))
        pieces = [piece for piece, each in zip(pieces, foreseen, strict=True) if is_hopeful(piece[0], each)]
    if not pieces:
        return []
    pieces = sorted(pieces, key=lambda piece: -piece[2])[:MOST_TOGETHER]
    answers = grow(reader, canvas, [seed for _, seed, _ in pieces])
    share = cover(answers, grid)
    evidence = _evidence(canvas, claims, taught, pieces, share, [answer.quality for answer in answers])
    found = zip(pieces, answers, evidence, share.flatten(1).any(dim=1).tolist(), strict=True)
    return [Found(which, answer, each) for (which, _, _), answer, each, is_there in found if is_there]


def _evidence(
    canvas: Canvas, claims: Claims, taught: Taught, pieces: Sequence[Piece], share: Tensor, qualities: Sequence[float]
) -> list[Evidence]:
    """What speaks for each of the masks that pieces are or grew to, by the ``share (N, h, w)`` of places that they cover."""
    asked = [which for which, _, _ in pieces]
    judged = _judged(canvas, share, claims.vectors[asked], taught)
    classed = _classed(canvas, share, claims.vectors[asked], taught.classes)
    return [
        Evidence(presence, *judged[k], qualities[k], classed[k], claims.familiar[which], claims.vouched[which])
        for k, (which, _, presence) in enumerate(pieces)
    ]


def _classed(canvas: Canvas, share: Tensor, vectors: Tensor, classes: Tensor) -> list[Classed]:
    """What the classifier says for masks, by the ``share (N, h, w)`` of places that they cover, and for what was asked for,
    ``vectors (N, D)``; nothing where there is none.
    """
    if CLASSED not in canvas.features.tensors or not len(classes):
        return [Classed()] * len(share)
    mixtures = canvas.features.tensors[CLASSED].float()
    region = (meaning(mixtures, _coarser(share, mixtures)) * vectors.to(mixtures)).sum(dim=1)
    nearest = (vectors @ classes.to(vectors).T).amax(dim=1)
    told = torch.stack([region, shown_at_all(mixtures, vectors.to(mixtures)), nearest.to(region)], dim=1)
    return [Classed(*each) for each in told.tolist()]


def shown_at_all(mixtures: Tensor, vectors: Tensor) -> Tensor:
    """The cosine ``(M,)`` of phrases ``(M, D)`` with the places of ``mixtures (D, h, w)`` that are likest to each."""
    alike = vectors @ F.normalize(mixtures.flatten(1), dim=0).to(vectors)
    return alike.topk(min(SHOWING, alike.shape[1]), dim=1).values.mean(dim=1)


def grow(reader: Reader, canvas: Canvas, seeds: Sequence[NDArray[np.float32]]) -> list[Answer]:
    """The masks that places, given as logits ``(h, w)``, grow to, in order."""
    return _in_windows(reader, canvas, (_on_canvas(seed, canvas) for seed in seeds), MARGIN)


def grow_again(reader: Reader, canvas: Canvas, answers: Sequence[Answer]) -> list[Answer]:
    """What answers become when each is looked at in a window that fits it; those that are empty are left out."""
    boxes = ((answer.box(), answer) for answer in answers)
    return _in_windows(reader, canvas, ((box, chance_of(each.logits)) for box, each in boxes if box is not None), ROOM)


def _in_windows(
    reader: Reader, canvas: Canvas, parts: Iterator[tuple[Box, NDArray[np.float32]]], margin: float
) -> list[Answer]:
    """One answer for each box in canvas pixels and the chance ``(H, W)`` of what is meant there."""
    grown: list[Answer] = []
    while some := list(islice(parts, _VIEWS)):
        windows, maps = [], []
        for box, chance in some:
            windows.append(around(box, margin, least=32))
            maps.append(np.zeros((network.MAPS, network.MAP_SIDE, network.MAP_SIDE), np.float32))
            maps[-1][network.PREVIOUS] = look(chance, windows[-1], network.MAP_SIDE, outside=0)
        grown += decode_views(reader, canvas, windows, np.stack(maps))
    return grown


def _judged(canvas: Canvas, share: Tensor, vectors: Tensor, taught: Taught) -> list[tuple[float, float, float]]:
    """For masks by the ``share (N, h, w)`` of places that they cover: the cosines of each one's naming vector and of its places
    with what phrases, ``vectors (N, D)``, look like, and its log share among names.
    """
    grid, regions = canvas.features.grid.float(), canvas.features.tensors[REGIONS].float()
    named = meaning(regions, _coarser(share, regions))
    alike = meaning(grid, share)
    vectors = vectors.to(named)
    scores = NAMING_SCALE * named @ taught.regions.to(named).T
    own = NAMING_SCALE * (named * taught.regions_of(vectors)).sum(dim=1)
    same = torch.where(vectors @ taught.names.to(named).T > SYNONYM, scores, -torch.inf)
    mine = torch.logsumexp(torch.cat([same, own[:, None]], dim=1), dim=1)
    every = torch.logsumexp(torch.cat([scores, own[:, None]], dim=1), dim=1)
    told = [own / NAMING_SCALE, (alike * taught.places_of(vectors)).sum(dim=1), (mine - every).clamp(min=LEAST_AMONG)]
    return [(named, alike, among) for named, alike, among in torch.stack(told, dim=1).tolist()]


def _coarser(share: Tensor, like: Tensor) -> Tensor:
    """The share of each place of a map ``(D, h, w)`` of fewer places."""
    return F.adaptive_avg_pool2d(share, (like.shape[1], like.shape[2]))


def cover(answers: Sequence[Answer], like: Tensor) -> Tensor:
    """The share ``(N, h, w)`` of each place of a map ``(D, h, w)`` that answers cover."""
    return shares_of((answer.logits > 0 for answer in answers), like)


def shares_of(masks: Iterable[BoolArray], like: Tensor) -> Tensor:
    """The share ``(N, h, w)`` of each place of a map ``(D, h, w)`` that masks ``(H, W)`` cover."""
    cells = (like.shape[2], like.shape[1])
    shares = [cv2.resize(mask.astype(np.float32), cells, interpolation=cv2.INTER_AREA) for mask in masks]
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
        repeated = any(iou[k, j] >= DUPLICATE or max(inside[k, j], inside[j, k]) >= CONTAINED for j in same)
        if not repeated and all(iou[k, j] < DUPLICATE for j in others):
            kept.append(k)
    return kept


def _on_canvas(seed: NDArray[np.float32], canvas: Canvas) -> tuple[tuple[float, float, float, float], NDArray[np.float32]]:
    """The box of a piece in canvas pixels, and its chance ``(H, W)``."""
    size = canvas.size
    rows, columns = np.nonzero(seed > 0)
    step = (size.width / seed.shape[1], size.height / seed.shape[0])
    low, high = (float(columns.min()), float(rows.min())), (float(columns.max()) + 1, float(rows.max()) + 1)
    box = (low[0] * step[0], low[1] * step[1], high[0] * step[0], high[1] * step[1])
    grown = cv2.resize(chance_of(seed), (size.width, size.height), interpolation=cv2.INTER_LINEAR)
    return box, np.asarray(grown, np.float32)
