"""What every engine offers, an image encoder and a mask decoder over one joint space; and what engines share: the connected
components of a mask as answers, each looked at within the box around it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias, assert_never, runtime_checkable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.telemetry import turn
from backend.values.features import ImageFeatures
from backend.values.masks import Masks, MaskSet, RunLengths
from prompts.geometry import BoolArray, FloatArray, Size
from prompts.kinds import (
    BoxPrompt,
    Image,
    MaskPrompt,
    ObjectMemory,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    PromptSet,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from prompts.memory import LabelMemory
from prompts.space import JointSpace, PromptTokens

SMALLEST_AREA = 4
MOST_INSTANCES = 100
"""Of one phrase or one label."""
MOST_FOUND = 1000
"""Of all phrases together."""
FULL_SIDE, SMALL_SIDE = 1 << 30, 64
"""Pixels of logits: a single object is remembered as it is."""
STRIP_ROWS = 64
"""Rows that are looked at together: in floats a large image takes many times its bytes."""
Place: TypeAlias = tuple[slice, slice]
"""Rows and columns of a window of the image."""


class MaskDecoder(Protocol):
    """Images and prompts to masks.

    ``decode`` answers by what the prompts are (see PromptSet.objects):

    * something drawn (points, boxes, scribbles, polygons, masks): one mask for each drawn object, helped by any text,
      reference and memory; its label is the phrase if exactly one was given, else None;
    * only text and references: every instance of each, labelled with its phrase (None for a reference);
    * no prompt: everything that the decoder can find by itself, without labels (it may find nothing).

    Masks come at the image's full size, best first within a phrase; absent things give no row.
    """

    def encode_images(self, images: Sequence[Image]) -> list[ImageFeatures]:
        """The features of upright RGB images ``(H, W, 3)`` uint8 of any sizes, in order."""
        ...

    def decode(self, features: ImageFeatures, prompts: PromptSet, tokens: PromptTokens, memory: ObjectMemory | None) -> MaskSet:
        """The masks that the prompts ask for on one image."""
        ...


@runtime_checkable
class OffersAlternatives(Protocol):
    """A decoder that can tell what else a single click may mean: a part, the object, a group of objects."""

    def decode_alternatives(self, features: ImageFeatures, prompts: PromptSet) -> MaskSet:
        """Every reading of one click inside something, without labels."""
        ...


@runtime_checkable
class SeesAtAGlance(Protocol):
    """A decoder that tells of a part of a large image where small things may be that it has to look at closer."""

    def outstanding(self, features: ImageFeatures, tokens: PromptTokens) -> FloatArray:
        """Places ``(N, 2)`` in pixels that are far likelier than the rest to show what is asked for, the likeliest first."""
        ...


@runtime_checkable
class LearnsLabels(Protocol):
    """A decoder that accepted and rejected regions of a project teach what its labels look like."""

    def places_of(self, features: ImageFeatures) -> Tensor:
        """Unit vectors ``(D, h, w)`` of an image's places, by which examples of labels are compared."""
        ...

    def decode_labels(self, features: ImageFeatures, tokens: PromptTokens, memories: Sequence[LabelMemory]) -> MaskSet:
        """Every instance of each label that there is a memory of, under its name, and of each phrase that is none of theirs,
        under the phrase; what the negative phrases say is left out.
        """
        ...


@runtime_checkable
class SumsUpRegions(Protocol):
    """A decoder that learns what labels look like, and tells them apart by what regions show as wholes, too."""

    def meant_by(self, features: ImageFeatures, region: BoolArray) -> Tensor:
        """What a region ``(H, W)`` shows as a whole: unit vectors ``(M, D)``, one for each way to look at it."""
        ...


