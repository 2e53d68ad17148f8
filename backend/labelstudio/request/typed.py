"""What a line typed into a text prompt says: phrases, "this" for what is marked, and "like this" or "like cup" for examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prompts.kinds import TextPrompt
from prompts.phrases import LabelPhrases, Vocabulary, in_words, read_phrases, split_phrases

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
