"""The colour engine: a real, tiny decoder without weights, whose right answers can be told by eye.

Words find pixels near the named colour, clicks and regions find connected pixels of the colour under them. It exists for
tests and for trying the whole service without a model.

Its joint space can be checked by eye: a colour ``(r, g, b)`` in 0..1 becomes ``(2r - 1, 2g - 1, 2b - 1, w) / sqrt(6)`` with
``w`` chosen so that the vector has length 1. Equal colours have cosine 1, red and orange 0.86, red and grey 0.71, black and
white 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageColor
from torch import Tensor

from backend.engines.base import (
    FULL_SIDE,
    SMALL_SIDE,
    STRIP_ROWS,
    Engine,
    Found,
    TrackedMask,
    TrackingSession,
    components,
    components_found,
    distinct,
    enlarged,
    found_in,
    mask_set,
    outside_negatives,
    shrunk,
)
from backend.engines.catalogue import ANYWHERE, Placement
from backend.values.features import ImageFeatures
from backend.values.masks import MaskSet
from prompts.examples import near
from prompts.geometry import BoolArray, Size, box_mask, size_of
from prompts.kinds import BoxPrompt, Image, MaskPrompt, ObjectMemory, PointPrompt, PromptError, PromptSet
from prompts.memory import LabelMemory, owner_of
from prompts.space import JointSpace, PromptTokens, visual_token

DIMENSIONS = 4
MOST_PIXELS = 1 << 23
"""Of an image with more, every second pixel is looked at along both sides, or every third: a pixel takes sixteen bytes."""


def embed_colours(rgb: Tensor, dim: int = -1) -> Tensor:
    """Colours ``(..., 3)`` in 0..1 as unit vectors ``(..., 4)``; ``dim`` is where the channels are."""
    centred = 2 * rgb - 1
    last = (6 - (centred**2).sum(dim=dim, keepdim=True)).sqrt()
    return torch.cat([centred, last], dim=dim) / 6**0.5


def _colours_of(image: Image) -> Tensor:
    """Every pixel's colour ``(4, H, W)``, made from strips: in floats an image takes four times its bytes."""
    grid = torch.empty(DIMENSIONS, *image.shape[:2])
    for first in range(0, image.shape[0], STRIP_ROWS):
        strip = image[first : first + STRIP_ROWS].transpose(2, 0, 1).astype(np.float32, order="C")
        grid[:, first : first + STRIP_ROWS] = embed_colours(torch.from_numpy(strip) / 255, 0)
    return grid


def _step_of(features: ImageFeatures) -> int:
    """Of how many pixels along a side one was looked at."""
    height, width = features.grid.shape[1:]
    return max(math.ceil(features.size.height / height), math.ceil(features.size.width / width))


def _as_seen(features: ImageFeatures) -> ImageFeatures:
    """Features of the pixels that were looked at alone."""
    return replace(features, size=Size(features.grid.shape[1], features.grid.shape[2]))


class ColourTextEncoder:
    """The colour words of a phrase as a mean colour; a phrase without any is the zero vector, which resembles nothing."""

    def encode_text(self, phrases: Sequence[str]) -> Tensor:
        """Unit vectors ``(N, 4)`` for N phrases."""
        return torch.stack([_encode(phrase) for phrase in phrases]) if phrases else torch.zeros(0, DIMENSIONS)


def _encode(phrase: str) -> Tensor:
    words = re.findall(r"[a-z]+", phrase.lower())
    colours = [ImageColor.getrgb(word)[:3] for word in words if word in ImageColor.colormap]
    if not colours:
        return torch.zeros(DIMENSIONS)
    return torch.nn.functional.normalize(embed_colours(torch.tensor(colours) / 255).mean(dim=0), dim=0)


SAME_COLOUR = 0.99
"""Cosine above which a pixel has the colour of another one: about 40 of 255 levels in one channel."""
NAMED_COLOUR = 0.9
"""Cosine above which a pixel may be called by a colour's name: dark red is red, orange is not."""
SPACE = JointSpace("colour", ColourTextEncoder())