@runtime_checkable
class DrawsLabels(Protocol):
    """A decoder to which examples of a label tell how far a thing reaches that is drawn under it."""

    def decode_drawn_label(
        self, features: ImageFeatures, tokens: PromptTokens, like: LabelMemory, memory: ObjectMemory | None
    ) -> MaskSet:
        """The mask of the one thing that is drawn, as ``decode`` gives it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TrackedMask:
    """One object on one frame: ``mask (H, W)``, empty where it is hidden or gone, and how sure that is, in 0..1."""

    mask: BoolArray
    score: float


class TrackingSession(Protocol):
    """Objects followed through one film, in one direction: frames are given in their order, and what they showed of each
    object is its memory, which stays bounded however long the film is.
    """

    def follow(self, frame: int, image: Image) -> dict[int, TrackedMask]:
        """Where every object that was prompted before is on the next frame ``(H, W, 3)``, by its id."""
        ...

    def prompt(self, frame: int, image: Image, object_id: int, prompts: PromptSet) -> TrackedMask:
        """What is drawn of an object on the frame at hand, which is a new object, or corrects where it was followed to.

        Raises PromptError when nothing is drawn that shows it.
        """
        ...


class Tracker(Protocol):
    """Starts sessions; each has a memory of its own."""

    def start(self, direction: Literal[1, -1]) -> TrackingSession:
        """A session of frames that rise (1) or fall (-1)."""
        ...


@dataclass(frozen=True, slots=True)
class Engine:
    """A decoder and the joint space that it was trained with; ``version`` changes with the weights. ``tracker`` follows objects
    through films, None where the engine cannot.
    """

    name: str
    version: str
    space: JointSpace
    decoder: MaskDecoder
    tracker: Tracker | None = None


def outside_negatives(found: MaskSet, prompts: PromptSet) -> MaskSet:
    """The masks that leave out every pixel of what was drawn as negative."""
    if not prompts.drawn or not len(found):
        return found
    forbidden = prompts.region(found.size, positive=False)
    return found[[row for row, mask in enumerate(found.masks) if not (mask & forbidden).any()]]


@dataclass(frozen=True, slots=True)
class SharedTracker:
    """A tracker whose sessions take the device for one step at a time, so that others get their turn in between."""

    tracker: Tracker
    device: threading.Lock
    watch: Callable[[], None]

    def start(self, direction: Literal[1, -1]) -> TrackingSession:
        return _SharedSession(self.tracker.start(direction), self)


@dataclass(frozen=True, slots=True)
class _SharedSession:
    session: TrackingSession
    shared: SharedTracker

    def follow(self, frame: int, image: Image) -> dict[int, TrackedMask]:
        self.shared.watch()
        with turn(self.shared.device):
            return self.session.follow(frame, image)

    def prompt(self, frame: int, image: Image, object_id: int, prompts: PromptSet) -> TrackedMask:
        self.shared.watch()
        with turn(self.shared.device):
            return self.session.prompt(frame, image, object_id, prompts)


def components(mask: BoolArray) -> Iterator[tuple[Place, BoolArray]]:
    """The connected parts of a mask, the largest first: where the box around each lies, and the part within it."""
    if not mask.any():
        return
    _, numbered, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    for number in np.argsort(-areas, kind="stable")[:MOST_INSTANCES] + 1:
        if areas[number - 1] >= SMALLEST_AREA:
            x, y, width, height = stats[number, : cv2.CC_STAT_AREA].tolist()
            place = (slice(y, y + height), slice(x, x + width))
            yield place, numbered[place] == number


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One answer; its score is the mean cosine of its pixels with what was looked for, its embedding ``(D,)`` their mean."""

    runs: RunLengths
    score: float
    label: str | None
    embedding: NDArray[np.float32]


def components_found(
    features: ImageFeatures, mask: BoolArray, cosine: NDArray[np.float32], label: str | None
) -> Iterator[Found]:
    """The connected parts of a mask as answers, each looked at within the box around it."""
    for place, window in components(mask):
        yield found_in(features, place, window, cosine[place], label)


