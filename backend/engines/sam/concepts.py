"""SAM 3 as a finder: phrases and boxes on the same image by its detector, regions of another image on a shared canvas."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backend.engines.pressure import Chunks
from backend.engines.sam.candidates import stability
from backend.engines.sam.geometry import box_of
from backend.engines.sam.joint import Likeness
from backend.engines.sam.sam3 import EXEMPLARS_ALONE, Concepts, Sam3Network, exemplars_of
from backend.engines.sam.text_grounding import Finding, LikeFinder
from backend.values.features import ImageFeatures
from prompts.kinds import Image

THRESHOLD = 0.3
LEAST_PRESENCE = 0.3
"""Below this the concept is not on the image, whatever single masks score."""
MOST_FOUND = 100
CONTEXT = 0.5
"""How much of its own sides a reference's box is widened by on each side."""


class ConceptFinder:
    """Finds phrases with SAM 3's detector (see Finder)."""

    def __init__(self, network: Sam3Network) -> None:
        self._network = network

    def find(self, features: ImageFeatures, phrases: Sequence[str]) -> list[Finding]:
        return [
            finding
            for phrase in phrases
            for finding in _findings(self._network.find(features.tensors, phrase), self._network.low_res_side, phrase)
        ]


class ExemplarFinder:
    """Finds the like of reference regions (see LikeFinder).

    Regions of the same image are exemplar boxes. A region of another image is put beside the target on one canvas, whose
    encoding is only worth its while on a GPU; on a CPU it goes to ``otherwise``.
    """

    def __init__(self, network: Sam3Network, otherwise: LikeFinder) -> None:
        self._network = network
        self._chunks = Chunks(network)
        self._otherwise = otherwise

    def find_like(self, features: ImageFeatures, likenesses: Sequence[Likeness], phrases: Sequence[str]) -> list[Finding]:
        here = [likeness for likeness in likenesses if likeness.features is features]
        there = [likeness for likeness in likenesses if likeness.features is not features]
        phrase = phrases[0] if len(phrases) == 1 else EXEMPLARS_ALONE
        found = self._exemplars(features, here, phrase) if any(one.prompt.positive for one in here) else []
        if self._network.device.type == "cpu":
            return found + self._otherwise.find_like(features, there, phrases)
        wanted = [likeness for likeness in there if likeness.prompt.positive]
        return found + [finding for likeness in wanted for finding in self._on_canvas(features, likeness, phrase)]

    def _encode(self, canvases: Sequence[Image]) -> list[dict[str, Tensor]]:
        network = self._network
        return network.encode(torch.stack([network.frame.pixels(canvas, network.device) for canvas in canvases]))

    def _exemplars(self, features: ImageFeatures, here: Sequence[Likeness], phrase: str) -> list[Finding]:
        boxes = [box_of(likeness.prompt.mask).tolist() for likeness in here]
        signs = [int(likeness.prompt.positive) for likeness in here]
        exemplars = exemplars_of(boxes, signs, (features.size.height, features.size.width))
        return _findings(self._network.find(features.tensors, phrase, exemplars), self._network.low_res_side, None)

    def _on_canvas(self, features: ImageFeatures, likeness: Likeness, phrase: str) -> list[Finding]:
        prompt, target = likeness.prompt, features.tensors["pixels"].numpy()
        canvas, box, seam = share_canvas(prompt.image, box_of(prompt.mask).tolist(), target)
        (embeddings,) = self._chunks.run([canvas], self._encode)
        found = self._network.find(embeddings, phrase, exemplars_of([box], [1], canvas.shape[:2]))
        right = found.logits[:, :, round(seam * found.logits.shape[-1] / canvas.shape[1]) :]
        return _findings(Concepts(right, found.scores, found.presence), self._network.low_res_side, None)


def share_canvas(reference: Image, box: Sequence[float], target: Image) -> tuple[Image, list[float], int]:
    """A canvas with the reference's box and some context on the left, as large as fits into the target's height and width, and
    the target on the right; the box on it; and the column where the target begins.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    across, down = CONTEXT * (x1 - x0), CONTEXT * (y1 - y0)
    left, top = max(int(x0 - across), 0), max(int(y0 - down), 0)
    crop = reference[top : int(y1 + down) + 1, left : int(x1 + across) + 1]
    scale = min(target.shape[0] / crop.shape[0], target.shape[1] / crop.shape[1])
    height, width = (max(round(side * scale), 1) for side in crop.shape[:2])
    canvas = np.zeros((target.shape[0], width + target.shape[1], 3), np.uint8)
    canvas[:height, :width] = cv2.resize(crop, (width, height), interpolation=cv2.INTER_LINEAR)
    canvas[:, width:] = target
    moved = [(x0 - left) * scale, (y0 - top) * scale, (x1 - left) * scale, (y1 - top) * scale]
    return canvas, moved, width


def _findings(found: Concepts, side: int, phrase: str | None) -> list[Finding]:
    """What is sure enough, the surest first, in the resolution that the click decoder takes for the next round."""
    if found.presence < LEAST_PRESENCE:
        return []
    best = found.scores.sort(descending=True)
    rows = [row for score, row in zip(best.values.tolist(), best.indices.tolist(), strict=True) if score >= THRESHOLD]
    return [
        Finding(logits, float(stability(logits)), float(found.scores[row]), phrase)
        for row in rows[:MOST_FOUND]
        for logits in [_resize(found.logits[row], side)]
    ]


def _resize(logits: Tensor, side: int) -> Tensor:
    if logits.shape == (side, side):
        return logits
    return functional.interpolate(logits[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0]
