"""What every shape shares: how Label Studio writes results and drafts, and what a region can be for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backend.values.errors import RequestError

FARTHEST_PERCENT = 1e6
"""No number on an image is larger than this; one that is was not drawn."""

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ShapeValue:
    """The ``value`` of one result, without its labels, and what an annotator should know about it."""

    value: dict[str, Any]
    note: str = ""


def mappings(found: Any) -> Iterator[Json]:
    """The objects of a JSON list; nothing when it is no list."""
    return (item for item in found if isinstance(item, Mapping)) if isinstance(found, list) else iter(())


def seconds_of(found: Any) -> float | None:
    """A time of Label Studio, ``"2026-11-20T21:46:52.602861Z"``, in seconds since 1970; None when it is none."""
    try:
        return datetime.fromisoformat(str(found)).timestamp()
    except (ValueError, OverflowError):
        return None


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


OURS = "mk_"
"""What the ids of regions that we suggest begin with. They stay when a suggestion is accepted, which tells that it was."""


def submitted_ids(task: Json) -> frozenset[str]:
    """The ids of all regions in submitted annotations and in predictions."""
    return frozenset(_ids(task, "annotations", "predictions"))


def saved_ids(task: Json) -> frozenset[str]:
    """The ids of all regions in drafts, which the page saves a few seconds after each change."""
    return frozenset(_ids(task, "drafts"))


def newest_draft(task: Json) -> Json:
    """The draft that was saved last; empty when there is none."""
    return max(mappings(task.get("drafts")), key=saved_at, default={})


def saved_at(draft: Json) -> float:
    """When a draft was saved, in seconds since 1970; 0 when it does not tell."""
    return seconds_of(draft.get("updated_at")) or 0.0


def regions_of(holder: Json) -> list[Json]:
    """The regions of a draft or an annotation, in the order in which they were made."""
    return list(mappings(holder.get("result")))


def since_accepted(regions: list[Json]) -> list[Json]:
    """The regions that were made after the last accepted suggestion: earlier prompts have done their work."""
    accepted = (place for place, region in enumerate(regions) if _is_accepted(region))
    return regions[max(accepted, default=-1) + 1 :]


def used_ids(task: Json) -> frozenset[str]:
    """The ids of the regions of the newest draft that were made before the last accepted suggestion."""
    regions = regions_of(newest_draft(task))
    used = regions[: len(regions) - len(since_accepted(regions))]
    return frozenset(region["id"] for region in used if isinstance(region.get("id"), str))


def annotator(task: Json) -> str:
    """Whose drafts came along, as Label Studio sends only those of whoever asks; empty when there are none."""
    users = (str(draft["user"]) for draft in mappings(task.get("drafts")) if draft.get("user"))
    return next(users, "")


def _is_accepted(region: Json) -> bool:
    """Whether a region was suggested by us and accepted; a message of ours in a TextArea is no answer."""
    is_ours = str(region.get("id")).startswith(OURS) and region.get("type") != "textarea"
    return is_ours and not str(region.get("origin")).startswith("prediction")


def _ids(task: Json, *keys: str) -> Iterator[str]:
    for key in keys:
        for holder in mappings(task.get(key)):
            yield from (region["id"] for region in mappings(holder.get("result")) if isinstance(region.get("id"), str))
