"""Few keyframes for what moves, between which Label Studio's own interpolation keeps a stated overlap on every frame."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""``(x0, y0, x1, y1)`` in any unit."""
LEAST_IOU = 0.95


@dataclass(frozen=True, slots=True)
class Keyframe:
    """A box that is set on a frame; ``enabled`` while it goes on to the next keyframe, else it is the last of its span."""

    frame: int
    box: Box
    enabled: bool


def interpolated(start: Keyframe, end: Keyframe, frame: int) -> Box:
    """The box that Label Studio shows between two keyframes: each side linear in the frame's number (1.23, VideoRectangle)."""
    share = (frame - start.frame) / (end.frame - start.frame)
    x0, y0, x1, y1 = (low + share * (high - low) for low, high in zip(start.box, end.box, strict=True))
    return x0, y0, x1, y1


def keyframes_of(boxes: Mapping[int, Box], least_iou: float = LEAST_IOU, fixed: Collection[int] = ()) -> list[Keyframe]:
    """Keyframes for boxes by frame, each on a box as it is, from which every box in between is interpolated with at least
    ``least_iou``; one on each ``fixed`` frame that has a box. Frames that are missing between two others are shown without one.
    """
    numbers = keyframe_numbers(boxes, fixed, lambda first, last: _holds(boxes, first, last, least_iou))
    return [Keyframe(frame, boxes[frame], enabled) for frame, enabled in numbers]


Holds = Callable[[int, int], bool]
"""Whether all frames between two are right when what is shown on them is interpolated between the two."""


def keyframe_numbers(frames: Collection[int], fixed: Collection[int], holds: Holds) -> Iterator[tuple[int, bool]]:
    """The frames of something to set as keyframes, and whether it goes on to the next one or is gone after it.

    Each keyframe is followed by the farthest one that keeps the bound, sought in steps that double and then halve.
    """
    ordered, stops = sorted(frames), frozenset(fixed)
    at = 0
    while at < len(ordered):
        last = at
        while last + 1 < len(ordered) and ordered[last + 1] == ordered[last] + 1:
            last += 1
        yield from _span(ordered[at : last + 1], stops, holds)
        at = last + 1


def shown_boxes(keyframes: Sequence[Keyframe], length: int) -> dict[int, Box]:
    """The boxes that the player shows on the frames 1 to ``length``, by frame (1.23, VideoRegion's lifespan)."""
    found: dict[int, Box] = {}
    for start, end in zip(keyframes, [*keyframes[1:], None], strict=True):
        found[start.frame] = start.box
        stop = length + 1 if end is None else end.frame
        for frame in range(start.frame + 1, stop if start.enabled else start.frame):
            found[frame] = start.box if end is None else interpolated(start, end, frame)
    return {frame: box for frame, box in found.items() if 1 <= frame <= length}


def overlap(left: Box, right: Box) -> float:
    """The IoU of two boxes."""
    width = min(left[2], right[2]) - max(left[0], right[0])
    height = min(left[3], right[3]) - max(left[1], right[1])
    shared = max(0.0, width) * max(0.0, height)
    union = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (left, right)) - shared
    return shared / union if union > 0 else 0.0


def _span(frames: Sequence[int], stops: frozenset[int], holds: Holds) -> Iterator[tuple[int, bool]]:
    """The keyframes of a run of frames without a gap."""
    first, last = frames[0], frames[-1]
    here = first
    yield first, first != last
    for stop in [*(frame for frame in frames if frame in stops and first < frame < last), last]:
        while here < stop:
            here = _farthest(here, stop, holds)
            yield here, here != last


def _farthest(here: int, last: int, holds: Holds) -> int:
    """The last frame to which the bound holds from a keyframe."""
    if holds(here, last):
        return last
    reach = 1
    while here + 2 * reach <= last and holds(here, here + 2 * reach):
        reach *= 2
    step = reach // 2
    while step:
        if here + reach + step <= last and holds(here, here + reach + step):
            reach += step
        step //= 2
    return here + reach


def _holds(boxes: Mapping[int, Box], first: int, last: int, least_iou: float) -> bool:
    start, end = Keyframe(first, boxes[first], True), Keyframe(last, boxes[last], True)
    return all(overlap(interpolated(start, end, frame), boxes[frame]) >= least_iou for frame in range(first + 1, last))
