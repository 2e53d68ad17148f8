"""What a line typed into a text prompt says: phrases, "this" for what is marked, and "like this" or "like cup" for examples."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from prompts.kinds import TextPrompt
from prompts.phrases import read_phrases

_LIKE = re.compile(r"^(?:(?P<phrase>\S.*?)\s+)?like\s+(?P<whom>\S.*)$", re.IGNORECASE)
_EVERYTHING = re.compile(r"^(?:(?:find|segment)\s+)?(?:all|every|everything|any)(?:\s+of\s+them)?$", re.IGNORECASE)
THIS = frozenset({"this", "that", "these", "it"})


@dataclass(frozen=True, slots=True)
class Like:
    """A wish for what resembles examples: the regions accepted under ``label`` or, when it is None, the reference regions."""

    label: str | None
    positive: bool = True


@dataclass(frozen=True, slots=True)
class Sentence:
    """What was typed: the phrases and the wishes for likeness, each once, and whether "this" asks for what is marked."""

    texts: tuple[TextPrompt, ...] = ()
    likes: tuple[Like, ...] = ()
    asks_for_marked: bool = False


def read_sentence(lines: Iterable[str]) -> Sentence:
    """Read the lines of a text prompt.

    "cup, not the saucer" are two phrases; "this" alone says nothing but to answer what is marked on the image; "like this",
    "all like this" and "cup like this" wish for what resembles the reference regions, "like cup" for what resembles the regions
    that have the label cup, and "not like cup" for what does not.
    """
    texts, likes = [], []
    prompts = [prompt for line in lines for prompt in read_phrases(line)]
    for prompt in prompts:
        found = _LIKE.match(prompt.phrase)
        if found:
            likes.append(Like(None if found["whom"].lower() in THIS else found["whom"], prompt.positive))
        phrase = found["phrase"] if found else prompt.phrase
        if phrase and phrase.lower() not in THIS and not (found and _EVERYTHING.match(phrase)):
            texts.append(TextPrompt(phrase, prompt.positive))
    asks_for_marked = any(prompt.phrase.lower() in THIS for prompt in prompts)
    return Sentence(tuple(dict.fromkeys(texts)), tuple(dict.fromkeys(likes)), asks_for_marked)
