"""Which names, sources and photos no network is trained on, so that what is found of them says how well it generalises."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from prompts.encoders.embedded import words_of
from train.data import VOID, Photo, Row

NONCOMMERCIAL = frozenset({"camvid", "labelme_facade", "cwfid_crop_weed", "bsds_objects", "bsds_segments", "ikea_products"})
"""Sources whose data set forbids commercial use: the default weights are made without them."""
SOURCES = frozenset({"weizmann_horses", "davis_dev"})
"""Sources that no weights are made with."""
COCO_NAMES = (
    "zebra", "giraffe", "umbrella", "banana", "skateboard", "fire hydrant", "donut", "toilet", "kite", "suitcase", "train",
    "scissors",
)  # fmt: skip
OTHER_NAMES = (
    "kangaroo", "rhinoceros", "dolphin", "hedgehog", "wheelchair", "flamingo", "sea turtle", "lotus flower", "cannon", "okapi",
    "stapler", "revolver", "menorah", "headphones", "gramophone", "wrench", "stegosaurus", "scorpion", "anchor", "metronome",
    "pineapple", "garlic", "papaya", "avocado", "pomegranate", "forklift", "espresso maker", "birdhouse", "pipe organ",
    "goldfish", "ladybug", "canoe", "aircraft carrier", "violin", "hourglass", "ibex",
)  # fmt: skip
NAMES = (*COCO_NAMES, *OTHER_NAMES)
"""Names that no mask, no photo's class and no question carries in training, nor any longer name that contains one."""
CHOSEN_BY = frozenset(NAMES[::2])
"""Those of them by which is chosen what a name needs that nobody taught; the others tell how well it generalises."""
_WORDS = {name: frozenset(words_of(name)) for name in NAMES}


def held_out_name(name: str) -> str | None:
    """The held-out name that a name is or contains, in the singular or the plural; None where it is none."""
    said = frozenset(word for each in words_of(name) for word in (each, each.removesuffix("s"), each.removesuffix("es")))
    return next((held_out for held_out, words in _WORDS.items() if words <= said), None)


def is_held_out(name: str) -> bool:
    """Whether a name is a held-out one or contains one."""
    return held_out_name(name) is not None


def is_chosen_by(name: str) -> bool:
    """Whether a name is one of the held-out ones by which something is chosen."""
    return held_out_name(name) in CHOSEN_BY


def is_reported(name: str) -> bool:
    """Whether a name is one of the held-out ones that nothing was chosen by."""
    return is_held_out(name) and not is_chosen_by(name)


def asked_by(photo: Photo, asked: Callable[[str], bool]) -> Photo:
    """A photo of which some names alone are asked, present and absent."""
    hidden = frozenset(name for name in photo.row.names.values() if not asked(name))
    row = replace(photo.row, incomplete=photo.row.incomplete | hidden)
    return replace(photo, row=row, absent=tuple(name for name in photo.absent if asked(name)))


def trained_rows(rows: Iterable[Row], excluded: frozenset[str] = NONCOMMERCIAL | SOURCES) -> list[Row]:
    """The rows that weights are made with: the train split without ``excluded`` sources, and without photos and cutouts whose
    only name is held out.
    """
    kept = [row for row in rows if row.split == "train" and row.source not in excluded]
    return [row for row in kept if not row.names or any(not is_held_out(name) for name in row.names.values())]


def unnamed(photo: Photo) -> Photo:
    """A photo whose objects of held-out names are void, and whose names are the others."""
    hidden = [key for key, name in photo.row.names.items() if is_held_out(name)]
    absent = tuple(name for name in photo.absent if not is_held_out(name))
    if not hidden:
        return replace(photo, absent=absent)
    ids = photo.ids.copy()
    ids[np.isin(ids, hidden)] = VOID
    names = {key: name for key, name in photo.row.names.items() if key not in hidden}
    return replace(photo, row=replace(photo.row, names=names), ids=ids, absent=absent)
