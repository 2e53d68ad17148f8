"""Everything with a name in a film: looked for twice a second, followed in between, and the same object after a gap."""

from __future__ import annotations

import base64
import json
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backend.engines.base import TrackedMask, Tracker, TrackingSession
from backend.video.film import MOST_BYTES, Film, Frame
from backend.video.tracks import FrameMask, Track, Tracks, masks_from_bytes, masks_to_bytes
from prompts.geometry import BoolArray
from prompts.kinds import Image, MaskPrompt, PromptSet

LOOKS_PER_SECOND = 2
LOOKS_AT_ONCE = 40
"""After so many looks following begins anew, and a run that breaks off loses no more than that."""
MOST_OBJECTS = 24
"""More objects of one film are not followed: each costs time on every frame."""
SAME_PLACE = 0.4
"""A found thing with this IoU to a followed one of its name is that one."""
COVERED = 0.6
"""A found thing that lies so much in a followed one, or the other way round, is no other one."""
SAME_LOOK = 0.8
"""The cosine above which a found thing is one that was lost."""
MISSED = 4
"""An object that is not found on so many looks one after another has gone."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One thing found on one frame: ``mask (H, W)``, its label, its score, and how it looks, a vector ``(D,)``."""

    mask: BoolArray
    label: str
    score: float
    look: NDArray[np.float32]


Detect = Callable[[Image], Sequence[Seen]]
"""Everything with a name on one frame, the surest first."""


@dataclass(slots=True, eq=False)
class _Object:
    """A followed object: how it looked when it was last found, on which frames it was found, and its masks by frame."""

    label: str
    look: NDArray[np.float32]
    found_on: list[int]
    masks: dict[int, FrameMask] = field(default_factory=dict)
    missed: int = 0

    @property
    def has_gone(self) -> bool:
        return self.missed >= MISSED

    def to_json(self) -> list[Any]:
        masks = base64.b64encode(masks_to_bytes(self.masks)).decode("ascii")
        return [self.label, self.look.astype(np.float32).tolist(), self.found_on, masks, self.missed]

    @classmethod
    def from_json(cls, found: Sequence[Any]) -> _Object:
        """Raises ValueError, TypeError or KeyError for anything else."""
        label, look, found_on, masks, missed = found
        known = masks_from_bytes(base64.b64decode(masks))
        return cls(str(label), np.asarray(look, np.float32), [int(frame) for frame in found_on], known, int(missed))


class Checkpoints(Protocol):
    """Where it is kept how far a film was looked through."""

    def load(self) -> bytes | None:
        """What was saved last; None without any."""
        ...

    def save(self, state: bytes) -> None:
        """Keep this in place of what was saved before."""
        ...


def find_all(
    film: Film,
    tracker: Tracker,
    detect: Detect,
    checkpoints: Checkpoints | None = None,
    tell: Callable[[int], None] = lambda number: None,
) -> Tracks:
    """Every appearance of everything that ``detect`` finds, as tracks.

    Each look's finds are matched with what is followed, then with what was lost and looks alike; the rest are new objects, and
    are followed back to the look before. An object that was found once where it could have been found often is left out. At
    most the frames between two looks are in memory. After so many looks following begins anew with what is known then, which is
    saved: whoever comes with the same ``checkpoints`` goes on from there, and gets the same. ``tell`` gets the number of each
    frame. Raises VideoError for a damaged frame.
    """
    finder = _Finder(film, tracker, detect)
    finder.go_on_from(checkpoints.load() if checkpoints is not None else None)
    for frame in film.frames(finder.next) if finder.next < len(film) else ():
        finder.take(frame)
        tell(frame.number)
        if finder.begins_anew_at(frame) and checkpoints is not None:
            checkpoints.save(finder.state())
    return Tracks(film.size, len(film), tuple(finder.tracks()))


