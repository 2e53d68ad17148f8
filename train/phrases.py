"""The English noun phrases that the text tower learns from: the names of the data, common words, and compositions of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

_COLOURS = [
    "red",
    "green",
    "blue",
    "yellow",
    "white",
    "black",
    "brown",
    "orange",
    "pink",
    "purple",
    "grey",
    "golden",
    "silver",
    "dark",
    "light",
]
_SIZES = [
    "small",
    "big",
    "large",
    "tiny",
    "tall",
    "long",
    "round",
    "flat",
    "thin",
    "old",
    "new",
    "broken",
    "wet",
    "dirty",
    "open",
    "empty",
]
_MATERIALS = ["wooden", "metal", "plastic", "glass", "leather", "stone", "paper", "rubber", "cotton", "steel", "concrete"]
_FRAMES = (
    "a {}", "the {}", "{}s", "two {}s", "a photo of a {}", "part of a {}", "{} in the background", "{} on a table",
    "{} on the street", "person holding a {}", "head of a {}", "{} in water", "person with {}", "piece of {}",
)  # fmt: skip
_PLAIN = re.compile(r"[a-z]{3,}")


def common_words(vocabulary: Iterable[str]) -> list[str]:
    """The whole words of a WordPiece vocabulary, which lists them by how frequent they are."""
    return [token for token in vocabulary if _PLAIN.fullmatch(token)]


def compose(names: Sequence[str], words: Sequence[str], many: int, seed: int = 0) -> list[str]:
    """The names, the words, and ``many`` compositions such as ``small red cup``, each once, in a fixed order."""
    dice = np.random.default_rng(seed)
    nouns = [*names, *names, *words]
    made = [_composition(nouns, dice) for _ in range(many)]
    return list(dict.fromkeys([*names, *words, *made]))


def _composition(nouns: Sequence[str], dice: np.random.Generator) -> str:
    noun = nouns[dice.integers(len(nouns))]
    way = dice.random()
    if way < 0.25:
        return f"{dice.choice(_COLOURS)} {noun}"
    if way < 0.4:
        return f"{dice.choice(_SIZES)} {dice.choice(_COLOURS)} {noun}"
    if way < 0.5:
        return f"{dice.choice(_SIZES)} {noun}"
    if way < 0.6:
        return f"{dice.choice(_MATERIALS)} {noun}"
    if way < 0.85:
        return str(dice.choice(_FRAMES)).format(noun)
    return f"{noun} {nouns[dice.integers(len(nouns))]}"
