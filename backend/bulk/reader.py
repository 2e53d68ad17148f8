"""What is asked about the images of a run's items: those of a folder directly, those of tasks as Label Studio would ask."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from backend.bulk.values import Form, Sink, Source
from backend.labelstudio.config import read_config
from backend.labelstudio.project_options import PreannotationOptions
from backend.labelstudio.request.request import PreannotationRequest, TaskImage, read_predict
from backend.labelstudio.request.video import FilmPreannotation, check_answerable, is_about_video, read_videos
from backend.stores.ledger import Item, RunIdentity
from backend.stores.snapshots import FrozenMemory
from backend.values.errors import ConfigError, RequestError
from backend.video.film import open_film
from backend.video.timeline import as_attribute
from prompts.phrases import LabelPhrases, Vocabulary

Aliases = tuple[tuple[str, tuple[str, ...]], ...]
"""Labels as they were typed, each with the further phrases that find it."""


class ImageRequest(Protocol):
    """One image to ask about, and the labels to look for on it."""

    @property
    def image_url(self) -> str: ...

    @property
    def project(self) -> str: ...

    @property
    def task_id(self) -> str: ...

    @property
    def vocabulary(self) -> Vocabulary: ...


@dataclass(frozen=True, slots=True)
class Photo:
    """An image file that belongs to no Label Studio."""

    image_url: str
    vocabulary: Vocabulary
    project: str = ""
    task_id: str = ""


class ItemReader(Protocol):
    """Everything that determines the results but the engine's weights, as plain values that travel between processes."""

    @property
    def options(self) -> PreannotationOptions:
        """What is made of the masks."""
        ...

    @property
    def form(self) -> Form: ...

    @property
    def memory(self) -> FrozenMemory | None:
        """The version of a project's memory that is used, if any."""
        ...

    @property
    def labels(self) -> tuple[LabelPhrases, ...]:
        """The labels that are looked for, with their phrases."""
        ...

    def requests(self, item: Item) -> Sequence[ImageRequest]:
        """What is asked about an item: a PreannotationRequest for each image where a prediction is to be written.

        Raises:
            RequestError: that cannot be told.
        """
        ...

    def film(self, item: Item) -> FilmPreannotation | None:
        """What is asked about an item's film; None for an item of images."""
        ...

    def file_name(self, item: Item) -> str:
        """What files call the item's image."""
        ...

    def task_data(self, item: Item) -> dict[str, Any]:
        """The ``data`` of the item's task in a file for Label Studio."""
        ...

    def digest(self, *parts: str) -> str:
        """A hash of the reader and of whatever else makes a run."""
        ...


@dataclass(frozen=True, slots=True)
class FolderReader:
    """The image files of a folder, or its films. Only predictions are drawn by a ``label_config``; ``url_prefix`` stands before
    a file's name in the data of its task.
    """

    root: Path
    labels: tuple[LabelPhrases, ...]
    options: PreannotationOptions
    form: Form
    label_config: str
    url_prefix: str
    memory: FrozenMemory | None = None

    def requests(self, item: Item) -> Sequence[ImageRequest]:
        path, vocabulary = str(self.root / item.key), Vocabulary(self.labels)
        if self.form is Form.MASKS:
            return [Photo(path, vocabulary)]
        config = read_config(self.label_config)
        image = TaskImage(config.labels_of(config.images[0]), path, item_index=None)
        return [PreannotationRequest("", item.key, image, sought=vocabulary)]

    def film(self, item: Item) -> FilmPreannotation | None:
        if not is_about_video(self.label_config, None):
            return None
        path, labels = self.root / item.key, read_videos(self.label_config)[0]
        return FilmPreannotation("", item.key, labels, str(path), labels.frame_rate({RATE_KEY: _rate_of(path)}))

    def file_name(self, item: Item) -> str:
        return item.key

    def task_data(self, item: Item) -> dict[str, Any]:
        address = self.url_prefix + quote(item.key)
        if is_about_video(self.label_config, None):
            video = read_videos(self.label_config)[0]
            rate = {RATE_KEY: _rate_of(self.root / item.key)} if video.rate == f"${RATE_KEY}" else {}
            return {video.source.removeprefix("$"): address, **rate}
        return {read_config(self.label_config).images[0].data_key: address}

    def digest(self, *parts: str) -> str:
        return _digest(asdict(self), parts)


