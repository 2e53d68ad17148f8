"""What a labelling config offers on a Video: boxes through time, spans of the timeline, and the labels of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any

from backend.labelstudio.config import lookup
from backend.labelstudio.tags import ControlTag, parse_xml, read_attributes, read_control, read_naming
from backend.values.errors import ConfigError
from backend.video.timeline import STUDIO_RATE, parse_frame_rate
from prompts.phrases import LabelPhrases, Vocabulary

BOXES = "videorectangle"
TIMELINE = "timelinelabels"


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
            if control.type in ("labels", TIMELINE):
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
    if labels.boxes is None and labels.timeline is None:
        drawn = ", ".join(sorted({f"<{control.tag}>" for control in labels.controls})) or "no tag"
        raise ConfigError(
            f"on the video {labels.name!r} the labelling config has {drawn}; Maskloom answers with <VideoRectangle> and "
            "<Labels>, or with <TimelineLabels>"
        )
    if not len(labels.vocabulary):
        raise ConfigError(
            f"the labelling config has no label for the video {labels.name!r}: add <Labels> with what is to be found"
        )
