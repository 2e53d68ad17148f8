"""One tag of a labelling config: its labels with their phrases, what is drawn with it is for, how masks are drawn, and whether
it names regions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.parsers import expat

from backend.values.errors import ConfigError
from prompts.phrases import LabelPhrases, Vocabulary, in_words

SHAPE_NAMES = ("brush", "polygon", "bitmask", "vector", "ellipse", "rectangle", "keypoint")
"""The types of what is drawn, without ``labels``; the one that says most about a mask, and is exported as most formats, first:
a mask is written as the first shape that the labelling config has.
"""


ATTRIBUTE = "maskloom"
"""What a tag or a label is for: a role, or for Choices and Taxonomies ``names``."""


class Role(StrEnum):
    """What a region is for when its label or its tag has the attribute ``maskloom``: a prompt of some kind instead of a result.

    On a ``<Label>`` the label is no class of its own: it is not looked for and never answered. On a control tag its labels
    remain classes, and say which class the prompted object has.
    """

    FOR = "for"
    """It marks the object: brush strokes run over it, a polygon or an ellipse surrounds it, a rectangle is its box."""
    AGAINST = "against"
    """What it covers does not belong to the object."""
    REFINE = "refine"
    """It is a mask of the object that is to be made better."""
    REFERENCE = "reference"
    """It shows what to find: "everything like this"."""
    UNLIKE = "unlike"
    """It shows what not to find."""
    IGNORE = "ignore"
    """It means nothing to us, as every region whose label and tag have no role."""


OF_THE_OBJECT = frozenset({Role.FOR, Role.AGAINST, Role.REFINE})


OF_REFERENCES = frozenset({Role.REFERENCE, Role.UNLIKE})


def read_role(attributes: Mapping[str, str]) -> Role | None:
    """The role that a tag's attributes give; None when they give none. Raises ConfigError for one that does not exist."""
    said = attributes.get(ATTRIBUTE, "").strip().lower()
    if not said:
        return None
    try:
        return Role(said)
    except ValueError:
        raise ConfigError(f"the labelling config says {ATTRIBUTE}={said!r}; it can be {', '.join(Role)}") from None


OUTPUT, POINTS, SMOOTH, MIN_AREA = "maskloom-output", "maskloom-points", "maskloom-smooth", "maskloom-min-area"
_LIMITS = {POINTS: (3, 1000), SMOOTH: (0, 500), MIN_AREA: (0, 1_000_000_000)}


@dataclass(frozen=True, slots=True)
class Drawing:
    """What a ``<Label>`` or a tag says of its masks; empty and 0 where it says nothing. ``smooth`` is in pixels of the image,
    ``min_area`` in as many pixels.
    """

    output: str = ""
    points: int = 0
    smooth: int = 0
    min_area: int = 0

    def over(self, other: Drawing) -> Drawing:
        """This, and what the other says where this says nothing."""
        return Drawing(
            self.output or other.output,
            self.points or other.points,
            self.smooth or other.smooth,
            self.min_area or other.min_area,
        )


NO_DRAWING = Drawing()


def read_drawing(attributes: Mapping[str, str]) -> Drawing:
    """What attributes, under lower-case names, say of masks. Raises ConfigError for a shape or a number that cannot be."""
    output = attributes.get(OUTPUT, "").strip().lower()
    if output and output not in SHAPE_NAMES:
        raise ConfigError(f"the labelling config says {OUTPUT}={output!r}; it can be {', '.join(SHAPE_NAMES)}")
    return Drawing(output, *(_number(attributes, name) for name in (POINTS, SMOOTH, MIN_AREA)))


def _number(attributes: Mapping[str, str], name: str) -> int:
    said = attributes.get(name, "").strip()
    low, high = _LIMITS[name]
    if said and not (said.isdecimal() and len(said) < 12 and low <= int(said) <= high):
        raise ConfigError(f"the labelling config says {name}={said[:40]!r}; expected a whole number from {low} to {high:,}")
    return int(said or 0)


NAMES = "names"
"""The value of the attribute that makes a ``perRegion`` tag name regions; without it the tag is left alone."""
TOP_ATTRIBUTE = "maskloom-top"
BETWEEN = " / "
"""What stands between the steps of a Taxonomy's path in the name of a region."""
MOST_NAMES = 20


@dataclass(frozen=True, slots=True)
class Naming:
    """A ``<Choices>`` or ``<Taxonomy>`` with ``perRegion="true"`` and ``maskloom="names"``.

    ``paths`` are the ways to its leaves, each with the phrases of its leaf; a choice is a path of one step. ``top`` is how many
    names a region gets.
    """

    name: str
    to_names: tuple[str, ...]
    type: str
    paths: Mapping[tuple[str, ...], tuple[str, ...]]
    top: int = 1

    @property
    def vocabulary(self) -> Vocabulary:
        """The leaves, under names that tell their paths."""
        return Vocabulary(tuple(LabelPhrases(BETWEEN.join(path), phrases) for path, phrases in self.paths.items()))

    def value(self, names: Sequence[str]) -> dict[str, Any]:
        """The ``value`` of a result with the first ``top`` of these names that are offered here; empty when none is."""
        by_name = {BETWEEN.join(path): path for path in self.paths}
        chosen = [by_name[name] for name in names if name in by_name][: self.top]
        if not chosen:
            return {}
        return {self.type: [list(path) if self.type == "taxonomy" else path[0] for path in chosen]}

    def named_by(self, item: Mapping[str, Any]) -> str | None:
        """The name that a result of this tag gives its region; None when it gives none that is offered here."""
        value = item.get("value")
        found = value.get(self.type) if isinstance(value, Mapping) else None
        first = found[0] if isinstance(found, list) and found else None
        path = tuple(str(step) for step in first) if isinstance(first, list) else (str(first),)
        return BETWEEN.join(path) if path in self.paths else None