@dataclass(frozen=True, slots=True)
class TaskReader:
    """The tasks of a project. Without ``aliases`` the labels of its labelling config are looked for; ``options`` are what the
    server would be told by the project's extra parameters; ``memory`` is what its annotations had taught when it was frozen.
    """

    label_config: str
    project: str = ""
    aliases: Aliases = ()
    options: PreannotationOptions = field(default_factory=PreannotationOptions)
    form: Form = Form.PREDICTION
    memory: FrozenMemory | None = None

    def requests(self, item: Item) -> Sequence[ImageRequest]:
        request = self._request(item)
        return list(request.images()) if self.form is Form.PREDICTION else [replace(request, further=())]

    @property
    def labels(self) -> tuple[LabelPhrases, ...]:
        return labels_to_find(self.label_config, self.aliases)

    def film(self, item: Item) -> FilmPreannotation | None:
        if not is_about_video(self.label_config, None):
            return None
        (request,) = read_predict({"tasks": [item.task], "project": self.project, "label_config": self.label_config})
        if isinstance(request, RequestError):
            raise request
        return request if isinstance(request, FilmPreannotation) else None

    def file_name(self, item: Item) -> str:
        return self._request(item).image_url

    def task_data(self, item: Item) -> dict[str, Any]:
        return dict(item.task["data"])

    def digest(self, *parts: str) -> str:
        return _digest(asdict(self), parts)

    def _request(self, item: Item) -> PreannotationRequest:
        """The item's task, read as the server reads one."""
        body = {"tasks": [item.task], "project": self.project, "label_config": self.label_config}
        (request,) = read_predict(body)
        if not isinstance(request, PreannotationRequest):
            raise request if isinstance(request, RequestError) else RequestError("expected a task without prompts")
        return replace(request, sought=Vocabulary(self.labels)) if self.aliases else request


def labels_to_find(label_config: str, aliases: Aliases) -> tuple[LabelPhrases, ...]:
    """The labels that were typed, or else those of a labelling config. Raises ConfigError when one of them cannot be drawn."""
    videos = read_videos(label_config) if is_about_video(label_config, None) else ()
    vocabulary = videos[0].vocabulary if videos else read_config(label_config).vocabulary
    known = vocabulary.labels
    if strange := [label for label, _ in aliases if label not in known]:
        raise ConfigError(f"the labelling config has no label {', '.join(strange)}; it has {', '.join(known) or 'none'}")
    return tuple(LabelPhrases.of(label, phrases) for label, phrases in aliases) if aliases else vocabulary.entries


def check_labels(label_config: str, labels: Sequence[LabelPhrases]) -> None:
    """Raise ConfigError when there is nothing to look for, not even labels that each task brings along."""
    if is_about_video(label_config, None):
        check_answerable(read_videos(label_config)[0])
        return
    controls = read_config(label_config).controls
    if not labels and not any(control.attributes.get("value", "").startswith("$") for control in controls):
        raise ConfigError("there is nothing to look for: the labelling config has no labels; name some with --labels")


def config_for(aliases: Aliases) -> str:
    """A labelling config that holds masks of these labels as brushes."""
    lines = "".join(_label_tag(label, phrases) for label, phrases in aliases)
    image = '<Image name="image" value="$image"/>'
    return f'<View>{image}<BrushLabels name="brush" toName="image">{lines}</BrushLabels></View>'


RATE_KEY = "frame_rate"
"""The field of a film's task with its own frame rate, which the config that is made for a folder of films reads."""


def video_config_for(aliases: Aliases) -> str:
    """A labelling config that holds boxes through films of these labels, each film at its own frame rate."""
    lines = "".join(_label_tag(label, phrases) for label, phrases in aliases)
    video = f'<Video name="video" value="$video" frameRate="${RATE_KEY}"/><VideoRectangle name="box" toName="video"/>'
    return f'<View>{video}<Labels name="labels" toName="video">{lines}</Labels></View>'


def _rate_of(path: Path) -> str:
    """The frame rate to set for a film. Raises VideoError."""
    return as_attribute(open_film(path).timeline.advised_rate())


def _label_tag(label: str, aliases: tuple[str, ...]) -> str:
    phrases = f" predicted_values={quoteattr(','.join(aliases))}" if aliases else ""
    return f"<Label value={quoteattr(label)}{phrases}/>"


def _digest(reader: Mapping[str, Any], parts: Sequence[str]) -> str:
    known = {name: value for name, value in reader.items() if name != "memory" or value is not None}
    plain = json.dumps([known, list(parts)], sort_keys=True, default=_plain)
    return hashlib.sha256(plain.encode()).hexdigest()


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else str(value)


@dataclass(frozen=True, slots=True)
class BulkJob:
    """A job with everything found that its spec names."""

    source: Source
    sink: Sink
    reader: ItemReader
    identity: RunIdentity
    limit: int | None = None
    again: bool = False