def found_in(features: ImageFeatures, place: Place, window: BoolArray, cosine: NDArray[np.float32], label: str | None) -> Found:
    """The pixels of a window ``(h, w)`` at a place of the image, with the cosines there ``(h, w)``."""
    rows, columns = place
    mean, seen = torch.zeros(len(features.grid)), features.grid[:, rows, columns]
    for first in range(0, window.shape[0], STRIP_ROWS):
        strip = torch.from_numpy(window[first : first + STRIP_ROWS]).flatten().float()
        mean += seen[:, first : first + STRIP_ROWS].flatten(1) @ strip
    embedding: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=0).numpy()
    runs = RunLengths.placed(window, (columns.start, rows.start), features.size)
    return Found(runs, float(np.clip(cosine.mean(where=window), 0, 1)), label, embedding)


def distinct(found: Sequence[Found]) -> list[Found]:
    """The best of those that are the same region, the first of equals; of too many the largest."""
    best: dict[bytes, Found] = {}
    for each in found:
        name = each.runs.edges.tobytes()
        best[name] = max(best.get(name, each), each, key=lambda one: one.score)
    if len(best) <= MOST_FOUND:
        return list(best.values())
    return sorted(best.values(), key=lambda one: one.runs.area, reverse=True)[:MOST_FOUND]


def mask_set(size: Size, found: Sequence[Found], side: int) -> MaskSet:
    """Answers with logits of at most ``side`` pixels: in full where they may be the memory of one object, else small."""
    if not found:
        return MaskSet.empty(size)
    shrink = min(1.0, side / max(size.height, size.width))
    shape = (max(1, round(size.height * shrink)), max(1, round(size.width * shrink)))
    rows, columns = (np.arange(small) * full // small for small, full in zip(shape, (size.height, size.width), strict=True))
    logits = np.full((len(found), *shape), -1, np.float16)
    for each, row in zip(found, logits, strict=True):
        row[each.runs.decode()[np.ix_(rows, columns)]] = 1
    return MaskSet(
        masks=Masks(size, tuple(each.runs for each in found)),
        scores=np.array([each.score for each in found], np.float32),
        labels=tuple(each.label for each in found),
        low_res_logits=logits,
        embeddings=np.stack([each.embedding for each in found]),
    )


def shrunk(prompts: PromptSet, step: int) -> PromptSet:
    """The same prompts on an image of which every ``step``-th pixel is looked at, along both sides."""
    return PromptSet(tuple(_shrunk(prompt, step) for prompt in prompts.prompts))


def _shrunk(prompt: Prompt, step: int) -> Prompt:
    match prompt:
        case PointPrompt(xy=(x, y)):
            return replace(prompt, xy=(x / step, y / step))
        case BoxPrompt(xyxy=(x0, y0, x1, y1)):
            return BoxPrompt((x0 / step, y0 / step, x1 / step, y1 / step))
        case PolygonPrompt():
            return PolygonPrompt(prompt.points / step)
        case ScribblePrompt() | MaskPrompt():
            down, across = (np.arange(0, extent, step) for extent in prompt.mask.shape)
            touched = np.logical_or.reduceat(np.logical_or.reduceat(prompt.mask, down, axis=0), across, axis=1)
            return replace(prompt, mask=touched)
        case TextPrompt() | ReferencePrompt():
            return prompt
        case _:
            assert_never(prompt)


def enlarged(found: MaskSet, size: Size, step: int) -> MaskSet:
    """What was found where every ``step``-th pixel was looked at, as masks of the whole image."""
    if step == 1:
        return found
    return replace(found, masks=Masks(size, tuple(_enlarged(each, size, step) for each in found.masks.runs)))


def _enlarged(runs: RunLengths, size: Size, step: int) -> RunLengths:
    (rows, columns), window = runs.window()
    x, y = step * columns.start, step * rows.start
    large = window.repeat(step, axis=0).repeat(step, axis=1)[: size.height - y, : size.width - x]
    return RunLengths.placed(large, (x, y), size)
