"""How tracks become a prediction in Label Studio's words: a VideoRectangle or rings of a VideoVector for each object,
and spans of the timeline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from backend.labelstudio.request.typed import tell
from backend.labelstudio.request.video import (
    BOXES,
    LABELLED_RINGS,
    TIMELINE,
    FilmInteraction,
    FilmRegion,
    FilmRequest,
    VideoLabels,
)
from backend.labelstudio.shapes.base import OURS, Answer, new_id, region_kind, write_empty
from backend.labelstudio.shapes.video_rectangle import (
    boxes_between,
    numbered,
    to_percent,
    to_pixels,
    write_keyframes,
    write_value,
)
from backend.labelstudio.tags import ControlTag
from backend.video.keyframes import Box
from backend.video.rings import RingKeyframe, ring_keyframes
from backend.video.timeline import Timeline
from backend.video.tracks import Barrier, Known, Track, Tracks, doubtful, doubts_of, masks_to_bytes
from prompts.geometry import Size, pixels_to_percent

DOUBT, PER_FRAME = 0.5, 0.1
"""The uncertainty of a film with one doubtful frame, and what each further one adds."""
LOOK_AT = "look at frames"
"""How a region's note begins that tells on which frames a person should look first."""
Followed = Sequence[tuple[FilmRegion, Sequence[Mapping[str, Any]], Sequence[int]]]
"""Drawn boxes, each with the items of its sequence and the doubtful frames of the file."""


@dataclass(frozen=True, slots=True)
class Clock:
    """A film's time as a project sees it."""

    timeline: Timeline
    rate: Fraction

    @property
    def length(self) -> int:
        """How many frames Label Studio counts."""
        return self.timeline.studio_length(self.rate)


def write_tracks(task: FilmRequest, tracks: Tracks, clock: Clock, model_version: str) -> Answer:
    """The prediction of what was found in a film: each object as a box through time, each name's presence on the timeline."""
    result = [region for track in tracks.tracks for region in _write_track(task.labels, track, clock, region_of(task, track))]
    result += _write_spans(task.labels, tracks, clock)
    scores = [mask.score for track in tracks.tracks for mask in track.masks.values()]
    score = sum(scores) / len(scores) if scores else 0.0
    return {"result": result, "score": round(score, 6), "model_version": model_version}


def region_of(task: FilmRequest, track: Track) -> str:
    """The id of the region that a track is answered with; the same track of the same task has the same."""
    facts = repr((task.project, task.task_id, track.object_id, track.label)).encode(errors="surrogatepass")
    return f"{OURS}{hashlib.blake2b(facts + masks_to_bytes(track.masks), digest_size=5).hexdigest()}"


def write_followed(task: FilmInteraction, followed: Followed, clock: Clock, model_version: str) -> Answer:
    """The drawn boxes with their new keyframes, under their own ids, which replaces them in the page."""
    boxes = task.labels.boxes
    result = []
    for region, items, doubts in followed:
        labelled = {} if region.label is None else {"labels": [region.label]}
        value = {**write_value(items, clock.timeline, clock.rate), **labelled}
        head = {"from_name": boxes.name if boxes else "", "to_name": task.labels.name, "type": BOXES}
        result.append({"id": region.id, **head, **_look_at(doubts, clock), "value": value})
    return {"result": result, "score": 0.0, "model_version": model_version}


def _look_at(frames: Sequence[int], clock: Clock) -> Answer:
    """What a region tells about frames of the file that are doubtful, in Label Studio's numbers."""
    numbers = ", ".join(str(clock.timeline.to_studio(frame, clock.rate)) for frame in frames)
    return {"meta": {"text": [f"{LOOK_AT} {numbers}"]}} if numbers else {}


def frames_to_look_at(result: Sequence[Mapping[str, Any]]) -> list[int]:
    """Label Studio's frames that the regions of a prediction are doubtful on, each once."""
    texts = [text for region in result for text in (region.get("meta") or {}).get("text") or () if isinstance(text, str)]
    told = [text.removeprefix(LOOK_AT) for text in texts if text.startswith(LOOK_AT)]
    return sorted({int(number) for each in told for number in each.split(",") if number.strip().isdecimal()})