def read_naming(element: Element, found: Mapping[str, str]) -> Naming | None:
    """A tag that names regions, by its element and its attributes under lower-case names; None when it does not.

    Raises:
        ConfigError: it cannot be what it says.
    """
    kind = element.tag.lower()
    if kind not in ("choices", "taxonomy") or found.get(ATTRIBUTE, "").strip().lower() != NAMES:
        return None
    if found.get("perregion", "").strip().lower() != "true":
        raise ConfigError(f'the {element.tag} {found["name"]!r} says {ATTRIBUTE}="{NAMES}"; add perRegion="true" to it')
    paths = {path: phrases for path, phrases in _leaves(element, ()) if kind == "taxonomy" or len(path) == 1}
    to_names = tuple(name.strip() for name in found["toname"].split(","))
    return Naming(found["name"], to_names, kind, paths, _top(found, kind))


def _leaves(element: Element, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    for inner in element:
        attributes = {name.lower(): value for name, value in inner.attrib.items()}
        value = attributes.get("alias") or attributes.get("value")
        if inner.tag.lower() != "choice" or not value:
            yield from _leaves(inner, above) if inner.tag.lower() != "choice" else ()
        elif any(child.tag.lower() == "choice" for child in inner):
            yield from _leaves(inner, (*above, value))
        else:
            yield (*above, value), _phrases(attributes)


def _phrases(attributes: Mapping[str, str]) -> tuple[str, ...]:
    """What finds a leaf: its own name and what it is hinted to be called, too."""
    names = (attributes.get("value", ""), *attributes.get("hint", "").split(","))
    return tuple(dict.fromkeys(filter(None, map(in_words, names)))) or (attributes.get("value", ""),)


def _top(found: Mapping[str, str], kind: str) -> int:
    said = found.get(TOP_ATTRIBUTE, "1").strip()
    if not said.isdecimal() or not 1 <= int(said) <= MOST_NAMES:
        raise ConfigError(f"the labelling config says {TOP_ATTRIBUTE}={said!r}; it can be 1 to {MOST_NAMES}")
    is_single = kind == "choices" and found.get("choice", "single").strip().lower() != "multiple"
    return 1 if is_single else int(said)


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """One ``<Label>``: its ``value``, the ``alias`` that the page sends instead when there is one, and other phrases.

    A label is always answered under its value. ``predicted_values`` (comma separated) are the phrases that find it;
    without them ``hint`` is (comma separated too, and shown by the page on hover). ``alias`` is one more phrase:
    Label Studio stores the alias in place of the value, so what arrives under the alias is turned back into the value.
    With a ``role`` it is no class but a way to prompt. ``drawing`` says how its masks are drawn, where it says so.
    """

    value: str
    alias: str | None = None
    phrases: tuple[str, ...] = ()
    role: Role | None = None
    drawing: Drawing = NO_DRAWING

    @property
    def names(self) -> tuple[str, ...]:
        """What the page may send for it."""
        return (self.value, self.alias) if self.alias else (self.value,)


@dataclass(frozen=True, slots=True)
class ControlTag:
    """A tag that writes results about object tags (``toName="left,right"`` has two); ``attributes`` are under lower-case names,
    as in the page.
    """

    name: str
    to_names: tuple[str, ...]
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


def parse_xml(xml: str) -> ElementTree.Element:
    scanner = expat.ParserCreate()
    scanner.StartDoctypeDeclHandler = _refuse_doctype
    try:
        scanner.Parse(xml, True)
        return ElementTree.fromstring(xml)
    except (expat.ExpatError, ElementTree.ParseError, ValueError) as error:
        raise ConfigError(f"the labelling config is not well-formed XML: {error}") from error


def _refuse_doctype(*_: object) -> None:
    raise ConfigError("the labelling config has a document type declaration; remove the <!DOCTYPE ...>")


def read_attributes(element: ElementTree.Element) -> dict[str, str]:
    return {name.lower(): value for name, value in element.attrib.items()}


def read_control(element: ElementTree.Element, found: Mapping[str, str]) -> ControlTag:
    tags = (read_attributes(inner) for inner in element.iter() if inner.tag.lower() == "label")
    entries = tuple(read_label(tag) for tag in tags if tag.get("value"))
    read_role(found)
    read_drawing(found)
    return ControlTag(found["name"], _split(found["toname"]), element.tag, entries, found)


def read_label(found: Mapping[str, str]) -> LabelEntry:
    phrases = _split(found.get("predicted_values", "")) or _split(found.get("hint", ""))
    return LabelEntry(found["value"], found.get("alias") or None, phrases, read_role(found), read_drawing(found))


def _split(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))