def build(weights: Path | None, placement: Placement = ANYWHERE) -> Engine:
    """The colour engine; it has no weights, and computes on the CPU."""
    return Engine("colour", "colour-1", SPACE, ColourDecoder(), ColourTracker())


class ColourDecoder:
    """Connected pixels of one colour (see MaskDecoder)."""

    def encode_images(self, images: Sequence[Image]) -> list[ImageFeatures]:
        steps = [math.ceil(math.sqrt(size_of(image).pixels / MOST_PIXELS)) for image in images]
        return [ImageFeatures(size_of(each), _colours_of(each[::k, ::k])) for each, k in zip(images, steps, strict=True)]

    def decode(self, features: ImageFeatures, prompts: PromptSet, tokens: PromptTokens, memory: ObjectMemory | None) -> MaskSet:
        step, seen = _step_of(features), _as_seen(features)
        if step > 1:
            prompts = shrunk(prompts, step)
            tokens = SPACE.embed(prompts, seen, [there for _, there in tokens.references])
        return enlarged(self._decode(seen, prompts, tokens, memory), features.size, step)

    def _decode(
        self, features: ImageFeatures, prompts: PromptSet, tokens: PromptTokens, memory: ObjectMemory | None
    ) -> MaskSet:
        if prompts.drawn and (memory is not None or prompts.region(features.size).any()):
            return self._decode_drawn(features, prompts, tokens, memory)
        return outside_negatives(self._decode_said(features, tokens), prompts)

    def _decode_drawn(
        self, features: ImageFeatures, prompts: PromptSet, tokens: PromptTokens, memory: ObjectMemory | None
    ) -> MaskSet:
        objects, before = list(prompts.objects()), _previous_mask(features, memory)
        owner, nothing = owner_of(objects, before), np.zeros_like(before)
        masks = [
            _drawn_object(features, drawn, tokens, before if number == owner else nothing)
            for number, drawn in enumerate(objects)
        ]
        label = prompts.phrases[0] if len(prompts.phrases) == 1 else None
        found = [_whole(features, mask, visual_token(features, mask)[0], label) for mask in masks if mask.any()]
        return mask_set(features.size, found, FULL_SIDE if len(found) == 1 else SMALL_SIDE)

    def decode_alternatives(self, features: ImageFeatures, prompts: PromptSet) -> MaskSet:
        """What is connected with the click, and all that has its colour (see OffersAlternatives)."""
        step, size, features = _step_of(features), features.size, _as_seen(features)
        prompts = shrunk(prompts, step)
        tokens = SPACE.embed(prompts, features)
        (query,) = tokens.of(prompts.of(PointPrompt)[0])
        whole = _whole(features, _similar(features, query, SAME_COLOUR), query, None)
        connected = self._decode_drawn(features, prompts, tokens, None)
        both = MaskSet.concatenate([connected, mask_set(features.size, [whole], FULL_SIDE)], features.size)
        return enlarged(both, size, step)

    def places_of(self, features: ImageFeatures) -> Tensor:
        """Every pixel's colour (see LearnsLabels)."""
        return features.grid

    def decode_labels(self, features: ImageFeatures, tokens: PromptTokens, memories: Sequence[LabelMemory]) -> MaskSet:
        """The colours that examples showed, unless something else showed them better (see LearnsLabels)."""
        step, size, features = _step_of(features), features.size, _as_seen(features)
        taught = {phrase for memory in memories for phrase in memory.phrases}
        rows = [self._decode_said(features, tokens, taught)]
        for memory, mask in zip(memories, _shown_before(features, memories), strict=True):
            if mask.any():
                cosine = _cosine(features, visual_token(features, mask)[0])
                rows.append(mask_set(features.size, list(components_found(features, mask, cosine, memory.label)), SMALL_SIDE))
        return enlarged(MaskSet.concatenate(rows, features.size), size, step)

    def _decode_said(self, features: ImageFeatures, tokens: PromptTokens, besides: Collection[str] = ()) -> MaskSet:
        """What is said and shown, but for some phrases. What means the colour of a phrase before it finds the same, and is not
        looked for again.
        """
        wanted: dict[tuple[float, ...], tuple[Tensor, str | None]] = {}
        for query, phrase in zip(tokens.text, tokens.phrases, strict=True):
            if phrase not in besides and query.any():
                wanted.setdefault((NAMED_COLOUR, *query.tolist()), (query, phrase))
        for query in tokens.reference:
            wanted.setdefault((SAME_COLOUR, *query.tolist()), (query, None))
        unwanted = [_cosine(features, each) for each in torch.cat([tokens.negative_text, tokens.negative_reference])]
        found: list[Found] = []
        for (threshold, *_), (query, label) in wanted.items():
            cosine = _cosine(features, query)
            mask = np.asarray(cosine > threshold)
            for other in unwanted:
                mask &= cosine > other
            found += components_found(features, mask, cosine, label)
        return mask_set(features.size, distinct(found), SMALL_SIDE)


