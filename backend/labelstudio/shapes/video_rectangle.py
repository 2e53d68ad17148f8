"""Boxes through a video, as ``<VideoRectangle>`` stores them: keyframes of Label Studio's frames, in percent."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from backend.values.errors import RequestError
from backend.video.keyframes import LEAST_IOU, Box, keyframes_of
from backend.video.timeline import Timeline
from backend.video.tracks import Track
from prompts.geometry import Size

Json = Mapping[str, Any]


def write(track: Track, timeline: Timeline, frame_rate: Fraction, least_iou: float = LEAST_IOU) -> dict[str, Any]:
    """The ``value`` of a track's region at a config's ``frameRate``, without its label: between keyframes Label Studio's box
    overlaps the mask's by at least ``least_iou`` on every frame that it shows.
    """
    length = timeline.studio_length(frame_rate)
    by_file = {frame: box for frame, mask in track.masks.items() if (box := mask.box()) is not None}
    shown = {number: timeline.from_studio(number, frame_rate) for number in range(1, length + 1)}
    boxes: dict[int, Box] = {number: by_file[frame] for number, frame in shown.items() if frame in by_file}
    sizes = {mask.size for mask in track.masks.values()}
    keyframes = keyframes_of(boxes, least_iou)
    return {
        "framesCount": length,
        "duration": timeline.duration,
        "sequence": [
            {
                "frame": keyframe.frame,
                "enabled": keyframe.enabled,
                "rotation": 0,
                "time": keyframe.frame / float(frame_rate),
                **_in_percent(keyframe.box, next(iter(sizes))),
            }
            for keyframe in keyframes
        ],
    }


def read(value: Json, size: Size) -> dict[int, Box]:
    """The boxes in pixels, by Label Studio's frame, that a region's keyframes set themselves; turned ones are refused.

    Raises RequestError for a value that cannot be read.
    """
    try:
        found = {}
        for item in value["sequence"]:
            if float(item.get("rotation") or 0):
                raise RequestError("a turned box in a video cannot be followed; set its rotation to 0")
            x, y, width, height = (float(item[name]) for name in ("x", "y", "width", "height"))
            across, down = size.width / 100, size.height / 100
            found[int(item["frame"])] = (x * across, y * down, (x + width) * across, (y + height) * down)
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"expected keyframes with frame, x, y, width and height, got {value!r:.200}") from error


def _in_percent(box: Box, size: Size) -> dict[str, float]:
    x0, y0, x1, y1 = box
    across, down = 100 / size.width, 100 / size.height
    return {"x": x0 * across, "y": y0 * down, "width": (x1 - x0) * across, "height": (y1 - y0) * down}
