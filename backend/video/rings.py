"""An object's outline through a film as few rings: their vertices correspond, so that a player that moves vertices along
straight lines shows every frame in between.

A ring has a fixed number of vertices at equal distances along the outline; it starts where that is nearest to the ring of the
frame before, by least squares. A hole is a ring of its own, joined by a slit between two vertices that stay the same. Parts
that lie apart are rings of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.video.keyframes import LEAST_IOU, keyframe_numbers
from backend.video.tracks import FrameMask
from prompts.geometry import BoolArray, FloatArray, mask_box

VERTICES = 48
HOLE_VERTICES = 24
MOST_HOLES, MOST_PARTS = 3, 4
SMALLEST_SHARE = 0.03
"""Parts and holes with a smaller share of the object are left out, or filled."""
FINER = 8
"""So many places are tried between two vertices for the start of a ring."""
FINE = 4
"""Outlines are taken from masks so many times as large: OpenCV's run through the centres of pixels, not along their edges."""
COMPARED = 160
"""Pixels of the longer side of the pictures on which outlines are compared."""
SAFETY = 0.01
"""By so much the overlap on those pictures may be better than at full size."""
WITHIN = 0.015
"""How much worse than the ring of its own frame an interpolated one may be where that has not the overlap that is asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Ring:
    """One part of an object on one frame: its ``outline (N, 2)`` in pixels and its ``holes``, each ``(M, 2)``."""

    outline: FloatArray
    holes: tuple[FloatArray, ...] = ()

    @property
    def names(self) -> list[str]:
        """The vertices' names in the order of the path: those of one name correspond on all frames."""
        names = [f"v{k}" for k in range(len(self.outline))]
        for number, hole in enumerate(self.holes):
            names += [f"v0-{number}", *(f"h{number}-{k}" for k in range(len(hole))), f"h{number}-0-back"]
        return [*names, f"v0-{len(self.holes)}"] if self.holes else names

    @property
    def path(self) -> FloatArray:
        """The vertices ``(P, 2)`` as one closed path: around the outline, and from its first one around each hole and back."""
        parts = [self.outline]
        for hole in self.holes:
            parts += [self.outline[:1], hole, hole[:1]]
        return np.concatenate([*parts, self.outline[:1]] if self.holes else parts)


@dataclass(frozen=True, slots=True, eq=False)
class RingKeyframe:
    """A ring that is set on a frame; ``enabled`` while it goes on to the next keyframe, else it is the last of its span."""

    frame: int
    ring: Ring
    enabled: bool


def ring_keyframes(
    masks: Mapping[int, FrameMask], least_iou: float = LEAST_IOU, fixed: Collection[int] = ()
) -> list[list[RingKeyframe]]:
    """Keyframes for masks by frame, one list for each part that there is at a time: between them the outline overlaps each part
    of a mask by ``least_iou``, or nearly as much as a ring of so few vertices can.
    """
    slots: list[dict[int, _Part]] = []
    for frame in sorted(masks):
        _continue(slots, frame, _outlines(masks[frame].decode()))
    return [list(_keyframes(parts, least_iou, fixed)) for parts in slots]


def moved(start: Ring, end: Ring, share: float) -> Ring:
    """The ring that the player shows between two with the same vertices (Label Studio, VideoVectorRegion)."""
    holes = tuple(one + share * (other - one) for one, other in zip(start.holes, end.holes, strict=True))
    return Ring(start.outline + share * (end.outline - start.outline), holes)


Outline = Sequence[FloatArray]
"""A part as the mask has it: the points ``(P, 2)`` around it and around each of its holes, in pixels."""


@dataclass(frozen=True, eq=False)
class _Part:
    """A part on one frame: its ring, and how it is as a packed picture, whose corner and scale are ``place (x, y, s)``."""

    ring: Ring
    picture: NDArray[np.uint8]
    shape: tuple[int, int]
    place: tuple[float, float, float]

    @cached_property
    def reached(self) -> float:
        """The overlap of its own ring."""
        return self.overlap(self.ring)

    @classmethod
    def of(cls, outline: Outline, before: Ring | None) -> _Part:
        low, high = outline[0].min(axis=0), outline[0].max(axis=0)
        margin = 1 + (high - low).max() / 4
        scale = min(1.0, COMPARED / float((high - low).max() + 2 * margin))
        width, height = (int(np.ceil((extent + 2 * margin) * scale)) for extent in high - low)
        place = (float(low[0] - margin), float(low[1] - margin), scale)
        return cls(_ring(outline, before), np.packbits(_filled(outline, place, (height, width))), (height, width), place)

    def overlap(self, ring: Ring) -> float:
        """The IoU of a ring with what is there."""
        count = self.shape[0] * self.shape[1]
        real = np.unpackbits(self.picture, count=count).reshape(self.shape).astype(np.bool_)
        drawn = _filled([ring.path], self.place, self.shape)
        return float((real & drawn).sum()) / max(float((real | drawn).sum()), 1.0)


