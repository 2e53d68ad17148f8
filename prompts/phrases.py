"""Label names as phrases: aliases, prompt templates and "not X"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LabelPhrases:
    """One label of a project and the phrases it answers to; the first phrase is the label's own name in words."""

    label: str
    phrases: tuple[str, ...]

    @classmethod
    def of(cls, label: str, aliases: Iterable[str] = ()) -> LabelPhrases:
        """A label and its aliases, each once; without aliases the label's own name is the phrase."""
        phrases = dict.fromkeys(words for words in (in_words(label), *map(in_words, aliases)) if words)
        return cls(label, tuple(phrases) or (label,))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The labels of a project, in the order of its labelling config."""

    entries: tuple[LabelPhrases, ...] = ()

    @classmethod
    def from_names(cls, names: Iterable[str]) -> Vocabulary:
        return cls(tuple(LabelPhrases.of(name) for name in dict.fromkeys(names)))

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(entry.label for entry in self.entries)

    def find(self, phrase: str) -> str | None:
        """The label that answers to a phrase: the label itself, or one that is the same but for case, separators, how accents
        are coded and a plural "s"; None when there is none.
        """
        return self.find_all([phrase])[phrase]

    def find_all(self, phrases: Iterable[str]) -> dict[str, str | None]:
        """The label that answers to each of some phrases (see ``find``), all labels looked at once."""
        labels, folded = set(self.labels), dict[str, str]()
        for entry in self.entries:
            for known in (entry.label, *entry.phrases):
                folded.setdefault(_fold(known), entry.label)
        return {phrase: phrase if phrase in labels else folded.get(_fold(phrase)) for phrase in phrases}


def in_words(name: str) -> str:
    """A label name as a person would say it: ``traffic_light`` and ``TrafficLight`` become ``traffic light``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return re.sub(r"[\s_\-/]+", " ", spaced).strip().lower()


def fill_templates(phrase: str, templates: Sequence[str]) -> list[str]:
    """The phrase inside each template (``"a photo of a {}."``)."""
    return [template.format(phrase) for template in templates]


def _fold(phrase: str) -> str:
    words = in_words(unicodedata.normalize("NFC", phrase))
    return words[:-1] if words.endswith("s") and not words.endswith("ss") else words
