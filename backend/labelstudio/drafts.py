"""What a task already holds: its annotations, predictions and the annotator's draft, and who the annotator is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]


def settled_ids(task: Json) -> frozenset[str]:
    """The ids of all regions in submitted annotations and in predictions."""
    return frozenset(_ids(task, "annotations", "predictions"))


def drafted_ids(task: Json) -> frozenset[str]:
    """The ids of all regions in drafts, which the page saves a few seconds after each change."""
    return frozenset(_ids(task, "drafts"))


def annotator(task: Json) -> str:
    """Whose drafts came along, as Label Studio sends only those of whoever asks; empty when there are none."""
    users = (str(draft["user"]) for draft in mappings(task.get("drafts")) if draft.get("user"))
    return next(users, "")


def mappings(found: Any) -> Iterator[Json]:
    """The objects of a JSON list; nothing when it is no list."""
    return (item for item in found if isinstance(item, Mapping)) if isinstance(found, list) else iter(())


def _ids(task: Json, *keys: str) -> Iterator[str]:
    for key in keys:
        for holder in mappings(task.get(key)):
            yield from (region["id"] for region in mappings(holder.get("result")) if isinstance(region.get("id"), str))
