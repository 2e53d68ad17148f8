"""What a labelling config offers: its Image tags, the controls that draw on them, and the labels with their phrases."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any
from xml.etree import ElementTree

from backend.labelstudio.tags import (
    NO_DRAWING,
    ControlTag,
    Drawing,
    LabelEntry,
    Naming,
    Role,
    parse_xml,
    read_attributes,
    read_control,
    read_drawing,
    read_label,
    read_naming,
)
from backend.values.errors import ConfigError
from prompts.phrases import LabelPhrases, Vocabulary

MOST_REPEATED = 100
"""Of the items of a ``<Repeater>`` so many are read."""

_VARIABLE = re.compile(r"\$([\w\[\].{}]+)")
_REPEATER = re.compile(r"<\s*repeater\b", re.IGNORECASE)
_STEP = re.compile(r"[^\[\].{}]+")


@dataclass(frozen=True, slots=True)
class ImageTag:
    """An ``<Image>``: its name and where a task keeps its address or, for ``valueList``, the list of its pages."""

    name: str
    source: str

    @property
    def data_key(self) -> str:
        """The key of the task's data, ``image`` for ``$image``; empty when the source is a fixed address."""
        variable = _VARIABLE.search(self.source)
        return variable[1] if variable else ""


@dataclass(frozen=True, repr=False)
class ImageLabels:
    """What a labelling config offers for one image; labels of a text, of a sound or of another image mean nothing there."""

    image: ImageTag
    controls: tuple[ControlTag, ...]
    namings: tuple[Naming, ...] = ()

    def __repr__(self) -> str:
        return f"ImageLabels({self._digest})"

    @cached_property
    def _digest(self) -> str:
        """A hash of everything: requests are compared by what they show, and a config may have thousands of labels."""
        said = repr((self.image, self.controls, self.namings))
        return hashlib.blake2b(said.encode(errors="surrogatepass"), digest_size=16).hexdigest()

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Every class, each once, with all the phrases that any tag gives it; or what ``class_namings`` offer."""
        if self.class_namings:
            return _united(naming.vocabulary for naming in self.class_namings)
        phrases: dict[str, list[str]] = {}
        for entry in self._classes:
            phrases.setdefault(entry.value, []).extend(filter(None, (entry.alias, *entry.phrases)))
        return Vocabulary(tuple(LabelPhrases.of(label, aliases) for label, aliases in phrases.items()))

    @cached_property
    def class_namings(self) -> tuple[Naming, ...]:
        """The Choices and Taxonomies that say what a region is; none where the labels do, which then are two or more."""
        return self.namings if len({entry.value for entry in self._classes}) <= 1 else ()

    @cached_property
    def text_areas(self) -> tuple[ControlTag, ...]:
        """The TextAreas of the image as a whole; those of single regions are the annotator's own notes."""
        areas = (control for control in self.controls if control.type == "textarea")
        return tuple(area for area in areas if not area.is_on("perregion"))

    def value_of(self, label: str) -> str | None:
        """The config's own name of a label that the page sent or somebody typed: by value, by alias, or by any phrase."""
        return self._values.get(label) or self.vocabulary.find(label)

    def output_of(self, label: str | None) -> str:
        """The shape that a label asks for wherever it is written; empty when it asks for none."""
        return self._drawings.get(label or "", NO_DRAWING).output

    def drawing_of(self, label: str | None, control: ControlTag) -> Drawing:
        """How masks of a label are drawn with a tag: as the label says, or else as the tag does."""
        return self._drawings.get(label or "", NO_DRAWING).over(read_drawing(control.attributes))

    def role_of(self, control: object, label: str | None) -> Role | None:
        """What a region is for: by its label, whichever tag has it, or by the tag that it was drawn with."""
        drawn_with = next((tag for tag in self.controls if tag.name == control), None)
        return self._roles.get(label or "") or (drawn_with.role if drawn_with else None)

    @cached_property
    def has_roles(self) -> bool:
        """Whether anything that is drawn may be for something else than an answer."""
        return bool(self._roles) or any(control.role for control in self.controls)

    @cached_property
    def _classes(self) -> tuple[LabelEntry, ...]:
        return tuple(entry for control in self.controls for entry in control.classes)

    @cached_property
    def _values(self) -> Mapping[str, str]:
        aliases = {entry.alias: entry.value for entry in reversed(self._classes) if entry.alias}
        return aliases | {entry.value: entry.value for entry in self._classes}

    @cached_property
    def _drawings(self) -> Mapping[str, Drawing]:
        said = [entry for entry in reversed(self._classes) if entry.drawing != NO_DRAWING]
        return {name: entry.drawing for entry in said for name in entry.names}

    @cached_property
    def _roles(self) -> Mapping[str, Role]:
        entries = [entry for control in self.controls for entry in control.entries]
        return {name: entry.role for entry in reversed(entries) if entry.role for name in entry.names}


