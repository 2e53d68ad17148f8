"""What Label Studio asks about a video: a film on which nothing was drawn, or what an annotator drew and typed on one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from backend.labelstudio.config import lookup
from backend.labelstudio.request.typed import MESSAGE_SIGN, Typed, read_typed
from backend.labelstudio.shapes.base import Json, label_of, mappings, newest_draft, read_value, region_id, regions_of
from backend.labelstudio.shapes.video_rectangle import BoxKeyframe, read
from backend.labelstudio.video_config import BOXES, VideoLabels, read_videos
from backend.values.errors import RequestError

FOLLOW = frozenset({"follow", "track", "this", "it", "again"})
"""Typed alone, these ask to follow every box that the annotator's draft holds."""
_VERB = re.compile(r"^(?:track|follow|find)\s+(?:(?:the|an?|all|every)\s+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FilmRegion:
    """A box through the film: its id, its label, and its keyframes by frame. ``item`` is the region as the page has it."""

    id: str
    label: str | None
    keyframes: tuple[BoxKeyframe, ...]

    @property
    def is_given(self) -> bool:
        """Whether a person set any of it."""
        return any(keyframe.is_given for keyframe in self.keyframes)

    @property
    def settled(self) -> tuple[BoxKeyframe, ...]:
        """The keyframes that following starts from and ends at: of a region that was not followed to its end those alone that a
        person set.
        """
        is_open = any(keyframe.is_open for keyframe in self.keyframes)
        return tuple(keyframe for keyframe in self.keyframes if keyframe.is_given or not is_open)


@dataclass(frozen=True, slots=True)
class FilmRequest:
    """A task whose video is asked about."""

    project: str
    task_id: str
    labels: VideoLabels
    url: str
    frame_rate: Fraction

    def fingerprint(self) -> str:
        """A hash of everything that determines the answer."""
        return hashlib.blake2b(repr(self).encode(errors="surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class FilmPreannotation(FilmRequest):
    """A task on which nothing was drawn or typed: what its label names find in its film is to be answered."""


@dataclass(frozen=True, slots=True)
class FilmInteraction(FilmRequest):
    """What an annotator drew and typed: ``regions`` are to be followed, what ``typed`` names is to be found."""

    regions: tuple[FilmRegion, ...] = ()
    typed: Typed = field(default_factory=Typed)


def is_about_video(xml: str, items: Sequence[Json] | None) -> bool:
    """Whether a request is about a Video of the config: its prompt lies on one or, without a prompt, there is no Image."""
    videos = [video.name for video in read_videos(xml)]
    if items:
        return items[-1].get("to_name") in videos
    return bool(videos) and "<image" not in xml.lower()


def read_film_request(project: str, task: Json, xml: str, items: Sequence[Json] | None) -> FilmRequest:
    """A task with a video. Raises RequestError when its data has no address, or what was drawn cannot be read."""
    data = task["data"]
    labels = _asked(read_videos(xml), items)
    url = lookup(labels.source, data)
    if not isinstance(url, str) or not url.strip():
        raise RequestError(f"the task's data has no video address for '{labels.source}'")
    task_id = task.get("id")
    common = (project, str(task_id) if isinstance(task_id, str | int) else "", labels, url.strip(), labels.frame_rate(data))
    if items is None:
        return FilmPreannotation(*common)
    here = [item for item in items if item.get("to_name") == labels.name]
    typed = read_typed(_lines(here), labels.vocabulary)
    regions = _regions(here, labels)
    if not regions and _asks_to_follow(here):
        regions = _regions(regions_of(newest_draft(task)), labels)
        typed = Typed(asks_for_marked=True)
    return FilmInteraction(*common, regions, typed)


def _asked(videos: Sequence[VideoLabels], items: Sequence[Json] | None) -> VideoLabels:
    name = items[-1].get("to_name") if items else None
    return next((video for video in videos if video.name == name), videos[0])


def _regions(items: Sequence[Json], labels: VideoLabels) -> tuple[FilmRegion, ...]:
    """The boxes among results, each once; a label that comes as a twin of type ``labels`` is taken with it."""
    twins = {region_id(item): label for item in items if item.get("type") == "labels" and (label := label_of(item))}
    found: dict[str, FilmRegion] = {}
    for item in items:
        if item.get("type") == BOXES and region_id(item) not in found:
            sent = label_of(item) or twins.get(region_id(item))
            label = labels.value_of(sent, "labels") if sent else None
            found[region_id(item)] = FilmRegion(region_id(item), label, read(read_value(item)))
    return tuple(found.values())


def _lines(items: Sequence[Json]) -> list[str]:
    """What was typed, without our own messages, and without the verb in "track the ball"."""
    said = [line.strip() for item in items if item.get("type") == "textarea" for line in _said(item)]
    kept = [line for line in said if not line.startswith(MESSAGE_SIGN) and line.lower() not in FOLLOW]
    return [_VERB.sub("", line) for line in kept]


def _asks_to_follow(items: Sequence[Json]) -> bool:
    return any(line.strip().lower() in FOLLOW for item in items for line in _said(item))


def _said(item: Mapping[str, Any]) -> list[str]:
    text = read_value(item).get("text")
    return [line for line in (text if isinstance(text, list) else [text]) if isinstance(line, str)]


def boxes_of(items: Any, labels: VideoLabels) -> tuple[FilmRegion, ...]:
    """The boxes that an annotation or a prediction holds. Raises RequestError for one that cannot be read."""
    return _regions(list(mappings(items)), labels)
