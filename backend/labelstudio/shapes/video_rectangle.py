"""Boxes through a video, as ``<VideoRectangle>`` stores them: keyframes of Label Studio's frames, in percent.

A keyframe of ours says under ``maskloom`` which frame and box it was written for. Where the page changes a box or sets a new
one, that no longer holds: the keyframe is the annotator's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from backend.labelstudio.shapes.base import mappings
from backend.values.errors import RequestError
from backend.video.keyframes import LEAST_IOU, Box, Keyframe, keyframes_of, shown_boxes
from backend.video.timeline import Timeline
from prompts.geometry import Size

Json = Mapping[str, Any]
SEAL = "maskloom"
OPEN = " open"
"""What the seal of a keyframe ends with after which following was not done yet when it was written."""
MOST_KEYFRAMES = 1_000_000


@dataclass(frozen=True, slots=True)
class BoxKeyframe:
    """One item of a sequence: Label Studio's ``frame``, from 1, its ``box`` in percent, whether the box goes on after it, and
    whether a person set it; ``item`` is what the page stores.
    """

    frame: int
    box: Box
    enabled: bool
    is_given: bool
    is_open: bool = False
    item: Json = field(default_factory=dict, compare=False, repr=False)


def read(value: Json) -> tuple[BoxKeyframe, ...]:
    """The keyframes of a region, by frame. Raises RequestError for a value that cannot be read and for turned boxes."""
    found = {keyframe.frame: keyframe for keyframe in map(_read_item, mappings(value.get("sequence")))}
    if not found:
        raise RequestError(f"expected keyframes under 'sequence', got {value!r:.200}")
    return tuple(found[frame] for frame in sorted(found))


def left_open(items: Sequence[Json]) -> list[Json]:
    """Items of a region that is not followed to its end yet: the last of ours says so."""
    ours = max((place for place, item in enumerate(items) if not _read_item(item).is_given), default=-1)
    return [{**item, SEAL: item[SEAL] + OPEN} if place == ours else item for place, item in enumerate(items)]


def boxes_between(keyframes: Sequence[BoxKeyframe], length: int) -> dict[int, Box]:
    """The boxes in percent that the player shows, by Label Studio's frame up to ``length``."""
    return shown_boxes([Keyframe(each.frame, each.box, each.enabled) for each in keyframes], length)


def to_pixels(box: Box, size: Size) -> Box:
    """A box in percent in pixels of the upright picture, within it."""
    across, down = size.width / 100, size.height / 100
    x0, y0, x1, y1 = box
    columns = [min(max(x * across, 0.0), float(size.width)) for x in (x0, x1)]
    rows = [min(max(y * down, 0.0), float(size.height)) for y in (y0, y1)]
    return columns[0], rows[0], columns[1], rows[1]


def to_percent(box: Box, size: Size) -> Box:
    """A box in pixels in percent."""
    x0, y0, x1, y1 = box
    across, down = 100 / size.width, 100 / size.height
    return x0 * across, y0 * down, x1 * across, y1 * down


def numbered(by_file: Mapping[int, Box], timeline: Timeline, frame_rate: Fraction) -> dict[int, Box]:
    """Boxes by the file's frame as boxes by Label Studio's frame, for each that shows one."""
    shown = {number: timeline.from_studio(number, frame_rate) for number in range(1, timeline.studio_length(frame_rate) + 1)}
    return {number: by_file[frame] for number, frame in shown.items() if frame in by_file}


def write_keyframes(
    boxes: Mapping[int, Box], rate: Fraction, fixed: Collection[int] = (), least: float = LEAST_IOU
) -> list[Json]:
    """Few items for boxes in percent by Label Studio's frame: between them the player's box overlaps each by at least
    ``least``; there is one on each ``fixed`` frame.
    """
    return [_write_item(keyframe, rate) for keyframe in keyframes_of(boxes, least, fixed)]


def write_value(items: Iterable[Json], timeline: Timeline, frame_rate: Fraction) -> dict[str, Any]:
    """The ``value`` of a region, without its label."""
    length = timeline.studio_length(frame_rate)
    return {"framesCount": length, "duration": timeline.duration, "sequence": [dict(item) for item in items]}


def _write_item(keyframe: Keyframe, rate: Fraction) -> Json:
    x0, y0, x1, y1 = keyframe.box
    box = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
    head = {"frame": keyframe.frame, "enabled": keyframe.enabled, "rotation": 0, "time": keyframe.frame / float(rate)}
    return {**head, **box, SEAL: _seal(keyframe.frame, box)}


def _read_item(item: Json) -> BoxKeyframe:
    try:
        frame, rotation = int(item["frame"]), float(item.get("rotation") or 0)
        box = {name: float(item[name]) for name in ("x", "y", "width", "height")}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RequestError(f"expected a keyframe with frame, x, y, width and height, got {item!r:.200}") from error
    if rotation:
        raise RequestError(f"the box on frame {frame} is turned, which cannot be followed; set its rotation to 0")
    if not 1 <= frame <= MOST_KEYFRAMES or not all(abs(number) <= 1e6 for number in box.values()):
        raise RequestError(f"expected a frame from 1 and a box in percent, got {item!r:.200}")
    corners = (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])
    sealed, seal = item.get(SEAL), _seal(frame, box)
    is_open = sealed == seal + OPEN
    return BoxKeyframe(frame, corners, item.get("enabled") is not False, sealed != seal and not is_open, is_open, item)


def _seal(frame: int, box: Mapping[str, float]) -> str:
    return f"{frame} " + " ".join(f"{box[name]:.4f}" for name in ("x", "y", "width", "height"))
