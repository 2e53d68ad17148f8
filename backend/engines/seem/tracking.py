"""Objects followed through films by SEEM: its first and its newest prompted region are references on every frame, and a found
one is drawn once more with the decoder's memory of it (Zou et al. 2023, "Segment Everything Everywhere All at Once", 4.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from backend.engines.base import TrackedMask, TrackingSession
from backend.values.features import ImageFeatures
from backend.values.masks import MaskSet
from prompts.geometry import BoolArray
from prompts.kinds import (
    Image,
    KeyedImage,
    MaskPrompt,
    ObjectMemory,
    PolygonPrompt,
    PromptError,
    PromptSet,
    ReferencePrompt,
)

if TYPE_CHECKING:
    from backend.engines.seem.engine import SeemDecoder
    from backend.engines.seem.space import SeemSpace

PLACE = 0.5
"""How much of a find's worth is where it is: its overlap with where the object was last."""
AGREES = 0.5
"""A mask drawn from memory that overlaps the find by less is another thing."""


@dataclass(slots=True, eq=False)
class _Known:
    """One object: how its prompted frames showed it, ``mask (H, W)`` where it was last seen, and that round's memory."""

    shown: list[tuple[ReferencePrompt, ImageFeatures]]
    mask: BoolArray
    memory: ObjectMemory | None


class SeemTracker:
    """Starts sessions (see Tracker)."""

    def __init__(self, decoder: SeemDecoder, space: SeemSpace) -> None:
        self._decoder = decoder
        self._space = space

    def start(self, direction: Literal[1, -1]) -> TrackingSession:
        return SeemSession(self._decoder, self._space)


class SeemSession:
    """One film (see TrackingSession); of each object two prompted frames are kept at most, and nothing of others."""

    def __init__(self, decoder: SeemDecoder, space: SeemSpace) -> None:
        self._decoder = decoder
        self._space = space
        self._objects: dict[int, _Known] = {}
        self._features: ImageFeatures | None = None
        self._number: int | None = None

    def follow(self, frame: int, image: Image) -> dict[int, TrackedMask]:
        """See TrackingSession. An object that nothing on the frame looks like is hidden or gone."""
        if not self._objects:
            return {}
        features = self._look_at(frame, image)
        return {number: self._follow_one(known, features) for number, known in self._objects.items()}

    def prompt(self, frame: int, image: Image, object_id: int, prompts: PromptSet) -> TrackedMask:
        """See TrackingSession."""
        features, known = self._look_at(frame, image), self._objects.get(object_id)
        mask, score, memory = self._drawn(features, prompts, None if known is None else known.memory)
        if not mask.any():
            raise PromptError("expected something drawn on the object to follow, got nothing or only what it is not")
        shown = (ReferencePrompt(KeyedImage.of(image), mask), features)
        self._objects[object_id] = _Known([*(known.shown[:1] if known else ()), shown], mask, memory)
        return TrackedMask(mask, score)

    def _look_at(self, frame: int, image: Image) -> ImageFeatures:
        if self._features is None or self._number != frame:
            (self._features,), self._number = self._decoder.encode_images([image]), frame
        return self._features

    def _follow_one(self, known: _Known, features: ImageFeatures) -> TrackedMask:
        references = PromptSet(tuple(reference for reference, _ in known.shown))
        tokens = self._space.embed(references, features, [there for _, there in known.shown])
        found = self._decoder.decode(features, references, tokens, None)
        worth = [row.score * (1 - PLACE + PLACE * _overlap(row.mask, known.mask)) for row in found]
        if not worth:
            return TrackedMask(np.zeros_like(known.mask), 0.0)
        row = int(np.argmax(worth))
        chosen = self._drawn_again(features, found[[row]])
        known.mask, known.memory = chosen.masks[0], self._memory_of(chosen)
        return TrackedMask(known.mask, float(found.scores[row]))

    def _drawn_again(self, features: ImageFeatures, found: MaskSet) -> MaskSet:
        """A find as the decoder draws it with its memory of it; as it was found where that is another thing."""
        mask = found.masks[0]
        drawn = self._decode_drawn(features, PromptSet((MaskPrompt(mask),)), self._memory_of(found))
        return drawn if len(drawn) and _overlap(drawn.masks[0], mask) >= AGREES else found

    def _drawn(
        self, features: ImageFeatures, prompts: PromptSet, memory: ObjectMemory | None
    ) -> tuple[BoolArray, float, ObjectMemory | None]:
        """The mask of a drawing, an outline as it is, with its score and memory."""
        outlines = PromptSet(prompts.of(MaskPrompt) + prompts.of(PolygonPrompt))
        if len(outlines) and len(outlines) == len(prompts.drawn):
            return outlines.region(features.size), 1.0, None
        found = self._decode_drawn(features, PromptSet(prompts.drawn), memory)
        if not len(found):
            return prompts.region(features.size) & False, 0.0, None
        return found.masks[0], float(found.scores[0]), self._memory_of(found)

    def _decode_drawn(self, features: ImageFeatures, prompts: PromptSet, memory: ObjectMemory | None) -> MaskSet:
        return self._decoder.decode(features, prompts, self._space.embed(prompts, features), memory)

    def _memory_of(self, found: MaskSet) -> ObjectMemory:
        return ObjectMemory(found.low_res_logits[0], self._space.name)


def _overlap(left: BoolArray, right: BoolArray) -> float:
    union = int((left | right).sum())
    return int((left & right).sum()) / union if union else 0.0
