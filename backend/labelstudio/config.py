"""What a labelling config offers: its Image tags, the controls that draw on them, and the labels with their phrases."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from backend.labelstudio.naming import ATTRIBUTE, Naming, read_naming
from backend.labelstudio.shapes import SHAPES
from backend.labelstudio.shapes.base import Role
from backend.values.errors import ConfigError
from prompts.phrases import LabelPhrases, Vocabulary

OUTPUT_ATTRIBUTE = "maskloom-output"

_VARIABLE = re.compile(r"\$([\w\[\].{}]+)")
_STEP = re.compile(r"[^\[\].{}]+")


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """One ``<Label>``: its ``value``, the ``alias`` that the page sends instead when there is one, and other phrases.

    A label is always answered under its value. ``predicted_values`` (comma separated) are the phrases that find it;
    without them ``hint`` is (comma separated too, and shown by the page on hover). ``alias`` is one more phrase:
    Label Studio stores the alias in place of the value, so what arrives under the alias is turned back into the value.
    With a ``role`` it is no class but a way to prompt. ``output`` is the shape that its regions are to have, if it says so.
    """

    value: str
    alias: str | None = None
    phrases: tuple[str, ...] = ()
    role: Role | None = None
    output: str = ""


@dataclass(frozen=True, slots=True)
class ImageTag:
    """An ``<Image>``: its name and where a task keeps its address or, for ``valueList``, the list of its pages."""

    name: str
    source: str
    multi_page: bool = False

    @property
    def data_key(self) -> str:
        """The key of the task's data, ``image`` for ``$image``; empty when the source is a fixed address."""
        variable = _VARIABLE.search(self.source)
        return variable[1] if variable else ""


@dataclass(frozen=True, slots=True)
class ControlTag:
    """A tag that writes results about an object tag; ``attributes`` are under lower-case names, as in the page."""

    name: str
    to_name: str
    tag: str
    entries: tuple[LabelEntry, ...]
    attributes: Mapping[str, str]

    @property
    def type(self) -> str:
        """The type of its results: ``brushlabels`` for ``<BrushLabels>``."""
        return self.tag.lower()

    @property
    def classes(self) -> tuple[LabelEntry, ...]:
        """The entries that name something to be found."""
        return tuple(entry for entry in self.entries if entry.role is None)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(entry.value for entry in self.classes)

    @property
    def role(self) -> Role | None:
        """What everything drawn with this tag is for; None when its regions are results."""
        return read_role(self.attributes)

    @property
    def is_smart_only(self) -> bool:
        """Whether what is drawn with it is always a prompt."""
        return self.is_on("smartonly")

    def is_on(self, attribute: str) -> bool:
        return self.attributes.get(attribute, "").strip().lower() == "true"

    def value_of(self, label: str) -> str | None:
        """The label's value when the label is written here as a class, by value or by alias."""
        named = (entry.value for entry in self.classes if label == entry.value)
        aliased = (entry.value for entry in self.classes if label == entry.alias)
        return next(named, None) or next(aliased, None)


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """A labelling config, its tags in the order in which they are written."""

    xml: str
    images: tuple[ImageTag, ...]
    controls: tuple[ControlTag, ...]
    namings: tuple[Naming, ...] = ()

    @property
    def vocabulary(self) -> Vocabulary:
        """Every class, each once, with all the phrases that any tag gives it; or what Choices or a Taxonomy name regions."""
        if self.is_named_by_region:
            entries = (entry for naming in self.namings for entry in naming.vocabulary.entries)
            return Vocabulary(tuple({entry.label: entry for entry in entries}.values()))
        phrases: dict[str, list[str]] = {}
        for entry in (entry for control in self.controls for entry in control.classes):
            phrases.setdefault(entry.value, []).extend(filter(None, (entry.alias, *entry.phrases)))
        return Vocabulary(tuple(LabelPhrases.of(label, aliases) for label, aliases in phrases.items()))

    @property
    def is_named_by_region(self) -> bool:
        """Whether the one label, if any, only carries what Choices or a Taxonomy say that a region is."""
        return bool(self.namings) and len({label for control in self.controls for label in control.labels}) <= 1

    def namings_of(self, image_tag: str) -> tuple[Naming, ...]:
        return tuple(naming for naming in self.namings if naming.to_name == image_tag)

    def value_of(self, label: str) -> str | None:
        """The config's own name of a label that the page sent: by value, by alias, or by any of its phrases."""
        exact = next((value for control in self.controls if (value := control.value_of(label)) is not None), None)
        return exact if exact is not None else self.vocabulary.find(label)

    def output_of(self, label: str | None) -> str:
        """The shape that a label asks for wherever it is written; empty when it asks for none."""
        entries = (entry for control in self.controls for entry in control.classes)
        return next((entry.output for entry in entries if entry.output and label in (entry.value, entry.alias)), "")

    def role_of(self, control: object, label: str | None) -> Role | None:
        """What a region is for: by its label anywhere in the config, or by the tag that it was drawn with."""
        drawn_with = self.control(control)
        own = (entry.role for tag in self.controls for entry in tag.entries if label and label in (entry.value, entry.alias))
        return next(filter(None, own), None) or (drawn_with.role if drawn_with else None)

    def controls_of(self, image_tag: str) -> tuple[ControlTag, ...]:
        return tuple(control for control in self.controls if control.to_name == image_tag)

    def text_areas_of(self, image_tag: str) -> tuple[ControlTag, ...]:
        """The TextAreas of an image as a whole; those of single regions are the annotator's own notes."""
        areas = (control for control in self.controls_of(image_tag) if control.type == "textarea")
        return tuple(area for area in areas if not area.is_on("perregion"))

    def control(self, name: object) -> ControlTag | None:
        return next((control for control in self.controls if control.name == name), None)

    def image(self, name: str) -> ImageTag | None:
        return next((tag for tag in self.images if tag.name == name), None)

    def with_labels_of(self, data: Mapping[str, Any]) -> LabelConfig:
        """The config with the dynamic labels (``value="$labels"``) that a task's data gives."""
        return replace(self, controls=tuple(_with_dynamic_labels(control, data) for control in self.controls))


