"""Few keyframes of rings, and Label Studio's player shows every outline: its rule, ported from its source, is the oracle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest

from backend.labelstudio.request.video import FilmPreannotation, read_videos
from backend.labelstudio.video_answer import Clock, write_tracks
from backend.video.timeline import Timeline
from backend.video.tracks import FrameMask, Track, Tracks
from prompts.geometry import BoolArray
from tests.backend.video.test_keyframes import SIZE, bar, disc

pytestmark = pytest.mark.slow

COUNT = 96
CONFIG = '<View><Video name="v" value="$v"/><VideoVectorLabels name="r" toName="v" closable="true"><Label value="cup"/>'
XML = CONFIG + "</VideoVectorLabels></View>"


def player_shows(sequence: Sequence[Mapping[str, Any]], frame: int) -> list[tuple[float, float]] | None:
    """A port of VideoVectorRegion: the vertices of the last keyframe, each on its straight way to that of its id in the next;
    one without a partner stays. The lifespan is that of every region in a video.
    """
    before = [item for item in sequence if item["frame"] <= frame]
    after = [item for item in sequence if item["frame"] > frame]
    if not before or (not before[-1]["enabled"] and before[-1]["frame"] != frame):
        return None
    start, ends = before[-1], {}
    if after and start["frame"] != frame:
        ends = {vertex["id"]: vertex for vertex in after[0]["vertices"]}
    shown = []
    for vertex in start["vertices"]:
        x, y, end = vertex["x"], vertex["y"], ends.get(vertex["id"])
        if end is not None:
            share = (frame - start["frame"]) / (after[0]["frame"] - start["frame"])
            x, y = x + (end["x"] - x) * share, y + (end["y"] - y) * share
        shown.append((x, y))
    return shown


def filled(path: Sequence[tuple[float, float]]) -> BoolArray:
    """What a canvas fills of a closed path in percent."""
    points = np.array(path) * (SIZE.width / 100, SIZE.height / 100)
    canvas = np.zeros((SIZE.height, SIZE.width), np.uint8)
    cv2.fillPoly(canvas, [np.round((points - 0.5) * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    return canvas.astype(np.bool_)


SHAPES: dict[str, Callable[[int], BoolArray]] = {
    "moving": lambda k: disc(60 + 3 * k, 120 + 20 * math.sin(k / 30), 45),
    "scaling": lambda k: disc(200, 120, 40 + 0.7 * k),
    "rotating": lambda k: bar(200, 120, k * 1.5),
    "splitting": lambda k: disc(200 - max(0, k - 30) * 1.2, 120, 50) | disc(200 + max(0, k - 30) * 1.2, 120, 50),
    "rolling ring": lambda k: disc(80 + 2 * k, 120, 60) & ~disc(80 + 2 * k + 12 * math.cos(k / 20), 120, 25),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_player_shows_every_outline_from_an_eighth_of_the_frames(name: str) -> None:
    masks = [SHAPES[name](k) for k in range(COUNT)]

    regions = written(dict(enumerate(masks)))

    assert {item["frame"] for region in regions for item in region["value"]["sequence"]} <= set(range(1, COUNT + 1))
    assert all(len(region["value"]["sequence"]) <= COUNT // 8 for region in regions)
    for k, mask in enumerate(masks):
        paths = [player_shows(region["value"]["sequence"], k + 1) for region in regions]
        shown = np.logical_or.reduce([filled(path) for path in paths if path is not None])
        assert (shown & mask).sum() / (shown | mask).sum() >= 0.95, k


def test_vertices_keep_their_ids_and_each_names_the_one_before_it() -> None:
    (region,) = written({k: SHAPES["rolling ring"](k) for k in range(COUNT)})

    sequence = region["value"]["sequence"]
    names = [[vertex["id"] for vertex in item["vertices"]] for item in sequence]
    assert len(set(names[0])) == len(names[0])
    assert all(each == names[0] for each in names)
    assert [vertex["prevPointId"] for vertex in sequence[0]["vertices"]] == [None, *names[0][:-1]]
    assert region["type"] == "videovectorlabels"
    assert region["value"]["videovectorlabels"] == ["cup"]
    assert all(item["closed"] is True for item in sequence)


def test_a_second_part_is_a_second_region_while_it_is_there_and_a_gap_stays_empty() -> None:
    masks = {k: disc(100, 120, 40) | (disc(300, 120, 30) if 10 <= k < 20 else False) for k in range(40) if not 28 <= k < 32}

    first, second = (region["value"]["sequence"] for region in written(masks))

    shown = [(player_shows(first, n) is not None, player_shows(second, n) is not None) for n in range(1, 41)]
    assert shown == [(not 28 <= k < 32, 10 <= k < 20) for k in range(40)]


def test_a_hole_that_closes_leaves_a_keyframe_on_either_side() -> None:
    masks = {k: disc(150, 120, 60) & ~disc(150, 120, 25 - k if k < 18 else 0) for k in range(40)}

    (region,) = written(masks)

    counts = {item["frame"]: len(item["vertices"]) for item in region["value"]["sequence"]}
    change = [(a, b) for a, b in zip(sorted(counts), sorted(counts)[1:], strict=False) if counts[a] != counts[b]]
    assert [(b - a, counts[a] > counts[b]) for a, b in change] == [(1, True)]


def written(masks: Mapping[int, BoolArray]) -> list[dict[str, Any]]:
    """The regions of one object, at 24 frames a second."""
    track = Track(1, "cup", {k: FrameMask.of(mask, 0.9) for k, mask in masks.items()})
    (labels,) = read_videos(XML)
    task = FilmPreannotation("1", "2", labels, "film.mp4", Fraction(24))
    clock = Clock(Timeline(np.arange(COUNT) / 24, COUNT / 24), Fraction(24))
    found: list[dict[str, Any]] = write_tracks(task, Tracks(SIZE, COUNT, (track,)), clock, "1")["result"]
    return found
