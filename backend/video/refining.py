"""One object between frames that a person set: those are barriers, and what lies between them is followed from both sides.

What is known between two barriers is kept from the frames on at which following from a barrier agrees with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import Literal, cast

import numpy as np

from backend.engines.base import TrackedMask, Tracker, TrackingSession
from backend.values.errors import RequestError
from backend.video.film import Film, Frame
from backend.video.keyframes import overlap
from backend.video.tracks import Barrier, FrameMask, Known, Refined
from prompts.geometry import box_mask, size_of
from prompts.kinds import BoxPrompt, MaskPrompt, PromptError, PromptSet

AGREES = 0.85
"""Two boxes of one frame with this IoU are the same."""
AGREEING = 3
"""So many frames that agree one after another end the following: the rest is right already."""


def refine(film: Film, tracker: Tracker, barriers: Sequence[Barrier], known: Known) -> Iterator[Refined]:
    """The frames that are not as ``known``, gap by gap: after each barrier until the next one or the end, then before the
    first. A barrier's own frame comes with its mask.

    A gap depends on nothing but its two barriers and what is known in it. Raises RequestError without a barrier that shows the
    object, and VideoError for a damaged frame.
    """
    ordered = sorted(barriers, key=lambda each: each.frame)
    if all(each.box is None for each in ordered):
        raise RequestError("nothing to follow: no box is set on any frame")
    for left, right in [*pairwise([*ordered, None]), (None, ordered[0])]:
        yield from _Gap(film, tracker, left, right, known).refined()


@dataclass(frozen=True, slots=True)
class _Gap:
    """The frames between two barriers, either of which may be missing."""

    film: Film
    tracker: Tracker
    left: Barrier | None
    right: Barrier | None
    known: Known

    def refined(self) -> Iterator[Refined]:
        if self.left is None and self.right is not None and self.right.box is not None:
            yield from self._before()
        elif self.left is not None and self.left.box is not None:
            yield from self._after() if self.right is None or self.right.box is None else self._between()

    def _before(self) -> Iterator[Refined]:
        """Back to the first frame. What is known, and all before it, is given up only for what comes to agree with it."""
        right = cast(Barrier, self.right)
        rest = _Side(self.known)
        for frame, mask in rest.until_known(self._followed(right, self.film.backwards(0, right.frame + 1), -1)):
            if rest.contested or frame in self.known.boxes:
                rest.contested[frame] = mask
            elif frame != right.frame:
                yield _refined(frame, mask, mask.score)
        if rest.agrees:
            yield from (_refined(frame, mask, mask.score) for frame, mask in rest.contested.items())

    def _after(self) -> Iterator[Refined]:
        """On to the last frame, or to where it is gone."""
        left, stop = cast(Barrier, self.left), len(self.film) if self.right is None else self.right.frame
        for frame, mask in _Side(self.known).until_known(self._followed(left, self.film.frames(left.frame, stop), 1)):
            yield _refined(frame, mask, mask.score)

    def _between(self) -> Iterator[Refined]:
        """From both sides; where they meet, from the left to the frame on which they agree best."""
        left, right = cast(Barrier, self.left), cast(Barrier, self.right)
        rising, falling = _Side(self.known), _Side(self.known)
        forwards = dict(rising.until_known(self._followed(left, self.film.frames(left.frame, right.frame), 1)))
        backwards: dict[int, FrameMask] = {}
        if right.frame > left.frame + 1:
            towards = self._followed(right, self.film.backwards(left.frame + 1, right.frame + 1), -1)
            backwards = dict(falling.until_known(towards))
        if rising.agrees and not falling.agrees:
            backwards = dict(takewhile(lambda pair: pair[0] not in self.known.boxes, backwards.items()))
        agreement = {frame: _agreement(forwards[frame], backwards[frame]) for frame in forwards if frame in backwards}
        middle = (left.frame + right.frame) / 2
        meeting = max(agreement, key=lambda each: (round(agreement[each], 2), -abs(each - middle)), default=right.frame)
        for frame in range(left.frame, right.frame):
            first, second = (forwards, backwards) if frame <= meeting else (backwards, forwards)
            mask = first.get(frame) or second.get(frame)
            if mask is not None:
                yield _refined(frame, mask, agreement.get(frame, mask.score))

    def _followed(self, start: Barrier, frames: Iterator[Frame], way: Literal[1, -1]) -> Iterator[tuple[int, FrameMask]]:
        """The object's masks from a barrier on, which is the first of the frames."""
        session = self.tracker.start(way)
        for frame in frames:
            if frame.number == start.frame:
                yield frame.number, FrameMask.of(_prompted(session, frame, start).mask, 1.0, is_given=True)
            else:
                answer = session.follow(frame.number, frame.image)[1]
                yield frame.number, FrameMask.of(answer.mask, answer.score)


@dataclass(slots=True)
class _Side:
    """Following from one barrier, until it ``agrees`` with what is known; ``contested`` is where it does not, to be decided."""

    known: Known
    agrees: bool = False
    contested: dict[int, FrameMask] = field(default_factory=dict)

    def until_known(self, followed: Iterator[tuple[int, FrameMask]]) -> Iterator[tuple[int, FrameMask]]:
        """What is followed, without the last frames that agree with what is known: they are right already."""
        held: list[tuple[int, FrameMask]] = []
        for frame, mask in followed:
            known, box = self.known.boxes.get(frame), mask.box()
            held.append((frame, mask))
            if mask.is_given or not (known and box and overlap(known, box) >= AGREES):
                yield from held
                held = []
            elif len(held) >= AGREEING and frame in self.known.firm:
                self.agrees = True
                return
        yield from held


def _refined(frame: int, mask: FrameMask, agreement: float) -> Refined:
    return Refined(frame, mask if mask.area else None, round(min(max(1 - agreement, 0.0), 1.0), 4))


def _agreement(left: FrameMask, right: FrameMask) -> float:
    """The IoU of two masks; 1 where both are empty."""
    one, other = left.decode(), right.decode()
    union = int(np.count_nonzero(one | other))
    return float(np.count_nonzero(one & other) / union) if union else 1.0


def _prompted(session: TrackingSession, frame: Frame, barrier: Barrier) -> TrackedMask:
    """The object in a barrier's box; the box itself where the engine finds nothing in it."""
    x0, y0, x1, y1 = box = barrier.box or (0.0, 0.0, 0.0, 0.0)
    if x1 <= x0 or y1 <= y0:
        raise RequestError(f"the box on frame {frame.number} of the file covers no pixel of the picture")
    try:
        return session.prompt(frame.number, frame.image, 1, barrier.prompts or PromptSet((BoxPrompt(box),)))
    except PromptError:
        filled = MaskPrompt(box_mask(box, size_of(frame.image)))
        return session.prompt(frame.number, frame.image, 1, PromptSet((filled,)))
