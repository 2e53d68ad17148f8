"""Following an object by the engine's own decoder: its last mask, moved with the picture, and a memory of how it looked.

The memory is the first and every prompted frame and the latest few, as joint-space vectors with the chance of being the
object; the places of a new frame are voted on by those they resemble (after Oh et al. 2019, Space-Time Memory). What stays
apart from the object and looks little like what was prompted is given up. The optical flow is Kroeger et al. 2016 (DIS).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.engines.base import TrackedMask, TrackingSession
from backend.engines.embedded.engine import EmbeddedDecoder
from backend.engines.embedded.from_drawing import Drawing, sharpen
from backend.engines.embedded.views import FAR, Answer, Canvas, chance_of, to_masks
from prompts.examples import Examples, example_of
from prompts.geometry import BoolArray
from prompts.kinds import Image, MaskPrompt, PolygonPrompt, PromptError, PromptSet

Map = NDArray[np.float32]
RECENT = 3
"""The latest frames that are remembered, beside those that were prompted."""
MOST_PROMPTED = 8
SHARPNESS = 20.0
"""The temperature of the votes: a cosine that is 0.05 lower counts a third."""
VOTERS = 20
HIDDEN = 0.05
"""An answer that agrees less than this with what the memory votes for is no answer: the object is hidden or gone."""
LEAST_PART = 0.05
"""A smaller share of an answer does not tell how the object looks."""
STRANGE = 0.6
"""A part that looks less like what was prompted than so many times the likest part is strange: what hid the object, or lies
beside it. So does a sliver of the object, for a moment.
"""
PATIENCE = 3
"""So many frames one after another with strange parts show that they are none of the object."""


@dataclass(slots=True, eq=False)
class _Memory:
    """One object: ``chance (H, W)`` on the canvas when it was last seen, how the prompted and the latest frames looked, each as
    vectors ``(P, D)`` with chances ``(P,)``, and its first mask as an example.
    """

    chance: Map
    shown: Examples
    prompted: deque[tuple[Tensor, Tensor]] = field(default_factory=lambda: deque(maxlen=MOST_PROMPTED))
    recent: deque[tuple[Tensor, Tensor]] = field(default_factory=lambda: deque(maxlen=RECENT))
    strange: int = 0

    def own_part(self, answer: Answer, trusted: Map) -> Answer:
        """The answer without parts that look unlike what was prompted, ``trusted (H, W)``, when they have stayed for long."""
        own = _without_strangers(answer, trusted)
        self.strange = self.strange + 1 if own is not answer else 0
        return own if self.strange >= PATIENCE else answer


class EmbeddedTracker:
    """Starts sessions (see Tracker)."""

    def __init__(self, decoder: EmbeddedDecoder) -> None:
        self._decoder = decoder

    def start(self, direction: Literal[1, -1]) -> TrackingSession:
        return EmbeddedSession(self._decoder)


class EmbeddedSession:
    """One film (see TrackingSession)."""

    def __init__(self, decoder: EmbeddedDecoder) -> None:
        self._decoder = decoder
        self._objects: dict[int, _Memory] = {}
        self._canvas: Canvas | None = None
        self._number: int | None = None

    @torch.inference_mode()
    def follow(self, frame: int, image: Image) -> dict[int, TrackedMask]:
        """See TrackingSession."""
        before, canvas = self._canvas, self._look_at(frame, image)
        if before is None or not self._objects:
            return {}
        flow = _flow(before.pixels, canvas.pixels)
        return {number: self._follow_one(memory, canvas, flow) for number, memory in self._objects.items()}

    @torch.inference_mode()
    def prompt(self, frame: int, image: Image, object_id: int, prompts: PromptSet) -> TrackedMask:
        """See TrackingSession."""
        canvas = self._look_at(frame, image)
        mask, score = self._drawn(canvas, prompts, self._objects.get(object_id))
        if not mask.any():
            raise PromptError("expected something drawn on the object to follow, got nothing or only what it is not")
        wide = (canvas.size.width, canvas.size.height)
        chance = np.asarray(cv2.resize(mask.astype(np.float32), wide, interpolation=cv2.INTER_AREA), np.float32)
        memory = self._objects.setdefault(object_id, _Memory(chance, example_of(canvas.features.grid.float(), mask)))
        memory.chance = chance
        memory.recent.clear()
        memory.prompted.append(_cells(canvas, chance))
        return TrackedMask(mask, score)

    def _look_at(self, frame: int, image: Image) -> Canvas:
        if self._canvas is None or self._number != frame:
            (features,) = self._decoder.encode_images([image])
            self._canvas, self._number = Canvas.of(features), frame
        return self._canvas

    def _drawn(self, canvas: Canvas, prompts: PromptSet, known: _Memory | None) -> tuple[BoolArray, float]:
        """The mask ``(H, W)`` of a drawing, an outline as it is, else as the decoder answers, from where it was followed to."""
        outlines = PromptSet(prompts.of(MaskPrompt) + prompts.of(PolygonPrompt))
        if len(outlines) and len(outlines) == len(prompts.drawn):
            return outlines.region(canvas.features.size), 1.0
        found = self._decoder.decode_drawn(canvas, PromptSet(prompts.drawn), None, None if known is None else known.chance)
        rows = list(found)
        return (rows[0].mask, rows[0].score) if rows else (np.zeros_like(prompts.region(canvas.features.size)), 0.0)

    def _follow_one(self, memory: _Memory, canvas: Canvas, flow: Map) -> TrackedMask:
        votes = _votes(canvas, [*memory.prompted, *memory.recent])
        alike = self._decoder.chance_like(canvas, memory.shown)
        said = np.asarray((votes + alike) / 2, np.float32)
        answers = self._candidates(memory, canvas, votes, said, flow)
        agreement, answer, drawing = max(answers, key=lambda one: one[0], default=(0.0, None, None))
        if answer is None or drawing is None or agreement < HIDDEN:
            return TrackedMask(np.zeros((canvas.features.size.height, canvas.features.size.width), np.bool_), agreement)
        trusted = np.asarray((_votes(canvas, list(memory.prompted)) + alike) / 2, np.float32)
        sharp = memory.own_part(sharpen(answer, canvas, drawing), trusted)
        chance = chance_of(sharp.logits)
        if (chance > 0.5).any():
            memory.chance = chance
            memory.recent.append(_cells(canvas, chance))
        masks = to_masks([sharp], [None], canvas)
        mask = masks.masks[0] if len(masks) else np.zeros((canvas.features.size.height, canvas.features.size.width), np.bool_)
        return TrackedMask(mask, agreement)

    def _candidates(
        self, memory: _Memory, canvas: Canvas, votes: Map, said: Map, flow: Map
    ) -> Iterator[tuple[float, Answer, Drawing]]:
        """What the decoder finds from where the object was, where the picture moved it, and where it is voted to be."""
        for prior in (memory.chance, _moved(memory.chance, flow), votes):
            drawing = Drawing(PromptSet(()), {}, prior, said)
            answer = self._decoder.decode_drawing(canvas, drawing)
            if answer is not None:
                yield _overlap(chance_of(answer.logits), votes), answer, drawing


def _without_strangers(answer: Answer, trusted: Map) -> Answer:
    """The same answer where no part is strange, else one without those parts."""
    count, numbered = cv2.connectedComponents((answer.logits > 0).astype(np.uint8), connectivity=8)
    pixels = np.bincount(numbered.ravel(), minlength=count)
    likeness = np.bincount(numbered.ravel(), trusted.ravel(), count) / np.maximum(pixels, 1)
    likest = likeness[1:][pixels[1:] >= LEAST_PART * pixels[1:].sum()].max(initial=0.0)
    strange = likeness < STRANGE * likest
    strange[0] = False
    if not strange.any():
        return answer
    return Answer(np.where(strange[numbered], FAR, answer.logits).astype(np.float32), answer.quality)


def _flow(before: Image, now: Image) -> Map:
    """For each pixel ``(H, W, 2)`` of the picture now, how far away it was before, in pixels across and down."""
    grey = [np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8) for picture in (now, before)]
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    still = np.zeros((*grey[0].shape, 2), np.float32)
    return np.asarray(estimator.calc(grey[0], grey[1], still), np.float32)


def _moved(chance: Map, flow: Map) -> Map:
    """A map ``(H, W)`` of the frame before as it lies on the frame now."""
    rows, columns = np.indices(chance.shape, np.float32)
    across, down = columns + flow[..., 0], rows + flow[..., 1]
    return np.asarray(cv2.remap(chance, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _cells(canvas: Canvas, chance: Map) -> tuple[Tensor, Tensor]:
    """A frame's vectors ``(P, D)``, one for each cell of the grid, and the chance ``(P,)`` that each is the object."""
    grid = canvas.features.grid
    share = cv2.resize(chance, (grid.shape[2], grid.shape[1]), interpolation=cv2.INTER_AREA)
    return grid.flatten(1).T.float(), torch.from_numpy(np.asarray(share, np.float32)).flatten().to(grid.device)


def _votes(canvas: Canvas, remembered: list[tuple[Tensor, Tensor]]) -> Map:
    """The chance ``(H, W)`` that a place is the object, by the remembered places that look most like it."""
    grid = canvas.features.grid
    keys, chances = (torch.cat(parts) for parts in zip(*remembered, strict=True))
    nearest, which = (grid.flatten(1).T.float() @ keys.T).topk(min(VOTERS, len(keys)), dim=1)
    weights = torch.softmax(nearest * SHARPNESS, dim=1)
    voted = (weights * chances[which]).sum(dim=1).view(grid.shape[1:]).cpu().numpy()
    wide = (canvas.size.width, canvas.size.height)
    return np.asarray(cv2.resize(voted, wide, interpolation=cv2.INTER_LINEAR), np.float32)


def _overlap(left: Map, right: Map) -> float:
    """The soft IoU of two maps in 0..1."""
    return float(np.minimum(left, right).sum() / max(float(np.maximum(left, right).sum()), 1e-6))
