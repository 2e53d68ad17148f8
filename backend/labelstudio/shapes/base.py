"""What every shape shares: how Label Studio writes a result, what a region can be for, and what an area says as a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from backend.values.errors import RequestError
from prompts.geometry import BoolArray
from prompts.kinds import MaskPrompt, Prompt, ScribblePrompt

FARTHEST_PERCENT = 1e6
"""No number on an image is larger than this; one that is was not drawn."""

Json = Mapping[str, Any]


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


@dataclass(frozen=True, slots=True)
class ShapeValue:
    """The ``value`` of one result, without its labels, and what an annotator should know about it."""

    value: dict[str, Any]
    note: str = ""


def area_prompt(mask: BoolArray, role: Role) -> Prompt | None:
    """What a covered area ``(H, W)`` says about the object; None when it covers nothing."""
    if not mask.any():
        return None
    return MaskPrompt(mask) if role is Role.REFINE else ScribblePrompt(mask, role is not Role.AGAINST)


def mappings(found: Any) -> Iterator[Json]:
    """The objects of a JSON list; nothing when it is no list."""
    return (item for item in found if isinstance(item, Mapping)) if isinstance(found, list) else iter(())


def read_value(item: Json) -> Json:
    """The ``value`` of a result, empty when it has none."""
    value = item.get("value")
    return value if isinstance(value, Mapping) else {}


def region_id(item: Json) -> str:
    """The id of a result, empty when it has none."""
    found = item.get("id")
    return found if isinstance(found, str) else ""


def region_kind(item: Json) -> str:
    """What a result is, with or without labels: ``brush`` for ``brush`` and ``brushlabels``; empty for ``labels``."""
    return str(item.get("type")).removesuffix("labels")


def label_of(item: Json) -> str | None:
    """The first label of a result, as the page sent it; None when it has none."""
    value = read_value(item)
    names = value.get(str(item.get("type"))) or value.get("labels")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


def read_number(value: Json, key: str, default: float | None = None) -> float:
    """A number of a result's ``value``.

    Raises:
        RequestError: it is missing without a default, no number, not finite, or absurdly large.
    """
    found = value.get(key, default)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise RequestError(f"expected a number under '{key}', got {_short(found)}")
    if not abs(found) <= FARTHEST_PERCENT:
        raise RequestError(f"expected percents under '{key}', got {_short(found)}")
    return float(found)


def _short(found: object) -> str:
    text = repr(found) if not isinstance(found, int) or abs(found) < 1e30 else "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."
