"""Everything on an image that the decoder can tell apart: a grid of clicks, of whose masks the good and different ones stay.

The parameters are those of SAM's ``SamAutomaticMaskGenerator`` (Kirillov et al. 2023, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.engines.sam.geometry import Candidate, stability
from backend.engines.sam.networks import Geometry, MaskCandidates, decode_objects
from backend.engines.sam.text_grounding import Decoding
from backend.values.features import ImageFeatures
from prompts.geometry import BoolArray, FloatArray, Size


@dataclass(frozen=True, slots=True)
class EverythingOptions:
    """Names and meaning as in SamAutomaticMaskGenerator; areas in pixels of the image."""

    points_per_side: int = 32
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    min_mask_region_area: int = 0


ON_A_CPU = EverythingOptions(points_per_side=16)


def build_point_grid(n_per_side: int, size: Size) -> FloatArray:
    """Points ``(n * n, 2)`` in pixels, evenly over the image, row by row."""
    offset = 1 / (2 * n_per_side)
    steps = np.linspace(offset, 1 - offset, n_per_side)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    points: FloatArray = grid * (size.width, size.height)
    return points


def segment_everything(decoding: Decoding, features: ImageFeatures, options: EverythingOptions) -> list[Candidate]:
    """Every mask, the best quality first: the predicted IoU times the stability."""
    clicks = [Geometry(point[None], np.ones(1, np.int64)) for point in build_point_grid(options.points_per_side, features.size)]

    def compute(chunk: Sequence[Geometry]) -> list[list[Candidate]]:
        found = decode_objects(decoding.network, features.tensors, chunk, features.size, len(chunk))
        return [_good(candidates, options) for candidates in found]

    found = [candidate for group in decoding.chunks.run(clicks, compute) for candidate in group]
    boxes = [_box(candidate.logits) for candidate in found]
    kept = non_maximum_suppression(np.array(boxes).reshape(-1, 4), [one.quality for one in found], options.box_nms_thresh)
    return [found[row] for row in kept]


def non_maximum_suppression(boxes: FloatArray, scores: Sequence[float], threshold: float) -> list[int]:
    """The rows of boxes ``(N, 4)`` that overlap none with a better score by more than an IoU; the best score first."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    kept: list[int] = []
    for row in order.tolist():
        if not kept or float(box_iou(boxes[row], boxes[kept]).max()) <= threshold:
            kept.append(row)
    return kept


def box_iou(box: FloatArray, others: FloatArray) -> FloatArray:
    """The IoU ``(N,)`` of a box ``(4,)`` with others ``(N, 4)``."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.clip(high - low, 0, None).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    iou: FloatArray = both / np.maximum(areas - both, 1e-9)
    return iou


def remove_small_regions(mask: BoolArray, smallest: int) -> BoolArray:
    """A mask without holes and islands smaller than an area in pixels; its largest island always stays."""
    filled = mask | _small_parts(~mask, smallest)
    islands = _small_parts(filled, smallest)
    return filled & ~islands if (filled & ~islands).any() else filled


def _small_parts(mask: BoolArray, smallest: int) -> BoolArray:
    _, numbered, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] < smallest
    small[0] = False
    parts: BoolArray = small[numbered]
    return parts


def _good(found: MaskCandidates, options: EverythingOptions) -> list[Candidate]:
    """Of the candidates of one click, those that pass both thresholds; none where the network sees no object."""
    logits, predicted, presence = found.logits[0], found.iou_predictions[0], found.object_logits[0]
    steady = stability(logits, options.stability_score_offset)
    passed = (predicted > options.pred_iou_thresh) & (steady >= options.stability_score_thresh) & (presence >= 0)
    rows: list[int] = torch.nonzero(passed).flatten().tolist()
    return [Candidate(logits[row].cpu(), float(predicted[row].clamp(0, 1) * steady[row] * presence.sigmoid())) for row in rows]


def _box(logits: Tensor) -> NDArray[np.float64]:
    """The box ``(4,)`` around a mask's logits, in cells."""
    mask = (logits > 0).numpy()
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64) if len(rows) else np.zeros(4)
