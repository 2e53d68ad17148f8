"""What a task already holds, its annotations, predictions and the annotator's draft, and what a typed line says.

A line has phrases, "this" for what is marked, and "like this" or "like cup" for examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from backend.labelstudio.shapes.base import Json, mappings
from prompts.kinds import TextPrompt
from prompts.phrases import LabelPhrases, Vocabulary, in_words, read_phrases, split_phrases

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


_LIKE = re.compile(r"^(?:(?P<phrase>\S.*?)\s+)??like\s+(?P<whom>\S.*)$", re.IGNORECASE)
_EVERYTHING = re.compile(r"^(?:(?:find|segment)\s+)?(?:all|every|everything|any)(?:\s+of\s+them)?$", re.IGNORECASE)
Names = Mapping[str, LabelPhrases]
"""Labels by their names."""

THIS = frozenset({"this", "that", "these", "it"})


@dataclass(frozen=True, slots=True)
class TypedReference:
    """ "Like cup": what resembles the regions accepted under ``label`` is meant or, when it is None, the reference regions."""

    label: str | None
    positive: bool = True


@dataclass(frozen=True, slots=True)
class Typed:
    """What was typed: the phrases and the references, each once, and whether "this" asks for what is marked."""

    texts: tuple[TextPrompt, ...] = ()
    references: tuple[TypedReference, ...] = ()
    asks_for_marked: bool = False


def read_typed(lines: Iterable[str], labels: Vocabulary) -> Typed:
    """Read the lines of a text prompt.

    A label of the config is that label, whatever words it has ("not red", "like new"), and all the phrases that find it.
    Otherwise "cup, not the saucer" are two phrases; "this" alone says nothing but to answer what is marked on the image; "like
    this", "all like this" and "cup like this" ask for what resembles the reference regions, "like cup" for what resembles the
    regions that have the label cup, and "not like cup" for what does not.
    """
    names = {name: entry for entry in reversed(labels.entries) for name in (in_words(entry.label), entry.label)}
    parts = [
        _read_part(part, names) for line in lines for part in ([line.strip()] if _find(line, names) else split_phrases(line))
    ]
    texts = dict.fromkeys(text for part in parts for text in part.texts)
    references = dict.fromkeys(reference for part in parts for reference in part.references)
    return Typed(tuple(texts), tuple(references), any(part.asks_for_marked for part in parts))


def _read_part(part: str, names: Names) -> Typed:
    """What stands between two commas: a label, or a phrase that may be negative and may tell what the thing resembles."""
    if entry := _find(part, names):
        return Typed(_phrases(TextPrompt(part), entry))
    prompt = next(iter(read_phrases(part)), None)
    if prompt is None:
        return Typed()
    found = _LIKE.match(prompt.phrase) if not _find(prompt.phrase, names) else None
    references = (TypedReference(None if found["whom"].lower() in THIS else found["whom"], prompt.positive),) if found else ()
    phrase = found["phrase"] if found else prompt.phrase
    if not phrase or phrase.lower() in THIS or (found and _EVERYTHING.match(phrase)):
        return Typed((), references, prompt.phrase.lower() in THIS)
    return Typed(_phrases(TextPrompt(phrase, prompt.positive), _find(phrase, names)), references)


def _phrases(prompt: TextPrompt, entry: LabelPhrases | None) -> tuple[TextPrompt, ...]:
    """A phrase or, when it is the name of a label, every phrase of that label."""
    return (prompt, *(TextPrompt(phrase, prompt.positive) for phrase in (entry.phrases[1:] if entry else ())))


def _find(text: str, names: Names) -> LabelPhrases | None:
    """The label that a text names, in its own spelling or in words."""
    return names.get(text.strip()) or names.get(in_words(text))
