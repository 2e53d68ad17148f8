"""What Label Studio asks about a video: what its labelling config offers on one, a film on which nothing was drawn, or what an
annotator drew and typed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

from backend.labelstudio.config import lookup
from backend.labelstudio.request.typed import MESSAGE_SIGN, Typed, read_typed
from backend.labelstudio.shapes.base import Json, label_of, mappings, newest_draft, read_value, region_id, regions_of
from backend.labelstudio.shapes.video_rectangle import BoxKeyframe, read
from backend.labelstudio.tags import ControlTag, parse_xml, read_attributes, read_control, read_naming
from backend.values.errors import ConfigError, RequestError
from backend.video.timeline import STUDIO_RATE, parse_frame_rate
from prompts.phrases import LabelPhrases, Vocabulary

FOLLOW = frozenset({"follow", "track", "this", "it", "again"})
"""Typed alone, these ask to follow every box that the annotator's draft holds."""
_VERB = re.compile(r"^(?:track|follow|find)\s+(?:(?:the|an?|all|every)\s+)?", re.IGNORECASE)


BOXES, RINGS, TIMELINE = "videorectangle", "videovector", "timelinelabels"
"""The types of what is answered with; rings also come with labels of their own, as ``videovectorlabels``."""
LABELLED_RINGS = "videovectorlabels"


@dataclass(frozen=True)
class VideoLabels:
    """A ``<Video>``: its name, where a task keeps its address, its frameRate as written, and the controls that name it."""

    name: str
    source: str
    rate: str
    controls: tuple[ControlTag, ...]

    @property
    def boxes(self) -> ControlTag | None:
        """The first ``<VideoRectangle>``."""
        return self._first(BOXES)

    @property
    def rings(self) -> ControlTag | None:
        """The first ``<VideoVectorLabels>`` or ``<VideoVector>``, which is answered with instead of boxes."""
        return self._first(LABELLED_RINGS) or self._first(RINGS)

    @property
    def timeline(self) -> ControlTag | None:
        """The first ``<TimelineLabels>``."""
        return self._first(TIMELINE)

    @property
    def text_areas(self) -> tuple[ControlTag, ...]:
        """The TextAreas of the video as a whole."""
        return tuple(each for each in self.controls if each.type == "textarea" and not each.is_on("perregion"))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Every class of a tag that can be answered with, each once, with its phrases."""
        phrases: dict[str, list[str]] = {}
        for control in self.controls:
            if control.type in ("labels", LABELLED_RINGS, TIMELINE):
                for entry in control.classes:
                    phrases.setdefault(entry.value, []).extend(filter(None, (entry.alias, *entry.phrases)))
        return Vocabulary(tuple(LabelPhrases.of(label, aliases) for label, aliases in phrases.items()))

    def value_of(self, label: str, of_type: str) -> str | None:
        """The label as tags of one type have it, which the page may have sent under its alias; None when none has it."""
        tags = (control for control in self.controls if control.type == of_type)
        return next(filter(None, (tag.value_of(label) for tag in tags)), None)

    def frame_rate(self, data: Mapping[str, Any]) -> Fraction:
        """Frames per second for a task; what is no number is 24, as in the page."""
        written = lookup(self.rate, data) if "$" in self.rate else self.rate
        try:
            return parse_frame_rate(None if written is None else str(written))
        except ValueError:
            return STUDIO_RATE

    def _first(self, of_type: str) -> ControlTag | None:
        return next((control for control in self.controls if control.type == of_type), None)


@lru_cache(maxsize=128)
def read_videos(xml: str) -> tuple[VideoLabels, ...]:
    """The Videos of a labelling config, in order. Raises ConfigError for what is no XML."""
    named = [(element, read_attributes(element)) for element in parse_xml(xml).iter()]
    if not any(element.tag.lower() == "video" for element, _ in named):
        return ()
    drawing = [(element, found) for element, found in named if {"name", "toname"} <= found.keys()]
    controls = [read_control(element, found) for element, found in drawing if read_naming(element, found) is None]
    return tuple(
        VideoLabels(
            name := found.get("name", ""),
            found.get("value", ""),
            found.get("framerate", ""),
            tuple(control for control in controls if name in control.to_names),
        )
        for element, found in named
        if element.tag.lower() == "video"
    )


def check_answerable(labels: VideoLabels) -> None:
    """Raise ConfigError when nothing that is found in a film could be written, or nothing is named that could be found."""
    if labels.boxes is None and labels.rings is None and labels.timeline is None:
        drawn = ", ".join(sorted({f"<{control.tag}>" for control in labels.controls})) or "no tag"
        raise ConfigError(
            f"on the video {labels.name!r} the labelling config has {drawn}; Maskloom answers with <VideoRectangle> or "
            "<VideoVector> and <Labels>, with <VideoVectorLabels>, or with <TimelineLabels>"
        )
    if not len(labels.vocabulary):
        raise ConfigError(
            f"the labelling config has no label for the video {labels.name!r}: add <Labels> with what is to be found"
        )


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
    typed = read_typed(typed_lines(here), labels.vocabulary)
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


def typed_lines(items: Sequence[Json]) -> list[str]:
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
