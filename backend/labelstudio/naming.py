"""Choices and Taxonomies that name single regions: what their attribute ``maskloom`` makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from backend.labelstudio.shapes.base import ATTRIBUTE
from backend.values.errors import ConfigError
from prompts.phrases import LabelPhrases, Vocabulary, in_words

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
