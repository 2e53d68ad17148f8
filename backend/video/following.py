"""Objects followed through a film from prompts on any of its frames, forwards and backwards, one frame in memory at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from backend.engines.base import TrackedMask, Tracker, TrackingSession
from backend.values.errors import RequestError
from backend.video.film import Film, Frame
from backend.video.tracks import FrameMask, Track, Tracks
from prompts.geometry import size_of
from prompts.kinds import PromptError, PromptSet

log = logging.getLogger(__name__)

TOLD_EVERY_S = 20.0
"""How often a long film says how far it is."""


class Teller:
    """Says now and then how far a film of ``count`` frames is that has a ``name``."""

    def __init__(self, name: str, count: int) -> None:
        self._name, self._count = name, count
        self._told, self._steps = time.monotonic(), 0

    def tell(self, number: int) -> None:
        """Called with the frame at hand, from 0."""
        if time.monotonic() - self._told > TOLD_EVERY_S:
            self._told = time.monotonic()
            log.info("%s: frame %d of %d", self._name, number + 1, self._count)

    def step(self) -> None:
        """Called once for each frame instead, in any order."""
        self.tell(self._steps)
        self._steps = min(self._steps + 1, self._count - 1)


@dataclass(frozen=True, slots=True)
class Mark:
    """What is drawn of one object on one frame of the file, from 0."""

    frame: int
    object_id: int
    prompts: PromptSet


@dataclass(frozen=True, slots=True)
class Followed:
    """One object's answer on one frame; ``is_given`` where a mark of it was on that frame."""

    frame: int
    object_id: int
    answer: TrackedMask
    is_given: bool


def follow(film: Film, tracker: Tracker, marks: Iterable[Mark], first: int = 0, stop: int | None = None) -> Iterator[Followed]:
    """Every object on the frames ``first .. stop - 1``, as it is found: forwards from its first mark, then backwards from it.

    A mark on a frame to which its object was followed corrects it there and refines what comes after. Raises RequestError for
    marks that are outside the range or show nothing, and VideoError for a damaged frame, after what came before it.
    """
    stop = len(film) if stop is None else stop
    by_frame = _by_frame(marks, first, stop)
    yield from _forwards(tracker.start(1), film.frames(min(by_frame), stop), by_frame)
    starts = _first_marks(by_frame)
    if max(starts) > first:
        yield from _backwards(tracker.start(-1), film.backwards(first, max(starts) + 1), starts)


def follow_all(film: Film, tracker: Tracker, marks: Iterable[Mark], first: int = 0, stop: int | None = None) -> Tracks:
    """All tracks of a film; see ``follow``. Frames where an object is absent are left out."""
    masks: dict[int, dict[int, FrameMask]] = {}
    for found in follow(film, tracker, marks, first, stop):
        of_object = masks.setdefault(found.object_id, {})
        if found.answer.mask.any():
            of_object[found.frame] = FrameMask.of(found.answer.mask, found.answer.score, is_given=found.is_given)
    tracks = tuple(Track(number, None, dict(sorted(frames.items()))) for number, frames in sorted(masks.items()))
    return Tracks(film.size, len(film), tracks)


def _by_frame(marks: Iterable[Mark], first: int, stop: int) -> dict[int, list[Mark]]:
    found: dict[int, list[Mark]] = {}
    for mark in marks:
        if not first <= mark.frame < stop:
            raise RequestError(f"expected marks on the frames {first} to {stop - 1}, got one on frame {mark.frame}")
        found.setdefault(mark.frame, []).append(mark)
    if not found:
        raise RequestError("nothing to follow: mark an object on at least one frame")
    return found


def _first_marks(by_frame: Mapping[int, list[Mark]]) -> dict[int, list[Mark]]:
    """Of each object its first mark alone, by frame."""
    known: set[int] = set()
    starts: dict[int, list[Mark]] = {}
    for frame in sorted(by_frame):
        for mark in by_frame[frame]:
            if mark.object_id not in known:
                known.add(mark.object_id)
                starts.setdefault(frame, []).append(mark)
    return starts


def _forwards(session: TrackingSession, frames: Iterator[Frame], by_frame: Mapping[int, list[Mark]]) -> Iterator[Followed]:
    for frame in frames:
        answers = session.follow(frame.number, frame.image)
        given = by_frame.get(frame.number, [])
        for mark in given:
            answers[mark.object_id] = _prompt(session, frame, mark)
        marked = {mark.object_id for mark in given}
        for number, answer in sorted(answers.items()):
            yield Followed(frame.number, number, answer, number in marked)


def _backwards(session: TrackingSession, frames: Iterator[Frame], starts: Mapping[int, list[Mark]]) -> Iterator[Followed]:
    """Each object from before its first mark on; on that frame itself it has been answered."""
    for frame in frames:
        for number, answer in sorted(session.follow(frame.number, frame.image).items()):
            yield Followed(frame.number, number, answer, False)
        for mark in starts.get(frame.number, []):
            _prompt(session, frame, mark)


def _prompt(session: TrackingSession, frame: Frame, mark: Mark) -> TrackedMask:
    try:
        mark.prompts.check_against(size_of(frame.image))
        return session.prompt(frame.number, frame.image, mark.object_id, mark.prompts)
    except PromptError as error:
        raise RequestError(f"frame {frame.number}, object {mark.object_id}: {error}") from error