def rank_film(result: Sequence[Mapping[str, Any]]) -> tuple[float, str] | None:
    """How much a film's prediction needs a person, in 0..1, and why: the frames to look at, or its least sure track; None for
    a prediction that has no track.
    """
    tracks = [region for region in result if region_kind(region) in ("videorectangle", "videovector")]
    if not tracks:
        return None
    frames = frames_to_look_at(tracks)
    scores = [min(max(float(region.get("score") or 0.0), 0.0), 1.0) for region in tracks]
    unsure = max(1 - abs(2 * score - 1) for score in scores)
    if frames:
        told = ", ".join(map(str, frames))
        return round(max(unsure, min(1.0, DOUBT + PER_FRAME * (len(frames) - 1))), 4), f"{LOOK_AT} {told}"
    return round(unsure, 4), f"a track has a score of {min(scores):.2f}"


def write_note(task: FilmRequest, text: str, model_version: str, result: Sequence[Answer] = ()) -> Answer:
    """A sentence for the annotator in the video's TextArea, after a result; without a TextArea the result alone."""
    told = (
        tell(task.labels.text_areas, task.labels.name, text, model_version)
        if task.labels.text_areas
        else write_empty(model_version)
    )
    return {**told, "result": [*result, *told["result"]]}


def refined_keyframes(region: FilmRegion, changed: Mapping[int, Box | None], clock: Clock, size: Size) -> list[Answer]:
    """A region's items after some frames of the file were followed anew: ``changed`` are their boxes in pixels, None where it
    is not there. What a person set stays as it is, and so does everything on other frames, to the letter. A box does not go on
    after its last keyframe.
    """
    given = {each.frame for each in region.keyframes if each.is_given}
    shown = boxes_between(region.keyframes, region.keyframes[-1].frame)
    anew = {number: box for number, box in _in_studio(changed, clock, size).items() if number not in given}
    boxes = {number: box for number, box in shown.items() if number not in anew}
    boxes |= {number: box for number, box in anew.items() if box is not None}
    edges = {n for n in boxes if len({n - 1 in anew, n in anew, n + 1 in anew}) == 2}
    kept = {each.frame: each.item for each in region.keyframes if each.frame not in anew}
    fresh = write_keyframes(boxes, clock.rate, {*edges, *kept})
    return [{**kept.get(item["frame"], item), "enabled": item["enabled"]} for item in fresh]


def known_of(region: FilmRegion, clock: Clock, size: Size) -> Known:
    """What a region has from us: boxes between two keyframes of which one at least is ours, firm where nobody touched them."""
    boxes: dict[int, Box] = {}
    firm: set[int] = set()
    for start, end in [*pairwise(region.settled), (region.settled[-1],) * 2]:
        if not (start.is_given and end.is_given):
            between = boxes_between([start, end], end.frame) if start is not end else {start.frame: start.box}
            numbers = {n: clock.timeline.from_studio(n, clock.rate) for n in between}
            boxes |= {numbers[n]: to_pixels(box, size) for n, box in between.items()}
            ours = {each.frame for each in (start, end) if not each.is_given}
            firm |= {numbers[n] for n in between if len(ours) == 2 or start is end or n in ours}
    return Known(boxes, frozenset(firm))


def barriers_of(region: FilmRegion, clock: Clock, size: Size) -> list[Barrier]:
    """What a person set of a region, or its first keyframe where nobody set any; by frame of the file, each once."""
    given = [each for each in region.keyframes if each.is_given] or [region.keyframes[0]]
    found: dict[int, Barrier] = {}
    for each in given:
        frame = clock.timeline.from_studio(each.frame, clock.rate)
        found[frame] = Barrier(frame, to_pixels(each.box, size))
        if not each.enabled and frame + 1 < len(clock.timeline):
            found.setdefault(frame + 1, Barrier(frame + 1, None))
    return [found[frame] for frame in sorted(found)]