@dataclass(frozen=True)
class LabelConfig:
    """A labelling config, its tags in the order in which they are written."""

    xml: str
    images: tuple[ImageTag, ...]
    controls: tuple[ControlTag, ...]
    namings: tuple[Naming, ...] = ()

    @property
    def vocabulary(self) -> Vocabulary:
        """What can be looked for on any of the images."""
        return _united(self.labels_of(image).vocabulary for image in self.images)

    @property
    def first_image(self) -> ImageTag:
        """The first image that can be drawn on, or the first."""
        return next((image for image in self.images if self.labels_of(image).controls), self.images[0])

    def labels_of(self, image: ImageTag) -> ImageLabels:
        return self._labels[image]

    @cached_property
    def _labels(self) -> Mapping[ImageTag, ImageLabels]:
        return {image: self._labels_of(image) for image in self.images}

    def _labels_of(self, image: ImageTag) -> ImageLabels:
        controls = tuple(control for control in self.controls if image.name in control.to_names)
        return ImageLabels(image, controls, tuple(naming for naming in self.namings if image.name in naming.to_names))

    def control(self, name: object) -> ControlTag | None:
        return next((control for control in self.controls if control.name == name), None)

    def image(self, name: object) -> ImageTag | None:
        return next((tag for tag in self.images if tag.name == name), None)

    def for_task(self, data: Mapping[str, Any]) -> LabelConfig:
        """The config as the page shows it for a task: every ``<Repeater>`` unrolled over its list in the task's data, and the
        dynamic labels (``value="$labels"``) that the data gives.
        """
        config = self._unroll(data) if _REPEATER.search(self.xml) else self
        controls = tuple(_with_dynamic_labels(control, data) for control in config.controls)
        return config if controls == config.controls else replace(config, controls=controls)

    def _unroll(self, data: Mapping[str, Any]) -> LabelConfig:
        try:
            return _read(_unrolled(parse_xml(self.xml), data), self.xml)
        except ConfigError as error:  # the config itself has an image: it could be read
            raise ConfigError("the task has no image: the list that its <Repeater> goes through is empty or missing") from error


@lru_cache(maxsize=128)
def read_config(xml: str) -> LabelConfig:
    """Read a labelling config.

    Raises:
        ConfigError: the text is no XML, carries a document type (entities of one's own are refused), or has no Image.
    """
    return _read(parse_xml(xml), xml)


def _read(root: ElementTree.Element, xml: str) -> LabelConfig:
    elements = list(root.iter())
    images = tuple(_image_tag(element) for element in elements if element.tag.lower() == "image")
    if not images:
        raise ConfigError("the labelling config has no <Image> tag; Maskloom segments images only")
    named = [(element, read_attributes(element)) for element in elements]
    named = [(element, found) for element, found in named if {"name", "toname"} <= found.keys()]
    namings = tuple(filter(None, (read_naming(element, found) for element, found in named)))
    names = {naming.name for naming in namings}
    controls = tuple(read_control(element, found) for element, found in named if found["name"] not in names)
    return LabelConfig(xml, images, controls, namings)


def _united(vocabularies: Iterable[Vocabulary]) -> Vocabulary:
    """Each label once, with the phrases that come first."""
    entries: dict[str, LabelPhrases] = {}
    for vocabulary in vocabularies:
        for entry in vocabulary.entries:
            entries.setdefault(entry.label, entry)
    return Vocabulary(tuple(entries.values()))


def lookup(source: str, data: Mapping[str, Any]) -> Any:
    """What ``$key``, ``$key.inner`` or ``$key[0]`` stands for in a task's data; text around it stays; None if absent."""
    whole = _VARIABLE.fullmatch(source)
    if whole:
        return _follow(whole[1], data)
    return _VARIABLE.sub(lambda found: str(_follow(found[1], data) or ""), source)


def _follow(path: str, data: Any) -> Any:
    if isinstance(data, Mapping) and path in data:
        return data[path]
    for step in _STEP.findall(path):
        if isinstance(data, Mapping):
            data = data.get(step)
        elif isinstance(data, list) and step.isdecimal() and int(step) < len(data):
            data = data[int(step)]
        else:
            return None
    return data


def _unrolled(element: ElementTree.Element, data: Mapping[str, Any], most: int = MOST_REPEATED) -> ElementTree.Element:
    """The element with a copy of what each Repeater in it holds for each item of its list, at most so many in all."""
    element[:] = [copy for child in element for copy in _copies(child, data, most)]
    return element


def _copies(element: ElementTree.Element, data: Mapping[str, Any], most: int) -> Iterator[ElementTree.Element]:
    """An element itself, or what a Repeater stands for: its content with each index in place of its flag."""
    if element.tag.lower() != "repeater":
        yield _unrolled(element, data, most)
        return
    found = read_attributes(element)
    items = lookup(found.get("on", ""), data)
    count = min(len(items), most) if isinstance(items, list) else 0
    for index in range(count):
        for copy in deepcopy(element):
            for inner in copy.iter():
                texts = {
                    name: text.replace(found.get("indexflag", "{{idx}}"), str(index)) for name, text in inner.attrib.items()
                }
                inner.attrib.update(texts)
            yield from _copies(copy, data, most // count)


def _image_tag(element: ElementTree.Element) -> ImageTag:
    found = read_attributes(element)
    return ImageTag(found.get("name", ""), found.get("valuelist") or found.get("value", ""))


def _with_dynamic_labels(control: ControlTag, data: Mapping[str, Any]) -> ControlTag:
    source = control.attributes.get("value", "")
    given = lookup(source, data) if source.startswith("$") and control.type.endswith("labels") else None
    if not isinstance(given, list):
        return control
    return replace(control, entries=(*control.entries, *_dynamic_entries(given)))


def _dynamic_entries(given: Iterable[Any]) -> Iterable[LabelEntry]:
    """Labels from a task's data: names, or objects with the attributes of a ``<Label>``."""
    for item in given:
        found = {"value": item} if isinstance(item, str) else item
        if isinstance(found, Mapping):
            words = {str(name).lower(): value for name, value in found.items() if isinstance(value, str)}
            if words.get("value"):
                yield read_label(words)
