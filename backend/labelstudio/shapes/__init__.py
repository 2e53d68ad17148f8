"""One module for each shape that Label Studio draws: how it is read as a prompt and how a mask is written as it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.values.errors import RequestError

FORMS = ("brush", "polygon", "bitmask", "ellipse", "rectangle", "keypoint")
"""The shapes that a mask can be written as, the one that says most about it first."""

FARTHEST_PERCENT = 1e6
"""No number on an image is larger than this; one that is was not drawn."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The ``value`` of one result, without its labels, and what an annotator should know about it."""

    value: dict[str, Any]
    note: str = ""


def read_value(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The ``value`` of a result, empty when it has none."""
    value = item.get("value")
    return value if isinstance(value, Mapping) else {}


def region_id(item: Mapping[str, Any]) -> str:
    """The id of a result, empty when it has none."""
    found = item.get("id")
    return found if isinstance(found, str) else ""


def region_kind(item: Mapping[str, Any]) -> str:
    """What a result is, with or without labels: ``brush`` for ``brush`` and ``brushlabels``; empty for ``labels``."""
    return str(item.get("type")).removesuffix("labels")


def label_of(item: Mapping[str, Any]) -> str | None:
    """The first label of a result, as the page sent it; None when it has none."""
    value = read_value(item)
    names = value.get(str(item.get("type"))) or value.get("labels")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


def read_number(value: Mapping[str, Any], key: str, default: float | None = None) -> float:
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
