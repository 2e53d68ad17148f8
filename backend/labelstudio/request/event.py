"""What the event protocol of Label Studio's open front end asks: one event about a task, with its prompt, time and session.

Field names are the front end's (``ml-interactive``); everything but ``capabilities`` is about the task that comes along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from backend.labelstudio.config import lookup, read_config
from backend.labelstudio.request.typed import read_typed
from backend.labelstudio.request.video import VideoLabels, read_videos, typed_lines
from backend.labelstudio.shapes.base import Json, is_event, mappings, read_number, read_value, region_kind
from backend.values.errors import RequestError
from backend.video.timeline import STUDIO_RATE, Timeline
from prompts.geometry import Size
from prompts.kinds import BoxPrompt, PointPrompt, PromptError, PromptSet
from prompts.phrases import Vocabulary

EVENTS = ("capabilities", "prewarm", "track", "track_progress", "track_cancel", "release")
PREDICT = "predict"
"""The event that comes without a name: points, a box or a text, to be answered with one mask, or with each that is found."""
Direction = Literal["forward", "backward", "both"]


@dataclass(frozen=True, slots=True)
class EventRequest:
    """One event. ``video`` is None for an image; ``vocabulary`` are the labels of either, ``context`` is as it came."""

    event: str
    project: str
    task_id: str
    url: str
    video: VideoLabels | None = None
    frame_rate: Fraction = STUDIO_RATE
    context: Json = field(default_factory=dict)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)

    @property
    def session_id(self) -> str:
        found = self.context.get("session_id")
        return found if isinstance(found, str) else ""

    @property
    def direction(self) -> Direction:
        found = self.context.get("direction")
        return "backward" if found == "backward" else "both" if found == "both" else "forward"

    def frame(self, timeline: Timeline) -> int:
        """The file's frame that is meant: by its time, else by Label Studio's number, from 1."""
        time_ms, number = self._number("time_ms"), self._number("frame")
        if time_ms is not None:
            return timeline.frame_at(max(0.0, time_ms) / 1000)
        return 0 if number is None else timeline.from_studio(max(1, int(number)), self.frame_rate)

    def most_frames(self, timeline: Timeline) -> int:
        """How many frames are wanted on each side at most, by their number or their time."""
        count, duration_ms = self._number("max_frames"), self._number("max_duration_ms")
        most = int(count) if count is not None and count >= 1 else len(timeline)
        if duration_ms is not None and duration_ms > 0:
            most = min(most, max(1, round(duration_ms / 1000 * float(timeline.rate))))
        return most

    def _number(self, key: str) -> float | None:
        found = self.context.get(key)
        is_number = isinstance(found, int | float) and not isinstance(found, bool) and abs(found) < 1e15
        return float(found) if is_number and found is not None else None

    def prompts(self, size: Size) -> PromptSet:
        """What is drawn, in pixels, and typed. Raises RequestError for nothing, or for what lies outside the picture."""
        items = list(mappings(self.context.get("result")))
        typed = read_typed(typed_lines(items), self.vocabulary).texts
        try:
            drawn = tuple(_prompt(item, size) for item in items if region_kind(item) in ("keypoint", "rectangle"))
            found = PromptSet((*typed, *drawn))
            found.check_against(size)
        except PromptError as error:
            raise RequestError(f"task {self.task_id}: {error}") from error
        if not len(found):
            raise RequestError(f"task {self.task_id}: expected points, a box or a text, got {len(items)} other results")
        return found


def read_event(body: Any) -> EventRequest | None:
    """The event of a ``/predict`` body; None for a body of the other protocol. Raises RequestError for an unknown event and for
    a task without an address.
    """
    if not is_event(body):
        return None
    context = body["params"]["context"]
    event = context.get("event") or PREDICT
    if event not in (*EVENTS, PREDICT):
        raise RequestError(f"expected one of the events {', '.join(EVENTS)}, got {str(event)[:60]!r}")
    if event == "capabilities":
        return EventRequest(event, "", "", "", context=context)
    return _read_about_task(body, str(event), context)


def _read_about_task(body: Json, event: str, context: Json) -> EventRequest:
    tasks = list(mappings(body.get("tasks")))
    task = tasks[0] if tasks else {}
    data, xml = task.get("data"), body.get("label_config")
    if not isinstance(data, Mapping) or not isinstance(xml, str):
        raise RequestError("expected a text under 'label_config' and a task with an object under 'data'")
    video: VideoLabels | None = None
    if videos := read_videos(xml):
        video = _asked(videos, context)
        source, rate, vocabulary = video.source, video.frame_rate(data), video.vocabulary
    else:
        config = read_config(xml).for_task(data)
        source, rate, vocabulary = config.first_image.source, STUDIO_RATE, config.vocabulary
    url = lookup(source, data)
    if not isinstance(url, str) or not url.strip():
        raise RequestError(f"the task's data has no address for '{source}'")
    known = (_text(body.get("project")), _text(task.get("id")), url.strip())
    return EventRequest(event, *known, video, rate, context, vocabulary)


def _asked(videos: Sequence[VideoLabels], context: Json) -> VideoLabels:
    names = [item.get("to_name") for item in mappings(context.get("result"))]
    return next((video for video in videos if video.name in names), videos[0])


def _prompt(item: Json, size: Size) -> PointPrompt | BoxPrompt:
    value = read_value(item)
    x, y = (read_number(value, name) for name in ("x", "y"))
    across, down = size.width / 100, size.height / 100
    if region_kind(item) == "keypoint":
        return PointPrompt((x * across, y * down), value.get("positive") is not False)
    width, height = (read_number(value, name) for name in ("width", "height"))
    corner = (max(x * across, 0.0), max(y * down, 0.0))
    return BoxPrompt((*corner, min((x + width) * across, size.width), min((y + height) * down, size.height)))


def _text(found: Any) -> str:
    return str(found) if isinstance(found, str | int) else ""
