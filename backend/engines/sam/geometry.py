"""Into a SAM decoder and out of it: what was drawn or scored as points, a box and mask logits, and which candidate answers."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from backend.engines.sam.transforms import Geometry, MaskCandidates, PromptableNetwork
from prompts.geometry import BoolArray, FloatArray, Size, bounding_box, polygon_mask
from prompts.kinds import BoxPrompt, MaskPrompt, ObjectMemory, PolygonPrompt, PromptSet, ScribblePrompt

STROKE_POINTS = 6
SURE = 6.0
"""Logits of a mask prompt: this inside and its negative outside."""
SMALLEST_SHARE = 0.0005
"""Of the image; smaller spots on a score map are noise."""


@dataclass(frozen=True, slots=True, eq=False)
class Spot:
    """A connected part of a score map: where it is, and how sure its middle is, in 0..1."""

    geometry: Geometry
    mask: BoolArray
    strength: float


def geometry_of_drawing(prompts: PromptSet, size: Size, network: PromptableNetwork, memory: ObjectMemory | None) -> Geometry:
    """One drawn object. Clicks stay clicks, strokes become a few points on them, an outline becomes its points, its box and its
    mask, and the last round's logits are handed on (all clicks are sent again with them, as SAM was trained).
    """
    coords, labels = [prompts.point_coords], [prompts.point_labels]
    regions = [prompt.mask for prompt in prompts.of(MaskPrompt)]
    regions += [polygon_mask(prompt.points, size) for prompt in prompts.of(PolygonPrompt)]
    regions = [region for region in regions if region.any()]
    strokes = [(prompt.mask, prompt.positive) for prompt in prompts.of(ScribblePrompt)]
    for mask, positive in [*strokes, *((region, True) for region in regions)]:
        points = spread_points(mask)
        coords.append(points)
        labels.append(np.full(len(points), int(positive), np.int64))
    return Geometry(np.concatenate(coords), np.concatenate(labels), _box(prompts, regions), _logits(regions, network, memory))


def spread_points(mask: BoolArray, most: int = STROKE_POINTS) -> FloatArray:
    """At most ``most`` pixel centres ``(N, 2)`` well inside a mask and far from each other: first the deepest pixel, then
    always the one that is deepest and farthest from those before.
    """
    depth = np.asarray(cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1], np.float64)
    rows, columns = np.nonzero(depth >= 0.5 * depth.max()) if mask.any() else np.nonzero(mask)
    if not len(rows):
        return np.zeros((0, 2))
    pixels = np.asarray(np.stack([columns, rows], axis=1) + 0.5, np.float64)
    chosen = [int(depth[rows, columns].argmax())]
    distance: FloatArray = np.full(len(pixels), np.inf)
    while len(chosen) < most:
        distance = np.minimum(distance, np.hypot(*(pixels - pixels[chosen[-1]]).T).astype(np.float64))
        if distance.max() < max(2.0, 2 * depth.max()):
            break
        chosen.append(int(distance.argmax()))
    points: FloatArray = pixels[chosen]
    return points


def mask_logits(mask: BoolArray, network: PromptableNetwork) -> Tensor:
    """A mask ``(H, W)`` as the logits that a network takes for an earlier mask."""
    return (network.frame.shrink(mask, network.low_res_side) * 2 - 1) * SURE


def spots_of(score: Tensor, size: Size, network: PromptableNetwork, most: int) -> list[Spot]:
    """The connected parts of a score map ``(h, w)`` of logits that lie above 0, the surest first, each as a peak, a box and
    mask logits.
    """
    shape = (size.width, size.height)
    fine = np.asarray(cv2.resize(score.numpy(), shape, interpolation=cv2.INTER_LINEAR), np.float32).reshape(shape[::-1])
    _, numbered, stats, _ = cv2.connectedComponentsWithStats((fine > 0).astype(np.uint8))
    smallest = max(SMALLEST_SHARE * size.pixels, 1)
    spots = [
        _spot(numbered == number, fine, network)
        for number in range(1, len(stats))
        if stats[number, cv2.CC_STAT_AREA] >= smallest
    ]
    return sorted(spots, key=lambda spot: -spot.strength)[:most]


def box_of(mask: BoolArray) -> FloatArray:
    """The box ``(4,)`` around a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def _spot(mask: BoolArray, fine: NDArray[np.float32], network: PromptableNetwork) -> Spot:
    inside = np.where(mask, fine, -np.inf)
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    peak = np.array([[column + 0.5, row + 0.5]])
    geometry = Geometry(peak, np.ones(1, np.int64), box_of(mask), mask_logits(mask, network))
    return Spot(geometry, mask, float(torch.sigmoid(torch.tensor(fine[mask].mean()))))


