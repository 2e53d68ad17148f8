"""From what was said to masks: score maps and detected boxes become geometry, and the SAM decoder answers with masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backend.engines.device import Chunks
from backend.engines.sam.geometry import Candidate, Spot, all_candidates, best_candidate, mask_logits, spots_of
from backend.engines.sam.networks import Geometry, PromptableNetwork, decode_objects
from backend.engines.sam.references import FoundationSpace, Likeness, reference_map
from backend.engines.sam.transforms import SquashFrame
from backend.values.features import ImageFeatures
from prompts.geometry import FloatArray, Size
from prompts.kinds import Image

MOST_SPOTS = 20
LEAST_MEANING = 0.35
"""How well a mask must fit what was said, in 0..1, to be an answer."""
NOTHING = np.zeros((0, 2)), np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
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

    def find(self, features: ImageFeatures, phrases: Sequence[str]) -> list[Finding]: ...


class LikeFinder(Protocol):
    """Finds every instance of what positive reference regions show on an encoded image; phrases may help."""

    def find_like(self, features: ImageFeatures, likenesses: Sequence[Likeness], phrases: Sequence[str]) -> list[Finding]: ...


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
        wanted = None if score is None else self._frame(score, features.size)

        def compute(chunk: Sequence[Geometry]) -> list[Candidate]:
            found = decode_objects(self.network, features.tensors, chunk, features.size, len(chunk))
            return [best_candidate(candidates, wanted) for candidates in found]

        return self.chunks.run(objects, compute)

    def decode_alternatives(self, features: ImageFeatures, geometry: Geometry) -> list[Candidate]:
        """All candidates of one object: several for a single click, else one."""

        def compute(chunk: Sequence[Geometry]) -> list[list[Candidate]]:
            return [all_candidates(one) for one in decode_objects(self.network, features.tensors, chunk, features.size, 1)]

        return self.chunks.run([geometry], compute)[0]

    def _frame(self, score: Tensor, size: Size) -> Tensor:
        """A score map of the image in the frame of the network, as sure of what lies beside the image as of what is not it."""
        if isinstance(self.network.frame, SquashFrame):
            return score
        fine = functional.interpolate(score[None, None], (size.height, size.width), mode="bilinear")[0, 0]
        return mask_logits((fine > 0).numpy(), self.network)


class MapFinder:
    """Finds phrases on the map of CLIP's patches: for stuff, and wherever there is no detector."""

    def __init__(self, space: FoundationSpace, decoding: Decoding) -> None:
        self._space = space
        self._decoding = decoding

    def find(self, features: ImageFeatures, phrases: Sequence[str]) -> list[Finding]:
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

    def find(self, features: ImageFeatures, phrases: Sequence[str]) -> list[Finding]:
        boxes = self._grounder.detect(features.tensors, features.size, phrases)
        candidates = self._decoding.decode(features, [Geometry(*NOTHING, box=box) for box in boxes.xyxy])
        found = [
            Finding(candidate.logits, candidate.quality, score, phrase)
            for candidate, score, phrase in zip(candidates, boxes.scores.tolist(), boxes.phrases, strict=True)
            if candidate.is_there
        ]
        return found + self._otherwise.find(features, [phrase for phrase in phrases if phrase not in boxes.phrases])


class MapLikeFinder:
    """Finds the like of reference regions on the maps of their prototypes (see LikeFinder)."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding

    def find_like(self, features: ImageFeatures, likenesses: Sequence[Likeness], phrases: Sequence[str]) -> list[Finding]:
        return [
            finding
            for likeness in likenesses
            if likeness.prompt.positive
            for finding in find_on_map(self._decoding, features, reference_map(features, likeness), None)
        ]


def find_on_map(decoding: Decoding, features: ImageFeatures, score: Tensor, phrase: str | None) -> list[Finding]:
    """The spots of a score map as masks; one that fits its own spot badly is no answer, nor is one without a pixel or one that
    the network does not believe in.
    """
    spots = spots_of(score, features.size, decoding.network, MOST_SPOTS)
    candidates = decoding.decode(features, [spot.geometry for spot in spots])
    found = []
    for spot, candidate in zip(spots, candidates, strict=True):
        meaning = _fit(spot, candidate, decoding.network, features.size)
        if candidate.is_there and meaning >= LEAST_MEANING:
            found.append(Finding(candidate.logits, candidate.quality, meaning, phrase))
    return found


def _fit(spot: Spot, candidate: Candidate, network: PromptableNetwork, size: Size) -> float:
    """How sure the spot is, times the share of it and the mask that both have more of than the other lacks (soft F-measure)."""
    mask = (network.frame.resize(candidate.logits[None].float(), size)[0] > 0).cpu().numpy()
    both, total = int((mask & spot.mask).sum()), int(mask.sum()) + int(spot.mask.sum())
    return spot.strength * (2 * both / total) ** 0.5 if total else 0.0
