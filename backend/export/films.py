"""The tracks of a film as annotators submitted them: of boxes the masks that were kept beside, of rings what they surround.

A frame on which no mask is kept, or whose box a person changed since, is asked of the engine, by that box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from backend.export.gather import newest
from backend.labelstudio.shapes.base import label_of, mappings, read_value, region_id, region_kind
from backend.labelstudio.shapes.outlined import read_vector
from backend.labelstudio.shapes.video_rectangle import boxes_between, read, to_pixels
from backend.values.errors import RequestError
from backend.video.annotated import task_of
from backend.video.film import Film
from backend.video.keyframes import Box, overlap
from backend.video.tracks import FrameMask, Track, Tracks
from prompts.geometry import BoolArray
from prompts.kinds import Image

SAME_BOX = 0.9
"""A kept mask whose box overlaps so much with the submitted one is what was submitted: keyframes hold 0.95."""

Json = Mapping[str, Any]
Kept = Callable[[str], Mapping[int, FrameMask]]
"""The masks that are kept of a region, by its id; empty without any."""
Inside = Callable[[Image, Box], BoolArray]
"""The mask ``(H, W)`` of what is in a box in pixels on a frame."""


@dataclass(frozen=True, slots=True)
class SubmittedFilm:
    """What somebody submitted about a film: the ``results`` of the annotation, and the frame rate of the config."""

    film: Film
    results: tuple[Json, ...]
    frame_rate: Fraction

    def tracks(self, kept: Kept, inside: Inside) -> Tracks:
        """One track for each region with a box or a ring through the film, numbered in the order of the annotation.

        Raises RequestError for a region that cannot be read and VideoError for a damaged frame.
        """
        drawn = [item for item in self.results if region_kind(item) in ("videorectangle", "videovector")]
        if not drawn:
            raise RequestError("the annotation has no box and no ring through the film")
        twins = {region_id(item): label_of(item) for item in self.results if item.get("type") == "labels"}
        tracks = [
            Track(number, label_of(item) or twins.get(region_id(item)), self._masks(item, kept))
            for number, item in enumerate(drawn, 1)
        ]
        missing = {
            number: self._missing(item, track) for number, (item, track) in enumerate(zip(drawn, tracks, strict=True), 1)
        }
        asked = self._asked(missing, inside)
        whole = [Track(each.object_id, each.label, {**each.masks, **asked[each.object_id]}) for each in tracks]
        return Tracks(self.film.size, len(self.film), tuple(whole))

    def _masks(self, item: Json, kept: Kept) -> dict[int, FrameMask]:
        if region_kind(item) == "videovector":
            return dict(self._rings(item))
        boxes, given, masks = self._boxes(item), self._given(item), kept(region_id(item))
        return {
            frame: FrameMask(mask.size, mask.counts, mask.score, frame in given)
            for frame, mask in masks.items()
            if frame in boxes and (own := mask.box()) is not None and overlap(own, boxes[frame]) >= SAME_BOX
        }

    def _missing(self, item: Json, track: Track) -> dict[int, tuple[Box, bool]]:
        """The boxes in pixels of frames without a mask, and whether a person set them."""
        if region_kind(item) == "videovector":
            return {}
        given = self._given(item)
        return {frame: (box, frame in given) for frame, box in self._boxes(item).items() if frame not in track.masks}

    def _asked(self, missing: Mapping[int, Mapping[int, tuple[Box, bool]]], inside: Inside) -> dict[int, dict[int, FrameMask]]:
        found: dict[int, dict[int, FrameMask]] = {number: {} for number in missing}
        frames = {frame for boxes in missing.values() for frame in boxes}
        for frame in self.film.frames(min(frames), max(frames) + 1) if frames else ():
            for number, boxes in missing.items():
                if frame.number in boxes:
                    box, is_given = boxes[frame.number]
                    found[number][frame.number] = FrameMask.of(inside(frame.image, box), 1.0, is_given=is_given)
        return found

    def _boxes(self, item: Json) -> dict[int, Box]:
        """The boxes in pixels that the player shows, by frame of the file."""
        shown = boxes_between(read(read_value(item)), self.film.timeline.studio_length(self.frame_rate))
        return {self._frame(number): to_pixels(box, self.film.size) for number, box in sorted(shown.items(), reverse=True)}

    def _given(self, item: Json) -> set[int]:
        return {self._frame(each.frame) for each in read(read_value(item)) if each.is_given}

    def _rings(self, item: Json) -> Iterator[tuple[int, FrameMask]]:
        """What a ring surrounds on each frame on which it is shown."""
        sequence = sorted(mappings(read_value(item).get("sequence")), key=lambda each: _number(each))
        length = self.film.timeline.studio_length(self.frame_rate)
        for number in range(1, length + 1):
            shown = _shown(sequence, number)
            if shown is not None:
                mask = read_vector({"vertices": shown, "closed": True}, self.film.size)
                yield self._frame(number), FrameMask.of(mask, 1.0, is_given=any(_number(each) == number for each in sequence))

    def _frame(self, number: int) -> int:
        return self.film.timeline.from_studio(number, self.frame_rate)


def submitted(export: Path, task: str | None) -> tuple[Json, ...]:
    """The results of the newest annotation of a task in a JSON export of Label Studio that was not skipped.

    Raises RequestError for another file, for no such task, and for one without an annotation.
    """
    found = task_of(export, task)
    annotations = [each for each in mappings(found.get("annotations")) if not each.get("was_cancelled")]
    if not annotations:
        raise RequestError(f"task {found.get('id')} in {export} has no submitted annotation")
    return tuple(mappings(newest(annotations).get("result")))


def _shown(sequence: list[Json], number: int) -> list[Json] | None:
    """The vertices that the player shows on a frame: each on its straight way to the one of its id in the next keyframe."""
    before = [each for each in sequence if _number(each) <= number]
    if not before or (before[-1].get("enabled") is False and _number(before[-1]) != number):
        return None
    start, after = before[-1], sequence[len(before) :]
    vertices = list(mappings(start.get("vertices")))
    if not after or _number(start) == number:
        return vertices
    ends = {vertex.get("id"): vertex for vertex in mappings(after[0].get("vertices"))}
    share = (number - _number(start)) / (_number(after[0]) - _number(start))
    pairs = [(vertex, ends.get(vertex.get("id"), vertex)) for vertex in vertices]
    return [{**one, **{axis: one[axis] + share * (end[axis] - one[axis]) for axis in ("x", "y")}} for one, end in pairs]


def _number(item: Json) -> int:
    try:
        return int(item["frame"])
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"expected a keyframe with a frame, got {item!r:.200}") from error
