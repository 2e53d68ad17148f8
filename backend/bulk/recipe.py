"""What is asked about the images of a run's items, and what a run knows about its target and its items.

The images of a folder are asked about directly, those of tasks as Label Studio would ask. All of it are plain values that
travel between threads, processes and machines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from pycocotools import mask as coco

from backend.labelstudio.config import read_config
from backend.labelstudio.project_options import PreannotationOptions
from backend.labelstudio.request.request import PreannotationRequest, TaskImage, read_predict
from backend.stores.ledger import Item
from backend.values.errors import ConfigError, RequestError
from backend.values.masks import RunLengths
from prompts.geometry import BoolArray, Size
from prompts.phrases import LabelPhrases, Vocabulary


class Target(StrEnum):
    """Where the results go."""

    PREDICTIONS = "predictions"
    IMPORT = "import"
    COCO = "coco"
    YOLO = "yolo"
    PNG = "png"


class Form(StrEnum):
    """What a sink needs of a result."""

    PREDICTION = "prediction"
    MASKS = "masks"


@dataclass(frozen=True, slots=True)
class FoundRegion:
    """One region: its box is ``(x, y, width, height)`` in pixels, ``rle`` COCO's compressed run lengths where asked for."""

    label: str
    score: float
    pixels: int
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    rle: str = ""


@dataclass(frozen=True, slots=True)
class ItemResult:
    """An item with what was found on it, or with the reason why nothing could be."""

    item: Item
    size: Size | None = None
    regions: Sequence[FoundRegion] = ()
    prediction: Mapping[str, Any] = field(default_factory=dict)
    thumbnail: bytes = b""
    failure: str = ""

    @property
    def least_score(self) -> float:
        """The score of the least certain region; 0 when nothing was found."""
        return min((region.score for region in self.regions), default=0.0)


class Sink(Protocol):
    """A target, which can be given the same result twice and keeps it once. ``name`` tells a person, and the ledger, which:
    what is written under one name replaces what was there.
    """

    @property
    def name(self) -> str: ...

    @property
    def form(self) -> Form:
        """What it needs of a result."""
        ...

    def arrived(self, keys: Sequence[str]) -> set[str]:
        """Of results that may or may not have been written before the last process ended, those that were."""
        ...

    def remove(self, keys: Sequence[str]) -> None:
        """Take away the earlier results of items that are done anew."""
        ...

    def write(self, results: Sequence[ItemResult]) -> Mapping[str, str]:
        """Write results so that they last; the reasons for those that the target does not take, by key.

        Raises MaskloomError when the target cannot be written to at all.
        """
        ...

    def finish(self) -> str:
        """Put together what was written; says where it is."""
        ...


def encode_mask(runs: RunLengths) -> str:
    """COCO's compressed run lengths of a mask."""
    return runs.coco_counts()


def decode_mask(rle: str, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of COCO's compressed run lengths."""
    mask: BoolArray = coco.decode({"size": [size.height, size.width], "counts": rle.encode("ascii")}).astype(np.bool_)
    return mask


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


class Recipe(Protocol):
    """Everything that determines the results but the engine's weights, as plain values that travel between processes."""

    @property
    def options(self) -> PreannotationOptions:
        """What is made of the masks."""
        ...

    @property
    def form(self) -> Form: ...

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

    def file_name(self, item: Item) -> str:
        """What files call the item's image."""
        ...

    def task_data(self, item: Item) -> dict[str, Any]:
        """The ``data`` of the item's task in a file for Label Studio."""
        ...

    def digest(self, *parts: str) -> str:
        """A hash of the recipe and of whatever else makes a run."""
        ...


@dataclass(frozen=True, slots=True)
class FolderRecipe:
    """The image files of a folder. Only predictions are drawn by a ``label_config``; ``url_prefix`` stands before a file's name
    in the data of its task.
    """

    root: Path
    labels: tuple[LabelPhrases, ...]
    options: PreannotationOptions
    form: Form
    label_config: str
    url_prefix: str

    def requests(self, item: Item) -> Sequence[ImageRequest]:
        path, vocabulary = str(self.root / item.key), Vocabulary(self.labels)
        if self.form is Form.MASKS:
            return [Photo(path, vocabulary)]
        config = read_config(self.label_config)
        image = TaskImage(config.labels_of(config.images[0]), path, item_index=None)
        return [PreannotationRequest("", item.key, image, sought=vocabulary)]

    def file_name(self, item: Item) -> str:
        return item.key

    def task_data(self, item: Item) -> dict[str, Any]:
        return {read_config(self.label_config).images[0].data_key: self.url_prefix + quote(item.key)}

    def digest(self, *parts: str) -> str:
        return _digest(asdict(self), parts)


@dataclass(frozen=True, slots=True)
class TaskRecipe:
    """The tasks of a project. Without ``aliases`` the labels of its labelling config are looked for; ``options`` are what the
    server would be told by the project's extra parameters.
    """

    label_config: str
    project: str = ""
    aliases: Aliases = ()
    options: PreannotationOptions = field(default_factory=PreannotationOptions)
    form: Form = Form.PREDICTION

    def requests(self, item: Item) -> Sequence[ImageRequest]:
        request = self._request(item)
        return list(request.images()) if self.form is Form.PREDICTION else [replace(request, further=())]

    @property
    def labels(self) -> tuple[LabelPhrases, ...]:
        return labels_to_find(self.label_config, self.aliases)

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
    vocabulary = read_config(label_config).vocabulary
    known = vocabulary.labels
    if strange := [label for label, _ in aliases if label not in known]:
        raise ConfigError(f"the labelling config has no label {', '.join(strange)}; it has {', '.join(known) or 'none'}")
    return tuple(LabelPhrases.of(label, phrases) for label, phrases in aliases) if aliases else vocabulary.entries


def check_labels(label_config: str, labels: Sequence[LabelPhrases]) -> None:
    """Raise ConfigError when there is nothing to look for, not even labels that each task brings along."""
    controls = read_config(label_config).controls
    if not labels and not any(control.attributes.get("value", "").startswith("$") for control in controls):
        raise ConfigError("there is nothing to look for: the labelling config has no labels; name some with --labels")


def config_for(aliases: Aliases) -> str:
    """A labelling config that holds masks of these labels as brushes."""
    lines = "".join(_label_tag(label, phrases) for label, phrases in aliases)
    image = '<Image name="image" value="$image"/>'
    return f'<View>{image}<BrushLabels name="brush" toName="image">{lines}</BrushLabels></View>'


def _label_tag(label: str, aliases: tuple[str, ...]) -> str:
    phrases = f" predicted_values={quoteattr(','.join(aliases))}" if aliases else ""
    return f"<Label value={quoteattr(label)}{phrases}/>"


def _digest(recipe: Mapping[str, Any], parts: Sequence[str]) -> str:
    plain = json.dumps([recipe, list(parts)], sort_keys=True, default=_plain)
    return hashlib.sha256(plain.encode()).hexdigest()


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else str(value)
