"""What every shape shares: how Label Studio writes results, drafts and predictions."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backend.values.errors import RequestError

FARTHEST_PERCENT = 1e6
"""No number on an image is larger than this; one that is was not drawn."""

Json = Mapping[str, Any]
Answer = dict[str, Any]
"""What Label Studio is answered about one task."""


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


def is_event(body: Any) -> bool:
    """Whether a request is of the event protocol of Label Studio's open front end: its context names an event, tells a time, or
    has points that say ``positive`` themselves.
    """
    params = body.get("params") if isinstance(body, Mapping) else None
    context = params.get("context") if isinstance(params, Mapping) else None
    if not isinstance(context, Mapping):
        return False
    if context.get("event") or "time_ms" in context or "frame" in context:
        return True
    return any("positive" in read_value(item) for item in mappings(context.get("result")))


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


_OF_PAGE = "="
"""What an id of the page begins with until the regions of an answer are numbered; no id that we make does."""


def number_regions(answer: Answer, name: str) -> Answer:
    """An answer whose regions say in their ids from which answer they are; the results of one shape still share one. One under
    an id of the page keeps it.
    """
    rows: dict[str, int] = {}

    def numbered(old: str) -> str:
        return old.removeprefix(_OF_PAGE) if old.startswith(_OF_PAGE) else f"{OURS}{name}_{rows.setdefault(old, len(rows)):x}"

    result = [{**item, "id": numbered(item["id"])} for item in answer.get("result", ())]
    return {**answer, "result": result} if "result" in answer else answer


def new_id() -> str:
    """The id of a region in an answer that is not numbered yet."""
    return f"{OURS}{uuid.uuid4().hex[:10]}"


def new_answer() -> str:
    """The name of an answer that nobody else has."""
    return uuid.uuid4().hex[:10]


def repeatable_answer(answer: Answer, *facts: str) -> str:
    """The name of an answer to a question with these facts: the same for the same answer."""
    plain = json.dumps([number_regions(answer, ""), facts], sort_keys=True)
    return hashlib.blake2b(plain.encode(errors="surrogatepass"), digest_size=5).hexdigest()


def answer_of(region: str) -> str:
    """The name of the answer that a region is from, by the region's id; empty for one that is not ours."""
    return region.removeprefix(OURS).partition("_")[0] if region.startswith(OURS) else ""


def under_id(prediction: Answer, name: str) -> Answer:
    """The same with its first region under an id that the page knows: accepted there, it takes the place of the region that has
    the id (Label Studio 1.23, ``acceptSuggestion``).
    """
    first = prediction["result"][0]["id"] if prediction["result"] else None
    result = [{**item, "id": f"{_OF_PAGE}{name}"} if item["id"] == first else item for item in prediction["result"]]
    return {**prediction, "result": result}


def write_empty(model_version: str) -> Answer:
    """The answer that there is nothing."""
    return {"result": [], "score": 0.0, "model_version": model_version}


def write_failure(text: str, model_version: str) -> Answer:
    """The answer for a task that has none because something failed. Label Studio (1.23) logs an answer without a ``result`` and
    stores nothing, so that the task still counts as one without a prediction; an empty ``result`` it would store for good.
    """
    return {"error": text, "score": 0.0, "model_version": model_version}


def write_together(parts: Sequence[Answer], model_version: str) -> Answer:
    """One prediction of what was found on several images of a task; the score is the mean over the images with regions."""
    scores = [part["score"] for part in parts if part["result"]]
    result = [item for part in parts for item in part["result"]]
    return {"result": result, "score": sum(scores) / len(scores) if scores else 0.0, "model_version": model_version}


def in_number(number: int, noun: str) -> str:
    """A number of things in words, empty for none: ``2 clicks against``."""
    one, _, rest = noun.partition(" ")
    many = f"{one}{'es' if one.endswith('x') else 's'} {rest}".strip()
    return "" if not number else f"{number} {noun if number == 1 else many}"
