"""What a task already holds: its annotations, predictions and the annotator's draft, and who the annotator is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from backend.labelstudio.shapes.base import Json, mappings

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
    try:
        return datetime.fromisoformat(str(draft.get("updated_at"))).timestamp()
    except (ValueError, OverflowError):
        return 0.0


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