def _outlines(mask: BoolArray) -> list[Outline]:
    """The parts of a mask ``(H, W)`` that are large enough, the largest first."""
    box = mask_box(mask)
    if box is None:
        return []
    x0, y0, x1, y1 = box
    cut = mask[y0:y1, x0:x1].astype(np.uint8)
    fine = cv2.resize(cut, None, fx=FINE, fy=FINE, interpolation=cv2.INTER_NEAREST)
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    areas = [cv2.contourArea(contour) for contour in contours]
    least = max(SMALLEST_SHARE * sum(areas), 1.0)
    large = sorted((k for k, area in enumerate(areas) if area >= least), key=lambda k: -areas[k])
    outer = [k for k in large if hierarchy[0, k, 3] < 0] or [int(np.argmax(areas))]
    inner = {part: [k for k in large if hierarchy[0, k, 3] == part][:MOST_HOLES] for part in outer}
    return [[(contours[k][:, 0] + 0.5) / FINE + (x0, y0) for k in (part, *inner[part])] for part in outer[:MOST_PARTS]]


def _continue(slots: list[dict[int, _Part]], frame: int, outlines: Sequence[Outline]) -> None:
    """Give each part of a frame to the slot whose part of the frame before it overlaps most, or else to one that is free."""
    before = {number: parts[frame - 1] for number, parts in enumerate(slots) if frame - 1 in parts}
    pairs = sorted(
        ((part.overlap(Ring(outline[0])), number, k) for number, part in before.items() for k, outline in enumerate(outlines)),
        reverse=True,
    )
    found: dict[int, int] = {}
    for overlap, number, k in pairs:
        if overlap > 0 and k not in found and number not in found.values():
            found[k] = number
    for k, outline in enumerate(outlines):
        free = (number for number in range(len(slots) + 1) if number not in found.values())
        number = found.setdefault(k, next(free))
        if number == len(slots):
            slots.append({})
        last = slots[number][max(slots[number])].ring if slots[number] else None
        slots[number][frame] = _Part.of(outline, last)


def _ring(outline: Outline, before: Ring | None) -> Ring:
    """A part's ring, which goes on from the last one of its slot; a first one starts where it is nearest to its first hole."""
    around, holes = outline[0], list(outline[1:])
    start = None if before is None else before.outline
    if start is None and holes:
        start = np.repeat(around[[_nearest(around, holes[0])]], VERTICES, axis=0)
    edge = _spaced(around, VERTICES, start)
    known = () if before is None else before.holes
    kept = [min(holes, key=lambda hole: float(np.hypot(*(hole.mean(axis=0) - old.mean(axis=0))))) for old in known if holes]
    ordered = [hole for k, hole in enumerate(kept) if all(hole is not other for other in kept[:k])]
    ordered += [hole for hole in holes if all(hole is not other for other in ordered)]
    return Ring(
        edge,
        tuple(
            _spaced(hole, HOLE_VERTICES, known[k] if k < len(known) else np.repeat(edge[:1], HOLE_VERTICES, axis=0))
            for k, hole in enumerate(ordered)
        ),
    )


def _nearest(around: FloatArray, hole: FloatArray) -> int:
    """Which of the points of an outline is nearest to a hole."""
    return int(np.hypot(*(around[:, None] - hole[None, :: max(1, len(hole) // 64)]).transpose(2, 0, 1)).min(axis=1).argmin())


def _spaced(points: FloatArray, count: int, before: FloatArray | None) -> FloatArray:
    """``count`` points at equal distances along a closed outline ``(P, 2)``, from where they are nearest to those before, but
    for the way that all of them went. Where those are one point, the first is the nearest to that.
    """
    closed = np.concatenate([points, points[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    steps = np.arange(count * FINER) / (count * FINER) * along[-1]
    fine = np.stack([np.interp(steps, along, closed[:, axis]) for axis in (0, 1)], axis=1)
    if before is None:
        return fine[::FINER]
    if np.ptp(before, axis=0).max() == 0:
        return np.roll(fine, -int(np.hypot(*(fine - before[0]).T).argmin()), axis=0)[::FINER]
    centred = (fine - fine.mean(axis=0)) @ (1, 1j)
    wanted = (before - before.mean(axis=0)) @ (1, 1j)
    turns = (np.arange(count) * FINER + np.arange(count * FINER)[:, None]) % (count * FINER)
    best: FloatArray = fine[turns[int((centred[turns] @ wanted.conj()).real.argmax())]]
    return best


def _keyframes(parts: Mapping[int, _Part], least_iou: float, fixed: Collection[int]) -> Iterator[RingKeyframe]:
    """The keyframes of one slot; where a hole comes or goes there is one on either side."""
    holes = {frame: len(part.ring.holes) for frame, part in parts.items()}
    changes = {at for frame in parts if holes.get(frame - 1, holes[frame]) != holes[frame] for at in (frame - 1, frame)}
    for frame, enabled in keyframe_numbers(parts, {*fixed, *changes}, partial(_holds, parts, least_iou)):
        yield RingKeyframe(frame, parts[frame].ring, enabled)


def _holds(parts: Mapping[int, _Part], least_iou: float, first: int, last: int) -> bool:
    """Whether the player's rings between two frames overlap what is there."""
    start, end = parts[first].ring, parts[last].ring
    if len(start.holes) != len(end.holes):
        return last == first + 1
    for frame in range(first + 1, last):
        part, ring = parts[frame], moved(start, end, (frame - first) / (last - first))
        if part.overlap(ring) < min(least_iou + SAFETY, part.reached - WITHIN):
            return False
    return True


def _filled(rings: Sequence[FloatArray], place: tuple[float, float, float], shape: tuple[int, int]) -> BoolArray:
    """Closed outlines, filled by the even-odd rule, on a picture."""
    x, y, scale = place
    points = [np.round(((ring - (x, y)) * scale - 0.5) * 16).astype(np.int32) for ring in rings]
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, points, 1, cv2.LINE_8, 4)
    return canvas.astype(np.bool_)
