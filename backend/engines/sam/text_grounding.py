"""From what was said to masks: score maps and detected boxes become geometry, and the SAM decoder answers with masks.

Where nothing was said, a grid of clicks finds everything that the decoder can tell apart: of its masks the good and different
ones stay. Its parameters are those of SAM's ``SamAutomaticMaskGenerator`` (Kirillov et al. 2023, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from backend.engines.device import Chunks
from backend.engines.sam.geometry import Candidate, Spot, all_candidates, best_candidate, spots_of, stability
from backend.engines.sam.references import FoundationSpace, Likeness, reference_map
from backend.engines.sam.transforms import Geometry, MaskCandidates, PromptableNetwork, SquashFrame, decode_objects
from backend.values.features import ImageFeatures
from prompts.geometry import BoolArray, FloatArray, Size
from prompts.kinds import Image

MOST_SPOTS = 20
LEAST_CHANCE = 1e-6
"""What lies beside the image has no other: all of it together counts for nothing."""
LEAST_MEANING = 0.35
"""How well a mask must fit what was said, in 0..1, to be an answer."""
NOTHING = np.zeros((0, 2)), np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Grounding:
    """A mask that answers something said: ``logits (h, w)``, its ``quality``, how well it fits (``meaning``), both in 0..1, and
    the phrase, None for a reference.
    """

    logits: Tensor
    quality: float
    meaning: float
    phrase: str | None

    @property
    def score(self) -> float:
        """Both count the same (their geometric mean)."""
        return math.sqrt(self.quality * self.meaning)


class Finder(Protocol):
    """Finds every instance of phrases on an encoded image."""

    def find(self, features: ImageFeatures, phrases: Sequence[str]) -> list[Grounding]: ...


class LikeFinder(Protocol):
    """Finds every instance of what positive reference regions show on an encoded image; phrases may help."""

    def find_like(self, features: ImageFeatures, likenesses: Sequence[Likeness], phrases: Sequence[str]) -> list[Grounding]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes ``(N, 4)`` in pixels of the image, with scores ``(N,)`` in 0..1 and the phrases that they answer."""

    xyxy: FloatArray
    scores: FloatArray
    phrases: tuple[str, ...]


class Grounder(Protocol):
    """A detector that takes words."""

    def detect(self, tensors: Mapping[str, Tensor], size: Size, phrases: Sequence[str]) -> Boxes:
        """The boxes of phrases on an image of this size, of which ``tensors["pixels"]`` is a copy ``(h, w, 3)``."""
        ...


class Decoding:
    """A promptable network with the size of its batches."""

    def __init__(self, network: PromptableNetwork) -> None:
        self.network = network
        self.chunks = Chunks(network)

    def encode(self, images: Sequence[Image]) -> list[dict[str, Tensor]]:
        """The network's embeddings of images ``(H, W, 3)``, by name, for each image."""

        def compute(chunk: Sequence[Image]) -> list[dict[str, Tensor]]:
            return self.network.encode(torch.stack([self.network.frame.pixels(image, self.network.device) for image in chunk]))

        return self.chunks.run(images, compute)

    def decode(self, features: ImageFeatures, objects: Sequence[Geometry], score: Tensor | None = None) -> list[Candidate]:
        """The best candidate of each object; ``score`` is a map of the whole image that it should agree with."""
        wanted = None if score is None else self.framed(score, features.size)

        def compute(chunk: Sequence[Geometry]) -> list[Candidate]:
            found = decode_objects(self.network, features.tensors, chunk, features.size, len(chunk))
            return [best_candidate(candidates, wanted) for candidates in found]

        return self.chunks.run(objects, compute)

    def decode_alternatives(self, features: ImageFeatures, geometry: Geometry) -> list[Candidate]:
        """All candidates of one object: several for a single click, else one."""

        def compute(chunk: Sequence[Geometry]) -> list[list[Candidate]]:
            return [all_candidates(one) for one in decode_objects(self.network, features.tensors, chunk, features.size, 1)]

        return self.chunks.run([geometry], compute)[0]

    def framed(self, score: Tensor, size: Size) -> Tensor:
        """A score map of the image in the frame of the network, where nothing beside the image is meant."""
        if isinstance(self.network.frame, SquashFrame):
            return score
        fine = functional.interpolate(score[None, None].float(), (size.height, size.width), mode="bilinear")[0, 0]
        return self.network.frame.shrink(fine.sigmoid().numpy(), self.network.low_res_side).logit(eps=LEAST_CHANCE)


class MapFinder:
    """Finds phrases on the map of CLIP's patches: for stuff, and wherever there is no detector."""

    def __init__(self, space: FoundationSpace, decoding: Decoding) -> None:
        self._space = space
        self._decoding = decoding

    def find(self, features: ImageFeatures, phrases: Sequence[str]) -> list[Grounding]:
        return [
            finding
            for phrase in phrases
            for finding in find_on_map(self._decoding, features, self._space.text_map(features, phrase), phrase)
        ]


class BoxFinder:
    """Finds phrases with a detector, whose boxes become masks; what it does not find is left to the map."""

    def __init__(self, grounder: Grounder, decoding: Decoding, otherwise: Finder) -> None:
        self._grounder = grounder
        self._decoding = decoding
        self._otherwise = otherwise

    def find(self, features: ImageFeatures, phrases: Sequence[str]) -> list[Grounding]:
        boxes = self._grounder.detect(features.tensors, features.size, phrases)
        candidates = self._decoding.decode(features, [Geometry(*NOTHING, box=box) for box in boxes.xyxy])
        found = [
            Grounding(candidate.logits, candidate.quality, score, phrase)
            for candidate, score, phrase in zip(candidates, boxes.scores.tolist(), boxes.phrases, strict=True)
            if candidate.is_there
        ]
        return found + self._otherwise.find(features, [phrase for phrase in phrases if phrase not in boxes.phrases])


class MapLikeFinder:
    """Finds the like of reference regions on the maps of their prototypes (see LikeFinder)."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding

    def find_like(self, features: ImageFeatures, likenesses: Sequence[Likeness], phrases: Sequence[str]) -> list[Grounding]:
        return [
            finding
            for likeness in likenesses
            if likeness.prompt.positive
            for finding in find_on_map(self._decoding, features, reference_map(features, likeness), None)
        ]


def find_on_map(decoding: Decoding, features: ImageFeatures, score: Tensor, phrase: str | None) -> list[Grounding]:
    """The spots of a score map as masks; one that fits its own spot badly is no answer, nor is one without a pixel or one that
    the network does not believe in.
    """
    spots = spots_of(score, features.size, decoding.network, MOST_SPOTS)
    candidates = decoding.decode(features, [spot.geometry for spot in spots])
    found = []
    for spot, candidate in zip(spots, candidates, strict=True):
        meaning = _fit(spot, candidate, decoding.network, features.size)
        if candidate.is_there and meaning >= LEAST_MEANING:
            found.append(Grounding(candidate.logits, candidate.quality, meaning, phrase))
    return found


def _fit(spot: Spot, candidate: Candidate, network: PromptableNetwork, size: Size) -> float:
    """How sure the spot is, times the root of the Dice coefficient of the spot and the mask. The root is lenient: a spot is as
    coarse as the patches of its map, so that a mask which has half of it right still counts 0.7.
    """
    mask = (network.frame.resize(candidate.logits[None].float(), size)[0] > 0).cpu().numpy()
    both, total = int((mask & spot.mask).sum()), int(mask.sum()) + int(spot.mask.sum())
    return spot.strength * (2 * both / total) ** 0.5 if total else 0.0


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