def _in_studio(changed: Mapping[int, Box | None], clock: Clock, size: Size) -> dict[int, Box | None]:
    """Boxes in percent by Label Studio's frame."""
    shown = ((n, clock.timeline.from_studio(n, clock.rate)) for n in range(1, clock.length + 1))
    return {n: None if (box := changed[frame]) is None else to_percent(box, size) for n, frame in shown if frame in changed}


def _write_track(labels: VideoLabels, track: Track, clock: Clock, name: str) -> Iterator[Answer]:
    """A track as rings where the config has a tag for them with its label, else as a box."""
    for control, values_of in ((labels.rings, _ring_values), (labels.boxes, _box_values)):
        named = None if control is None else _named(labels, control, track)
        if control is not None and named is not None:
            score = sum(mask.score for mask in track.masks.values()) / max(len(track.masks), 1)
            told = _look_at(doubtful(doubts_of(track)), clock)
            head = {**_head(labels, control.name, control.type), **told, "score": round(score, 6)}
            for number, value in enumerate(values_of(track, clock)):
                yield {**head, "id": name if number == 0 else new_id(), "value": {**value, **named}}
            return


def _named(labels: VideoLabels, control: ControlTag, track: Track) -> dict[str, list[str]] | None:
    """A track's label as a region of a tag has it, empty where it has none; None where the tag does not have the label."""
    if track.label is None:
        return {}
    of_type = LABELLED_RINGS if control.type == LABELLED_RINGS else "labels"
    label = labels.value_of(track.label, of_type)
    return None if label is None else {of_type: [label]}


def _box_values(track: Track, clock: Clock) -> Iterator[Answer]:
    by_file = {frame: to_percent(box, mask.size) for frame, mask in track.masks.items() if (box := mask.box()) is not None}
    items = write_keyframes(numbered(by_file, clock.timeline, clock.rate), clock.rate)
    if items:
        yield write_value(items, clock.timeline, clock.rate)


def _ring_values(track: Track, clock: Clock) -> Iterator[Answer]:
    """A region's value for each part of an object that there is at a time, the largest first."""
    shown = ((n, clock.timeline.from_studio(n, clock.rate)) for n in range(1, clock.length + 1))
    masks = {n: track.masks[frame] for n, frame in shown if frame in track.masks}
    for keyframes in ring_keyframes(masks):
        items = [_ring_item(each, masks[each.frame].size, clock.rate) for each in keyframes]
        yield write_value(items, clock.timeline, clock.rate)


def _ring_item(keyframe: RingKeyframe, size: Size, rate: Fraction) -> Answer:
    """A keyframe as the page stores it: vertices in percent, each with the one before it."""
    names, path = keyframe.ring.names, pixels_to_percent(keyframe.ring.path, size)
    vertices = [
        {"id": name, "prevPointId": before, "x": round(x, 4), "y": round(y, 4), "isBezier": False}
        for name, before, (x, y) in zip(names, [None, *names], path.tolist(), strict=False)
    ]
    head = {"frame": keyframe.frame, "enabled": keyframe.enabled, "time": keyframe.frame / float(rate)}
    return {**head, "closed": True, "vertices": vertices}


def _write_spans(labels: VideoLabels, tracks: Tracks, clock: Clock) -> Iterator[Answer]:
    """Where each name is present, one region for each span."""
    timeline = labels.timeline
    for name in dict.fromkeys(track.label for track in tracks.tracks if track.label):
        label = labels.value_of(name, TIMELINE)
        frames = {frame for track in tracks.tracks if track.label == name for frame in track.masks}
        numbers = [n for n in range(1, clock.length + 1) if clock.timeline.from_studio(n, clock.rate) in frames]
        for start, end in _spans(numbers) if timeline and label else ():
            value = {"ranges": [{"start": start, "end": end}], TIMELINE: [label]}
            yield {**_head(labels, timeline.name, TIMELINE), "value": value} if timeline else {}


def _spans(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs ``(first, last)`` of rising numbers."""
    starts = [k for k, number in enumerate(numbers) if k == 0 or numbers[k - 1] != number - 1]
    for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True):
        yield numbers[start], numbers[stop - 1]


def _head(labels: VideoLabels, control: str, of_type: str) -> Answer:
    return {"id": new_id(), "from_name": control, "to_name": labels.name, "type": of_type}
