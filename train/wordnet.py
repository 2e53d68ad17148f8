"""English nouns for things that can be seen: ImageNet's classes and their synonyms, from the lists that timm carries."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

MOST_SYNONYMS = 3


@cache
def synonyms() -> dict[str, tuple[str, ...]]:
    """The names of every WordNet synset that ImageNet has photos of, by its id, the usual name first."""
    lines = _lists().joinpath("imagenet_synset_to_lemma.txt").read_text().splitlines()
    pairs = (line.split("\t", 1) for line in lines if line)
    return {synset: tuple(name.strip().lower() for name in names.split(",")) for synset, names in pairs}


@cache
def classes() -> tuple[tuple[str, ...], ...]:
    """The names of the 1,000 classes of ImageNet's competition, in the order of its classifiers."""
    ids = _lists().joinpath("imagenet_synsets.txt").read_text().split()
    known = synonyms()
    return tuple(known[synset][:MOST_SYNONYMS] for synset in ids)


def _lists() -> Path:
    found = importlib.util.find_spec("timm")
    if found is None or found.origin is None:
        raise FileNotFoundError("timm is not installed: its lists of ImageNet's names are needed")
    return Path(found.origin).parent / "data" / "_info"