def _shown_before(features: ImageFeatures, memories: Sequence[LabelMemory]) -> list[BoolArray]:
    """For each label the pixels of a colour that was shown inside, with nothing nearer outside, or as near inside of another
    label. A thing that was left out of an annotation is no reason not to find its like.
    """
    pixels = features.grid.flatten(1).T
    inside = [near(pixels, _colours(memory.shown.inside), 1) for memory in memories]
    outside = [near(pixels, _colours(memory.shown.outside), 1) for memory in memories]
    found, first, second = [], *_two_best(inside)
    for k, memory in enumerate(memories):
        is_it = (inside[k] > SAME_COLOUR) & (inside[k] >= outside[k]) & bool(len(memory.shown))
        is_it &= (inside[k] == first) & (first > second)
        found.append(is_it.reshape(features.grid.shape[1:]).numpy())
    return found


def _two_best(likenesses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """At each of P places the best and the second of several likenesses ``(P,)``, below any where there is only one."""
    first = torch.full_like(likenesses[0], -torch.inf) if likenesses else torch.zeros(0)
    second = first.clone()
    for each in likenesses:
        second = torch.maximum(second, torch.minimum(first, each))
        first = torch.maximum(first, each)
    return first, second


def _colours(shown: Tensor) -> Tensor:
    """The different ones ``(N, D)`` of the colours ``(P, D)`` of places."""
    found: Tensor = torch.unique(shown.float(), dim=0)
    return found


def _previous_mask(features: ImageFeatures, memory: ObjectMemory | None) -> BoolArray:
    """What the last round found ``(H, W)``, nothing without one."""
    shape = (features.size.height, features.size.width)
    if memory is None or memory.low_res_logits.shape != shape:
        return np.zeros(shape, np.bool_)
    previous: BoolArray = memory.low_res_logits > 0
    return previous


def _drawn_object(features: ImageFeatures, prompts: PromptSet, tokens: PromptTokens, before: BoolArray) -> BoolArray:
    """One object: the colours under what was drawn for it, with what was there before, less what was drawn against it."""
    mask, against = before.copy(), np.zeros_like(before)
    for prompt in prompts.drawn:
        seed = PromptSet((prompt,))
        for side, positive in ((mask, True), (against, False)):
            if (region := seed.region(features.size, positive=positive)).any():
                side |= _component(features, tokens.of(prompt)[0], region)
    mask &= ~against
    for box in prompts.of(BoxPrompt):
        mask &= box_mask(box.xyxy, features.size)
    return mask


def _component(features: ImageFeatures, query: Tensor, region: BoolArray) -> BoolArray:
    """The connected pixels of a colour ``(D,)`` that touch the region."""
    count, numbered = cv2.connectedComponents(_similar(features, query, SAME_COLOUR).astype(np.uint8))
    touched = np.zeros(count, np.bool_)
    touched[np.unique(numbered[region])] = True
    touched[0] = False
    component: BoolArray = touched[numbered]
    return component


def _cosine(features: ImageFeatures, query: Tensor) -> NDArray[np.float32]:
    cosine: NDArray[np.float32] = torch.einsum("d,dhw->hw", query, features.grid).numpy()
    return cosine


def _similar(features: ImageFeatures, query: Tensor, threshold: float) -> BoolArray:
    similar = np.empty(features.grid.shape[1:], np.bool_)
    for first in range(0, len(similar), STRIP_ROWS):
        rows = slice(first, first + STRIP_ROWS)
        similar[rows] = (torch.einsum("d,dhw->hw", query, features.grid[:, rows]) > threshold).numpy()
    return similar


def _whole(features: ImageFeatures, mask: BoolArray, query: Tensor, label: str | None) -> Found:
    """A mask ``(H, W)`` that is not empty as one answer to a query ``(D,)``."""
    return found_in(features, (slice(0, mask.shape[0]), slice(0, mask.shape[1])), mask, _cosine(features, query), label)


@dataclass(slots=True, eq=False)
class _Seen:
    """What is known of a followed object: its colour ``(D,)``, its mask when it was last seen and how it moved then."""

    colour: Tensor
    mask: BoolArray
    step: tuple[float, float]


class ColourTracker:
    """Starts sessions that follow by colour and place (see Tracker)."""

    def start(self, direction: Literal[1, -1]) -> TrackingSession:
        return ColourSession()


class ColourSession:
    """Each object is the part of its colour that lies nearest to where it would have moved (see TrackingSession)."""

    def __init__(self) -> None:
        self._objects: dict[int, _Seen] = {}

    def follow(self, frame: int, image: Image) -> dict[int, TrackedMask]:
        """See TrackingSession. Where no part has an object's colour, or another object has it, it is hidden."""
        features = ImageFeatures(size_of(image), _colours_of(image))
        taken = np.zeros(image.shape[:2], np.bool_)
        found = {}
        for number, seen in self._objects.items():
            mask = _nearest(features, seen, taken)
            taken |= mask
            if mask.any():
                (x, y), (x0, y0) = _middle(mask), _middle(seen.mask)
                self._objects[number] = _Seen(seen.colour, mask, (x - x0, y - y0))
            found[number] = TrackedMask(mask, 1.0 if mask.any() else 0.0)
        return found

    def prompt(self, frame: int, image: Image, object_id: int, prompts: PromptSet) -> TrackedMask:
        """See TrackingSession."""
        features, drawn = ImageFeatures(size_of(image), _colours_of(image)), PromptSet(prompts.drawn)
        outlines = PromptSet(prompts.of(MaskPrompt))
        before = self._objects.get(object_id)
        if len(outlines) == len(drawn) and len(outlines):
            mask = outlines.region(features.size)
        else:
            follows = before is not None and not drawn.region(features.size).any()
            start = before.mask if before is not None and follows else np.zeros(image.shape[:2], np.bool_)
            mask = _drawn_object(features, drawn, SPACE.embed(drawn, features), start)
        if not mask.any():
            raise PromptError("expected something drawn on the object to follow, got nothing or only what it is not")
        self._objects[object_id] = _Seen(visual_token(features, mask)[0], mask, (0.0, 0.0))
        return TrackedMask(mask, 1.0)


def _nearest(features: ImageFeatures, seen: _Seen, taken: BoolArray) -> BoolArray:
    """The part of an object's colour whose middle is nearest to the expected one; an empty mask without any."""
    x, y = (place + step for place, step in zip(_middle(seen.mask), seen.step, strict=True))
    nearest, mask = math.inf, np.zeros_like(taken)
    for place, part in components(_similar(features, seen.colour, SAME_COLOUR)):
        across, down = _middle(part)
        distance = math.hypot(across + place[1].start - x, down + place[0].start - y)
        if distance < nearest and not (part & taken[place]).any():
            nearest, mask = distance, np.zeros_like(taken)
            mask[place] = part
    return mask


def _middle(mask: BoolArray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())
