"""Few keyframes, and Label Studio's player still shows every box: its rule, ported from its source, is the oracle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.shapes import video_rectangle
from backend.values.errors import RequestError
from backend.video.keyframes import Box, keyframes_of, overlap
from backend.video.timeline import Timeline
from backend.video.tracks import FrameMask
from prompts.geometry import BoolArray, Size

SIZE = Size(240, 400)
COUNT = 96


def player_shows(sequence: Sequence[Mapping[str, Any]], frame: int) -> Box | None:
    """A port of VideoRectangle's lifespan and interpolation, in percent: the last keyframe at or before a frame decides whether
    there is a box, and each property runs linearly to the next one.
    """
    before = [item for item in sequence if item["frame"] <= frame]
    after = [item for item in sequence if item["frame"] > frame]
    if not before or (not before[-1]["enabled"] and before[-1]["frame"] != frame):
        return None
    start, shape = before[-1], {}
    for name in ("x", "y", "width", "height"):
        shape[name] = start[name]
        if after and start["frame"] != frame:
            share = (frame - start["frame"]) / (after[0]["frame"] - start["frame"])
            shape[name] += (after[0][name] - start[name]) * share
    return shape["x"], shape["y"], shape["x"] + shape["width"], shape["y"] + shape["height"]


def disc(x: float, y: float, radius: float) -> BoolArray:
    rows, columns = np.indices((SIZE.height, SIZE.width))
    mask: BoolArray = np.hypot(columns - x, rows - y) < radius
    return mask


def bar(x: float, y: float, degrees: float) -> BoolArray:
    canvas = np.zeros((SIZE.height, SIZE.width), np.uint8)
    corners = cv2.boxPoints(((x, y), (120.0, 60.0), degrees))
    cv2.fillConvexPoly(canvas, np.round(corners).astype(np.int32), 1)
    return canvas.astype(np.bool_)


SHAPES: dict[str, Callable[[int], BoolArray]] = {
    "moving": lambda k: disc(60 + 3 * k, 120 + 20 * math.sin(k / 30), 45),
    "scaling": lambda k: disc(200, 120, 40 + 0.7 * k),
    "rotating": lambda k: bar(200, 120, k * 1.5),
    "splitting": lambda k: disc(200 - max(0, k - 30) * 1.2, 120, 50) | disc(200 + max(0, k - 30) * 1.2, 120, 50),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_the_player_shows_every_frame_from_an_eighth_of_them(name: str) -> None:
    masks = [SHAPES[name](k) for k in range(COUNT)]
    timeline = Timeline(np.arange(COUNT) / 24, COUNT / 24)

    value = written(dict(enumerate(masks)), timeline)

    sequence = value["sequence"]
    assert value["framesCount"] == COUNT
    assert len(sequence) <= COUNT // 8
    for k, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        truth = (columns.min() / 4.0, rows.min() / 2.4, (columns.max() + 1) / 4.0, (rows.max() + 1) / 2.4)
        shown = player_shows(sequence, k + 1)
        assert shown is not None
        assert overlap(shown, truth) >= 0.95


@given(st.dictionaries(st.integers(0, 60), st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=50))
def test_every_box_holds_the_bound_and_gaps_stay_empty(corners: dict[int, tuple[int, int]]) -> None:
    boxes: dict[int, Box] = {frame: (x, y, x + 20.0, y + 30.0) for frame, (x, y) in corners.items()}

    sequence = [
        {"frame": one.frame, "enabled": one.enabled, "x": one.box[0], "y": one.box[1], "width": 20.0, "height": 30.0}
        for one in keyframes_of(boxes)
    ]

    for frame in range(-1, 63):
        shown = player_shows(sequence, frame)
        assert (shown is not None) == (frame in boxes)
        if shown is not None:
            assert overlap(shown, boxes[frame]) >= 0.95 - 1e-9


def test_a_film_of_another_rate_is_written_on_the_frames_that_label_studio_shows() -> None:
    """Sixty frames of 30 a second at frameRate 24: number n of Label Studio shows the frame at (n - 1) / 24 seconds."""
    timeline = Timeline(np.arange(60) / 30, 2.0)

    sequence = written({k: disc(60 + 4 * k, 120, 40) for k in range(10, 50)}, timeline)["sequence"]

    for number in range(1, 49):
        frame = int((number - 1) / 24 * 30 + 0.02)
        shown = player_shows(sequence, number)
        assert (shown is not None) == (10 <= frame < 50)
        if shown is not None:
            assert (shown[0] + shown[2]) / 2 * 4 == pytest.approx(60.5 + 4 * frame, abs=3)


def test_a_drawn_box_is_read_back_and_a_turned_one_is_refused() -> None:
    item = {"frame": 3, "x": 25, "y": 50, "width": 50, "height": 25, "rotation": 0, "enabled": True}

    (keyframe,) = video_rectangle.read({"sequence": [item]})
    assert (keyframe.frame, keyframe.enabled, keyframe.is_given) == (3, True, True)
    assert video_rectangle.to_pixels(keyframe.box, SIZE) == (100, 120, 300, 180)
    for value, sentence in (
        ({"sequence": [{**item, "rotation": 12}]}, "frame 3 is turned"),
        ({"sequence": [{"frame": 1}]}, "expected a keyframe"),
        ({"sequence": [{**item, "frame": 0}]}, "a frame from 1"),
        ({"sequence": "x"}, "expected keyframes"),
        ({}, "expected keyframes"),
    ):
        with pytest.raises(RequestError, match=sentence):
            video_rectangle.read(value)


def test_a_keyframe_of_ours_is_told_from_one_that_the_annotator_moved_copied_or_set() -> None:
    """As the page does it: ``{...next item, ...new box, frame}``, which carries our own words along."""
    (ours,) = written({5: disc(100, 120, 40)}, Timeline(np.arange(9) / 24, 9 / 24))["sequence"]

    for item, is_given in (
        (ours, False),
        ({**ours, "time": 9.0, "enabled": True}, False),
        ({**ours, "x": ours["x"] + 0.5}, True),
        ({**ours, "frame": 4}, True),
    ):
        assert video_rectangle.read({"sequence": [item]})[0].is_given is is_given


def test_a_keyframe_is_set_on_every_fixed_frame() -> None:
    boxes: dict[int, Box] = {frame: (frame, 0.0, frame + 20.0, 20.0) for frame in range(1, 41)}

    assert [each.frame for each in keyframes_of(boxes)] == [1, 40]
    assert [each.frame for each in keyframes_of(boxes, fixed={7, 8, 60})] == [1, 7, 8, 40]


def written(masks: Mapping[int, BoolArray], timeline: Timeline) -> dict[str, Any]:
    """The value of an object's region, by masks on frames of the file, at 24 frames a second."""
    boxes = {k: box for k, mask in masks.items() if (box := FrameMask.of(mask, 1.0).box()) is not None}
    percent = {
        k: video_rectangle.to_percent((float(a), float(b), float(c), float(d)), SIZE) for k, (a, b, c, d) in boxes.items()
    }
    items = video_rectangle.write_keyframes(video_rectangle.numbered(percent, timeline, Fraction(24)), Fraction(24))
    return video_rectangle.write_value(items, timeline, Fraction(24))