@lru_cache(maxsize=128)
def read_config(xml: str) -> LabelConfig:
    """Read a labelling config.

    Raises:
        ConfigError: the text is no XML, carries a document type (entities of one's own are refused), or has no Image.
    """
    elements = list(_parse(xml).iter())
    images = tuple(_image_tag(element) for element in elements if element.tag.lower() == "image")
    if not images:
        raise ConfigError("the labelling config has no <Image> tag; Maskloom segments images only")
    named = [(element, _attributes(element)) for element in elements]
    named = [(element, found) for element, found in named if {"name", "toname"} <= found.keys()]
    namings = tuple(filter(None, (read_naming(element, found) for element, found in named)))
    names = {naming.name for naming in namings}
    controls = tuple(_control_tag(element, found) for element, found in named if found["name"] not in names)
    return LabelConfig(xml, images, controls, namings)


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


def _parse(xml: str) -> ElementTree.Element:
    scanner = expat.ParserCreate()
    scanner.StartDoctypeDeclHandler = _refuse_doctype
    try:
        scanner.Parse(xml, True)
        return ElementTree.fromstring(xml)
    except (expat.ExpatError, ElementTree.ParseError, ValueError) as error:
        raise ConfigError(f"the labelling config is not well-formed XML: {error}") from error


def _refuse_doctype(*_: object) -> None:
    raise ConfigError("the labelling config has a document type declaration; remove the <!DOCTYPE ...>")


def _attributes(element: ElementTree.Element) -> dict[str, str]:
    return {name.lower(): value for name, value in element.attrib.items()}


def _image_tag(element: ElementTree.Element) -> ImageTag:
    found = _attributes(element)
    pages = found.get("valuelist", "")
    return ImageTag(found.get("name", ""), pages or found.get("value", ""), multi_page=bool(pages))


def _control_tag(element: ElementTree.Element, found: Mapping[str, str]) -> ControlTag:
    tags = (_attributes(inner) for inner in element.iter() if inner.tag.lower() == "label")
    entries = tuple(_label_entry(tag) for tag in tags if tag.get("value"))
    read_role(found)
    return ControlTag(found["name"], found["toname"].split(",")[0].strip(), element.tag, entries, found)


def read_role(attributes: Mapping[str, str]) -> Role | None:
    """The role that a tag's attributes give; None when they give none. Raises ConfigError for one that does not exist."""
    said = attributes.get(ATTRIBUTE, "").strip().lower()
    if not said:
        return None
    try:
        return Role(said)
    except ValueError:
        raise ConfigError(f"the labelling config says {ATTRIBUTE}={said!r}; it can be {', '.join(Role)}") from None


def _label_entry(found: Mapping[str, str]) -> LabelEntry:
    phrases = _split(found.get("predicted_values", "")) or _split(found.get("hint", ""))
    return LabelEntry(found["value"], found.get("alias") or None, phrases, read_role(found), _read_output(found))


def _read_output(found: Mapping[str, str]) -> str:
    said = found.get(OUTPUT_ATTRIBUTE, "").strip().lower()
    if said and said not in SHAPES:
        raise ConfigError(f"the labelling config says {OUTPUT_ATTRIBUTE}={said!r}; it can be {', '.join(SHAPES)}")
    return said


def _split(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


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
                yield _label_entry(words)
