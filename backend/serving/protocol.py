"""The event protocol of Label Studio's open front end: capabilities, masks for clicks, and tracks that come frame by frame."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from backend.caches import Bounds
from backend.images.limits import ImageSource
from backend.labelstudio.request.event import EventRequest, read_event
from backend.labelstudio.shapes.base import Answer, write_empty
from backend.labelstudio.shapes.painted import write_bitmask
from backend.segmenter import EngineSource
from backend.serving.films import FilmSource
from backend.serving.runs import MOST_RUNNING, Run, Runs, check
from backend.serving.service import segment
from backend.values.errors import MaskloomError, RequestError
from backend.values.masks import RunLengths
from backend.values.session import ForPrompts
from backend.video.film import Film, Frame, open_film
from backend.video.keyframes import Box, overlap
from backend.video.tracks import FrameMask
from prompts.geometry import BoolArray
from prompts.kinds import BoxPrompt, KeyedImage, MaskPrompt, PromptSet

log = logging.getLogger(__name__)

TARGETS = (
    {"tag": "BitmaskLabels", "output": "mask"},
    {"tag": "RectangleLabels", "output": "bbox"},
    {"tag": "PolygonLabels", "output": "polygon"},
    {"tag": "VectorLabels", "output": "polygon"},
)
TRACKED = (
    {"tag": "VideoRectangle", "output": "bbox", "features": ["track"]},
    {"tag": "VideoVectorLabels", "output": "polygon", "features": ["track"]},
)
HOLD_S = 5.0
"""So long a poll waits for the first frame, as the page asks again at once."""
GATHER_S = 0.25
LIFETIME_S = 300.0
MOST_WAITING_BYTES = 32 << 20
"""A session whose masks nobody takes waits with so many of them."""
MOST_REMEMBERED = 64
SAME_BOX = 0.9
"""A box that overlaps so much with the one around the last mask of its frame stands for that mask."""


@dataclass(frozen=True, slots=True, eq=False)
class TrackedFrame:
    """One frame of a track: its number in the file, from 0, its time in the page, and the mask."""

    number: int
    time_ms: float
    mask: FrameMask


class EventProtocol:
    """Answers events. Sessions are runs: each has a tracking session of its own, ends when nobody polls it any more, and is
    known by an id that cannot be guessed.
    """

    def __init__(self, engine: EngineSource, images: ImageSource, films: FilmSource) -> None:
        self._engine = engine
        self._images = images
        self._films = films
        self._runs: Runs[TrackedFrame] = Runs(
            Bounds(MOST_RUNNING * MOST_WAITING_BYTES, lambda part: part.mask.nbytes, LIFETIME_S)
        )
        self._of_task: dict[str, set[str]] = {}
        self._masks: OrderedDict[tuple[str, str, int], FrameMask] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, body: Any) -> Answer | None:
        """The answer to an event; None for a body of the other protocol. What cannot be answered is an empty result, a
        ``track_error`` or an ``error`` in the progress, and never an exception.
        """
        version = self._engine.version
        event = str((((body.get("params") or {}).get("context")) or {}).get("event") or "") if isinstance(body, Mapping) else ""
        try:
            request = read_event(body)
            return None if request is None else self._dispatch(request, version)
        except MaskloomError as error:
            log.warning("event %s: %s", event or "predict", error)
            if event == "track":
                return _write("track_error", {"error": str(error)}, version)
            if event == "track_progress":
                return _write(event, _progress([], 0, 0, str(error)), version)
            return write_empty(version)

    def close(self) -> None:
        """End all sessions."""
        self._runs.close()

    def _dispatch(self, request: EventRequest, version: str) -> Answer:
        match request.event:
            case "capabilities":
                return _write("capabilities", self._capabilities(version), version)
            case "prewarm":
                return _write("prewarm_ack", self._prewarm(request), version)
            case "track":
                return self._track(request, version)
            case "track_progress":
                return _write("track_progress", self._poll(request), version)
            case "track_cancel":
                self._runs.stop(request.session_id)
                return _write("track_cancel_ack", {"status": "ok", "session_id": request.session_id}, version)
            case "release":
                for session in self._of_task.pop(_task_key(request), set()):
                    self._runs.stop(session)
                return _write("release_ack", {"status": "ok"}, version)
            case _:
                return self._predict(request, version)

    def _capabilities(self, version: str) -> dict[str, Any]:
        follows = self._engine.segmenter().engine.tracker is not None
        targets = [*TARGETS, *(TRACKED if follows else ({**each, "features": []} for each in TRACKED))]
        return {"prompts": ["point", "box"], "targets": targets, "model_info": {"name": "Maskloom", "version": version}}

    def _prewarm(self, request: EventRequest) -> dict[str, Any]:
        """Have the film here, and the frame that is shown encoded."""
        self._engine.segmenter()
        if request.video is None:
            self._engine.segmenter().look_at(self._images.load(request.url, request.project, request.task_id or None))
            return {"status": "ready", "cached": 1, "pending": 0, "frame_count": 1}
        film = self._open(request)
        self._engine.segmenter().look_at(KeyedImage.of(film.frame(request.frame(film.timeline))))
        return {"status": "ready", "cached": 1, "pending": 0, "frame_count": len(film)}

    def _predict(self, request: EventRequest, version: str) -> Answer:
        image, frame = self._picture(request)
        masks = self._found(image, request.prompts(image.size))
        if not masks:
            return write_empty(version)
        self._remember(request, frame, masks[0][0])
        result = [
            {"type": "bitmask", "value": dict(shape.value), "score": score}
            for mask, score in masks
            for shape in write_bitmask(RunLengths.of(mask))
        ]
        return {"result": result, "score": masks[0][1], "model_version": version}

    def _found(self, image: KeyedImage, prompts: PromptSet) -> list[tuple[BoolArray, float]]:
        """One mask ``(H, W)`` of all that is drawn, or of each thing that text alone finds, the surest first; with scores."""
        done, _ = segment(self._engine, ForPrompts(image, prompts))
        if not len(done.masks):
            return []
        if prompts.drawn:
            return [(done.masks.masks.union(), float(done.masks.scores.max()))]
        return sorted(((row.mask, row.score) for row in done.masks), key=lambda found: -found[1])

    def _picture(self, request: EventRequest) -> tuple[KeyedImage, int]:
        if request.video is None:
            return self._images.load(request.url, request.project, request.task_id or None), 0
        film = self._open(request)
        frame = request.frame(film.timeline)
        return KeyedImage.of(film.frame(frame)), frame

    def _track(self, request: EventRequest, version: str) -> Answer:
        if request.video is None:
            raise RequestError("an image has no frames to follow anything through")
        film = self._open(request)
        start, session = request.frame(film.timeline), uuid.uuid4().hex
        prompts, tracking = self._start_of(request, film, start), _Tracking(request, film, start)
        try:
            run = self._runs.join(session, lambda run: tracking.frames(self._engine, prompts, run))
        except RequestError as error:
            return _write("track_busy", {"error": str(error)}, version)
        run.total = len(tracking)
        with self._lock:
            self._of_task = {task: left for task, of in self._of_task.items() if (left := set(filter(self._runs.find, of)))}
            self._of_task.setdefault(_task_key(request), set()).add(session)
        facts = {"fps": float(request.frame_rate), "duration_ms": film.timeline.duration * 1000}
        return _write("track_started", {"session_id": session, "total_frames": len(tracking), **facts}, version)

    def _start_of(self, request: EventRequest, film: Film, frame: int) -> PromptSet:
        """What to follow: the box that was sent is that of an accepted mask, and the mask itself says more if it is known. Of
        what a text finds it is the surest.
        """
        sent = request.prompts(film.size)
        if not sent.drawn:
            found = self._found(KeyedImage.of(film.frame(frame)), sent)
            if not found:
                shown = film.timeline.to_studio(frame, request.frame_rate)
                raise RequestError(f"nothing of {', '.join(sent.phrases)} is found on frame {shown}")
            return PromptSet((MaskPrompt(found[0][0]),))
        known = self._masks.get((request.project, request.task_id, frame))
        boxes, around = sent.of(BoxPrompt), known.box() if known else None
        if known and around and len(boxes) == 1 and overlap(boxes[0].xyxy, _floats(around)) >= SAME_BOX:
            return PromptSet((MaskPrompt(known.decode()),))
        return sent

    def _poll(self, request: EventRequest) -> dict[str, Any]:
        """What came since the last poll of a session."""
        session = request.session_id
        run = self._runs.find(session)
        if run is None:
            raise RequestError("there is no such session; it was cancelled, released, or not asked about for too long")
        run.wait_for_part(HOLD_S)
        time.sleep(0 if run.is_done else GATHER_S)
        is_done, error = run.is_done, ""
        parts = run.take()
        try:
            check(run)
        except MaskloomError as raised:
            error = str(raised)
        return {**_progress(parts, run.produced, run.total, error), "done": is_done}

    def _remember(self, request: EventRequest, frame: int, mask: BoolArray) -> None:
        with self._lock:
            self._masks[request.project, request.task_id, frame] = FrameMask.of(mask, 1.0)
            self._masks.move_to_end((request.project, request.task_id, frame))
            while len(self._masks) > MOST_REMEMBERED:
                self._masks.popitem(last=False)

    def _open(self, request: EventRequest) -> Film:
        return open_film(self._films.film(request.url, request.project, request.task_id))


@dataclass(frozen=True, slots=True)
class _Tracking:
    """What one session follows: from a frame on, to either side or both, as far as is asked."""

    request: EventRequest
    film: Film
    start: int

    def __len__(self) -> int:
        return sum(len(frames) for _, frames in self._sides())

    def frames(self, engine: EngineSource, prompts: PromptSet, run: Run[TrackedFrame]) -> Iterator[TrackedFrame]:
        tracker = engine.segmenter().tracker(run.step)
        for way, numbers in self._sides():
            session = tracker.start(way)
            first = Frame(self.start, self.film.frame(self.start))
            mask = session.prompt(first.number, first.image, 1, prompts).mask
            if self.start in numbers:
                yield self._tracked(self.start, FrameMask.of(mask, 1.0))
            for frame in self._rest(way, numbers):
                run.wait_for_room(MOST_WAITING_BYTES)
                answer = session.follow(frame.number, frame.image)[1]
                yield self._tracked(frame.number, FrameMask.of(answer.mask, answer.score))

    def _sides(self) -> list[tuple[Literal[1, -1], range]]:
        """The frames of each side; the first one belongs to the side that comes first."""
        most, count = self.request.most_frames(self.film.timeline), len(self.film)
        forwards = range(self.start, min(count, self.start + most))
        backwards = range(max(0, self.start - most + 1), self.start + 1)
        match self.request.direction:
            case "backward":
                return [(-1, backwards)]
            case "both":
                return [(1, forwards), (-1, backwards[:-1])]
            case _:
                return [(1, forwards)]

    def _rest(self, way: Literal[1, -1], numbers: range) -> Iterator[Frame]:
        """The frames of a side but the first."""
        if way == 1:
            return self.film.frames(self.start + 1, numbers.stop) if numbers.stop > self.start + 1 else iter(())
        return self.film.backwards(numbers.start, self.start) if numbers.start < self.start else iter(())

    def _tracked(self, number: int, mask: FrameMask) -> TrackedFrame:
        shown = self.film.timeline.to_studio(number, self.request.frame_rate)
        return TrackedFrame(number, (shown - 1) / float(self.request.frame_rate) * 1000, mask)


def _write(kind: str, value: Mapping[str, Any], version: str) -> Answer:
    return {"result": [{"type": kind, "value": dict(value)}], "score": 0.0, "model_version": version}


def _progress(parts: list[TrackedFrame], produced: int, total: int, error: str) -> dict[str, Any]:
    """Frames on which the object is; those on which it is not are left out, and count as produced."""
    frames = []
    for part in parts:
        size = {"width": part.mask.size.width, "height": part.mask.size.height}
        for shape in write_bitmask(RunLengths.of(part.mask.decode())):
            frames += [{"frame": part.number, "time_ms": part.time_ms, **shape.value, **size}]
    return {"frames": frames, "produced": produced, "total": total, "done": True, "error": error or None}


def _task_key(request: EventRequest) -> str:
    return f"{request.project}/{request.task_id}"


def _floats(box: tuple[int, int, int, int]) -> Box:
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])