def _every(film: Film) -> int:
    """How many frames there are from one look to the next."""
    wanted = max(1, round(float(film.timeline.rate) / LOOKS_PER_SECOND))
    return max(1, min(wanted, MOST_BYTES // (3 * film.size.pixels)))


class _Finder:
    """The objects of one film, frame by frame."""

    def __init__(self, film: Film, tracker: Tracker, detect: Detect) -> None:
        self.next = 0
        self._film = film
        self._tracker = tracker
        self._session: TrackingSession = tracker.start(1)
        self._detect = detect
        self._every = _every(film)
        self._between: deque[Frame] = deque(maxlen=max(self._every - 1, 1))
        self._objects: dict[int, _Object] = {}
        self._looks: list[int] = []

    def state(self) -> bytes:
        """What is known when following has begun anew."""
        objects = {number: each.to_json() for number, each in self._objects.items()}
        return json.dumps([self.next, self._looks, objects]).encode("ascii")

    def go_on_from(self, state: bytes | None) -> None:
        """Know what was known; what cannot be read is as good as nothing."""
        try:
            number, looks, objects = json.loads(state or b"null") or (0, [], {})
            self._objects = {int(each): _Object.from_json(found) for each, found in objects.items()}
        except (ValueError, TypeError, KeyError):
            return
        self.next, self._looks = int(number), [int(look) for look in looks]
        if 0 < self.next < len(self._film):
            self._begin_anew(Frame(self.next - 1, self._film.frame(self.next - 1)))

    def begins_anew_at(self, frame: Frame) -> bool:
        """Whether enough looks were taken to begin following anew on this frame, which is done then."""
        if not frame.number or frame.number % (self._every * LOOKS_AT_ONCE):
            return False
        self._begin_anew(frame)
        return True

    def _begin_anew(self, frame: Frame) -> None:
        """Follow what has not gone from where it was found first and where it is."""
        self._session = self._tracker.start(1)
        living = {number: each.masks for number, each in self._objects.items() if each.masks and not each.has_gone}
        for first, number in sorted((min(masks), number) for number, masks in living.items()):
            if first < frame.number:
                self._show(Frame(first, self._film.frame(first)), number)
        for number, masks in living.items():
            if frame.number in masks:
                self._show(frame, number)

    def _show(self, frame: Frame, number: int) -> None:
        shown = MaskPrompt(self._objects[number].masks[frame.number].decode())
        self._session.prompt(frame.number, frame.image, number, PromptSet((shown,)))

    def take(self, frame: Frame) -> None:
        """The next frame."""
        answers = self._session.follow(frame.number, frame.image) if self._objects else {}
        if frame.number % self._every == 0:
            self._look(frame, answers)
            self._between.clear()
        else:
            self._between.append(frame)
        self.next = frame.number + 1
        for number, answer in answers.items():
            known = self._objects[number]
            if answer.mask.any() and not known.has_gone:
                known.masks[frame.number] = FrameMask.of(answer.mask, answer.score)

    def tracks(self) -> Iterator[Track]:
        """What was found, numbered by first appearance, without what nothing confirmed and the frames after the last find."""
        kept = [(each, self._kept_masks(each)) for each in self._objects.values() if self._is_confirmed(each)]
        ordered = sorted((pair for pair in kept if pair[1]), key=lambda pair: min(pair[1]))
        for number, (found, masks) in enumerate(ordered, 1):
            yield Track(number, found.label, masks)

    def _look(self, frame: Frame, answers: dict[int, TrackedMask]) -> None:
        """Match what is found on a frame; ``answers`` are what was followed to it, and become what is known of it."""
        self._looks.append(frame.number)
        seen = list(self._detect(frame.image))
        matched = self._matched(seen, answers)
        for number, each in self._objects.items():
            each.missed = 0 if number in matched.values() else each.missed + 1
        for index, thing in enumerate(seen):
            if index not in matched:
                lost = self._lost_like(thing, answers, set(matched.values()))
                if lost is None and (len(self._objects) >= MOST_OBJECTS or _is_part(thing, answers)):
                    continue
                matched[index] = self._begin(frame, thing, lost)
                answers[matched[index]] = TrackedMask(thing.mask, thing.score)
            known = self._objects[matched[index]]
            known.found_on.append(frame.number)
            known.look, known.missed = thing.look, 0

    def _matched(self, seen: Sequence[Seen], answers: Mapping[int, TrackedMask]) -> dict[int, int]:
        """Which find is which followed object, the best overlap first."""
        pairs = [
            (_iou(thing.mask, answer.mask), index, number)
            for index, thing in enumerate(seen)
            for number, answer in answers.items()
            if self._objects[number].label == thing.label and answer.mask.any() and not self._objects[number].has_gone
        ]
        found: dict[int, int] = {}
        for overlap, index, number in sorted(pairs, key=lambda pair: -pair[0]):
            if overlap >= SAME_PLACE and index not in found and number not in found.values():
                found[index] = number
        return found

    def _lost_like(self, thing: Seen, answers: Mapping[int, TrackedMask], taken: set[int]) -> int | None:
        """The object of the same name, hidden or gone now, that looked most like a find; None when none did."""
        lost = [
            (float(thing.look @ each.look), number)
            for number, each in self._objects.items()
            if each.label == thing.label
            and number not in taken
            and (each.has_gone or number not in answers or not answers[number].mask.any())
        ]
        likest, number = max(lost, default=(0.0, 0))
        return number if likest >= SAME_LOOK else None

    def _begin(self, frame: Frame, thing: Seen, number: int | None) -> int:
        """Follow a find from here on, and back to the look before, as a new object or as one that was lost."""
        number = number or len(self._objects) + 1
        known = self._objects.setdefault(number, _Object(thing.label, thing.look, []))
        prompts = PromptSet((MaskPrompt(thing.mask),))
        self._session.prompt(frame.number, frame.image, number, prompts)
        back = self._tracker.start(-1)
        back.prompt(frame.number, frame.image, 1, prompts)
        for earlier in reversed(self._between):
            answer = back.follow(earlier.number, earlier.image)[1]
            if not answer.mask.any() or earlier.number in known.masks:
                break
            known.masks[earlier.number] = FrameMask.of(answer.mask, answer.score)
        return number

    def _is_confirmed(self, found: _Object) -> bool:
        possible = [look for look in self._looks if look >= found.found_on[0]]
        return len(found.found_on) >= min(2, len(possible))

    def _kept_masks(self, found: _Object) -> dict[int, FrameMask]:
        return {frame: found.masks[frame] for frame in sorted(found.masks) if self._is_supported(found.found_on, frame)}

    def _is_supported(self, finds: Sequence[int], frame: int) -> bool:
        """Whether a frame lies within a look of a find, or between finds that few looks missed."""
        place = bisect_right(finds, frame)
        after = finds[place] if place < len(finds) else None
        if after is not None and frame > after - self._every:
            return True
        if place == 0:
            return False
        before = finds[place - 1]
        end = self._looks[-1] + self._every if after is None else after
        return frame < before + self._every or (end - before) // self._every <= MISSED


def _is_part(thing: Seen, answers: Mapping[int, TrackedMask]) -> bool:
    """Whether a find lies in something that is followed, or the other way round."""
    return any(_covers(thing.mask, each.mask) for each in answers.values())


def _covers(left: BoolArray, right: BoolArray) -> bool:
    """Whether one of two masks lies in the other."""
    smaller = min(int(left.sum()), int(right.sum()))
    return smaller > 0 and int((left & right).sum()) / smaller >= COVERED


def _iou(left: BoolArray, right: BoolArray) -> float:
    union = int((left | right).sum())
    return int((left & right).sum()) / union if union else 0.0
