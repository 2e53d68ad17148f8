"""The English noun phrases that the text tower learns from, and which of them mean the same thing.

Articles, plurals and frames such as "a photo of a" do not change what a phrase is about; adjectives and places change it
little; strings that are no words are about nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_COLOURS = (
    "red", "green", "blue", "yellow", "white", "black", "brown", "orange", "pink", "purple", "grey", "golden", "silver", "dark",
    "light",
)  # fmt: skip
_QUALITIES = (
    "small", "big", "large", "tiny", "tall", "long", "round", "flat", "thin", "old", "new", "broken", "wet", "dirty", "open",
    "empty", "left", "right", "front", "other", "single", "wooden", "metal", "plastic", "glass", "leather", "stone", "paper",
    "rubber", "cotton", "steel", "concrete",
)  # fmt: skip
_SAME = ("{}", "{}", "photo of a {}", "picture of the {}", "one {}", "every {}", "all the {}", "any {}", "this {}")
_ABOUT = (
    "{} in the background", "{} on a table", "{} on the street", "{} in water", "{} on the left", "{} in the middle",
    "piece of {}", "part of a {}", "{} with a handle", "{} next to a wall",
)  # fmt: skip
_PLAIN = re.compile(r"[a-z]{3,}")
_IRREGULAR = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "foot": "feet", "tooth": "teeth", "mouse": "mice",
    "goose": "geese", "knife": "knives", "leaf": "leaves", "wolf": "wolves", "shelf": "shelves", "loaf": "loaves",
    "sheep": "sheep", "fish": "fish", "deer": "deer", "scarf": "scarves",
    "half": "halves", "calf": "calves", "wife": "wives", "ox": "oxen",
}  # fmt: skip
_STARTS = ("b", "bl", "d", "dr", "f", "fl", "g", "gr", "j", "k", "kl", "m", "n", "p", "qu", "r", "s", "sk", "t", "tr", "v", "z")
_MIDDLES = ("a", "e", "i", "o", "u", "ee", "oo", "ai", "y")
_LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")


@dataclass(frozen=True, slots=True)
class Lesson:
    """A phrase, the noun it is about, and how much it means that noun beside itself; nothing where ``noun`` is empty."""

    phrase: str
    noun: str
    share: float


def common_words(vocabulary: Iterable[str]) -> list[str]:
    """The whole words of a WordPiece vocabulary, which lists them by how frequent they are."""
    return [token for token in vocabulary if _PLAIN.fullmatch(token)]


def plural(noun: str) -> str:
    """The plural of an English noun phrase."""
    *before, last = noun.split(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith("man"):
        last = last[:-3] + "men"
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    else:
        last += "es" if re.search(r"(s|x|z|ch|sh)$", last) else "s"
    return " ".join([*before, last])


def lessons(names: Sequence[str], words: Sequence[str], many: int, seed: int = 0) -> list[Lesson]:
    """Names and words as they are, names in the plural, ``many`` phrases about them and a third as many about nothing, each
    phrase once.
    """
    dice = np.random.default_rng(seed)
    plain = [Lesson(phrase, phrase, 1.0) for phrase in dict.fromkeys([*names, *words])]
    known = {lesson.phrase for lesson in plain}
    several = [Lesson(plural(name), name, 1.0) for name in names if plural(name) not in known]
    about = [_about(names[dice.integers(len(names))], dice) for _ in range(many)]
    invented = (_invented(dice) for _ in range(many // 3))
    nothing = [Lesson(word, "", 1.0) for word in invented if word not in known]
    found: dict[str, Lesson] = {}
    for lesson in [*plain, *several, *about, *nothing]:
        found.setdefault(lesson.phrase, lesson)
    return list(found.values())


def _about(noun: str, dice: np.random.Generator) -> Lesson:
    way = dice.random()
    said = plural(noun) if dice.random() < 0.3 else noun
    if way < 0.3:
        return Lesson(str(dice.choice(_SAME)).format(said), noun, 1.0)
    if way < 0.55:
        return Lesson(f"{dice.choice(_COLOURS)} {said}", noun, 0.75)
    if way < 0.8:
        return Lesson(f"{dice.choice(_QUALITIES)} {said}", noun, 0.75)
    if way < 0.88:
        return Lesson(f"{dice.choice(_QUALITIES)} {dice.choice(_COLOURS)} {said}", noun, 0.7)
    return Lesson(str(dice.choice(_ABOUT)).format(said), noun, 0.7)


def _invented(dice: np.random.Generator) -> str:
    """A string that is most likely no word."""
    if dice.random() < 0.4:
        return "".join(dice.choice(_LETTERS, dice.integers(3, 11)))
    parts = [f"{dice.choice(_STARTS)}{dice.choice(_MIDDLES)}" for _ in range(dice.integers(2, 5))]
    word = "".join(parts) + str(dice.choice(("", "", "x", "k", "rt", "mp")))
    return word if dice.random() < 0.8 else f"{word} {''.join(dice.choice(_LETTERS, dice.integers(3, 8)))}"