def _box(prompts: PromptSet, regions: list[BoolArray]) -> FloatArray | None:
    """The box that was drawn, or the one around the outlines."""
    corners = [np.array(prompt.xyxy).reshape(2, 2) for prompt in prompts.of(BoxPrompt)]
    corners += [box_of(region).reshape(2, 2) for region in regions]
    return np.array(bounding_box(np.concatenate(corners))) if corners else None


def _logits(regions: list[BoolArray], network: PromptableNetwork, memory: ObjectMemory | None) -> Tensor | None:
    """The last round's logits if they are this network's, else those of what was outlined."""
    side = network.low_res_side
    if memory is not None and memory.low_res_logits.shape == (side, side):
        return torch.from_numpy(memory.low_res_logits.astype(np.float32))
    if not regions:
        return None
    union: BoolArray = np.logical_or.reduce(regions)
    return mask_logits(union, network)


STABILITY_OFFSET = 1.0
IOU_WEIGHT, AGREEMENT_WEIGHT = 0.6, 0.4


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One mask: its logits ``(h, w)``; its quality in 0..1, the predicted IoU times the stability times the belief in it;
    and whether the network believes so at all, on which what was drawn does not depend.
    """

    logits: Tensor
    quality: float
    is_there: bool = True


def stability(logits: Tensor, offset: float = STABILITY_OFFSET) -> Tensor:
    """How little masks ``(..., h, w)`` change when the threshold moves: the IoU of two thresholds, as in SAM."""
    inner, outer = ((logits > threshold).flatten(-2).sum(dim=-1) for threshold in (offset, -offset))
    return inner / outer.clamp(min=1)


def best_candidate(found: MaskCandidates, score: Tensor | None = None) -> Candidate:
    """The best of one object's candidates, by the predicted IoU and, where a score map ``(h, w)`` in the network's frame is
    given, by how well it agrees with the mask.
    """
    logits, predicted = found.logits[0], found.iou_predictions[0].clamp(0, 1)
    worth = predicted
    if score is not None:
        worth = IOU_WEIGHT * predicted + AGREEMENT_WEIGHT * agreement(logits, score)
    return all_candidates(found)[int(worth.argmax())]


def all_candidates(found: MaskCandidates) -> list[Candidate]:
    """One object's candidates, in the network's order."""
    logits = found.logits[0]
    presence = found.object_logits[0].sigmoid()
    quality = (found.iou_predictions[0].clamp(0, 1) * stability(logits) * presence).tolist()
    is_there = bool(found.object_logits[0] >= 0)
    return [Candidate(each, its, is_there) for each, its in zip(logits, quality, strict=True)]


def agreement(logits: Tensor, score: Tensor) -> Tensor:
    """The soft IoU ``(K,)`` of masks ``(K, h, w)`` with a score map of logits ``(h, w)`` of the same frame."""
    wanted = functional.interpolate(score[None, None], logits.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
    share, mask = wanted.sigmoid().to(logits), (logits > 0).float()
    both, either = (mask * share).flatten(1).sum(dim=1), torch.maximum(mask, share).flatten(1).sum(dim=1)
    return both / either.clamp(min=1e-6)
