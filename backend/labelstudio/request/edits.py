"""Words that edit masks: the grammar of commands such as "grow 2", "fill holes" or "> 0.6", and the one parser of it.

::

    edit    = verb [ ["of"] label ]
    verb    = "more" | "fewer" | "undo"
            | (">" | "above" | "over") score          0 to 1, or a percentage
            | "fill" ["holes"] | "join" | "split" | "cut" | "largest" ["part"]
            | ("grow" | "shrink" | "smooth") [pixels]  1 to 500, one without a number, three for "smooth"
            | points "points"                          3 to 1000

A line may hold several, and phrases beside them, between commas; a label of the labelling config is always that label.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

MOST_EDITS = 100
"""Of one text prompt the newest so many are carried out."""
MOST_PIXELS = 500
MOST_POINTS = 1000


class Verb(StrEnum):
    """What an edit does with the masks that it is about."""

    MORE = "more"
    """Finds what resembles them as well."""
    FEWER = "fewer"
    """Keeps the better half."""
    ABOVE = "above"
    """Keeps those with a score above a number."""
    FILL = "fill holes"
    SMOOTH = "smooth"
    """Rounds outlines: what is thinner than twice so many pixels goes, gaps as thin are closed."""
    GROW = "grow"
    """Adds every pixel within so many pixels."""
    SHRINK = "shrink"
    """Takes away every pixel within so many pixels of the outside."""
    JOIN = "join"
    """Makes one region of all with the same label."""
    SPLIT = "split"
    """Makes a region of each part."""
    CUT = "cut"
    """Takes away what other regions cover already."""
    LARGEST = "largest part"
    POINTS = "points"
    """Draws polygons with so many points at most."""
    UNDO = "undo"
    """Takes the last edit back."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One command; ``amount`` is its number, ``label`` whose regions it is about, None for what is shown."""

    verb: Verb
    amount: float = 0.0
    label: str | None = None

    def __str__(self) -> str:
        number = f" {self.amount:g}" if self.amount else ""
        said = {Verb.ABOVE: f">{number}", Verb.POINTS: f"{self.amount:g} points"}.get(self.verb, f"{self.verb}{number}")
        return said if self.label is None else f"{said} of {self.label}"


_NUMBER = r"(?P<number>\d{1,6}(?:\.\d{1,6})?|\.\d{1,6})"
_FORMS: tuple[tuple[re.Pattern[str], Verb, float], ...] = tuple(
    (re.compile(form, re.IGNORECASE), verb, default)
    for form, verb, default in (
        (r"more", Verb.MORE, 0),
        (r"fewer|less", Verb.FEWER, 0),
        (r"undo", Verb.UNDO, 0),
        (rf"(?:>|above\b|over\b)\s*{_NUMBER}\s*(?P<percent>%)?", Verb.ABOVE, 0),
        (r"fill(?:\s+(?:the\s+)?holes?)?", Verb.FILL, 0),
        (rf"grow(?:\s+{_NUMBER})?(?:\s*(?:px|pixels?)\b)?", Verb.GROW, 1),
        (rf"shrink(?:\s+{_NUMBER})?(?:\s*(?:px|pixels?)\b)?", Verb.SHRINK, 1),
        (rf"smooth(?:\s+{_NUMBER})?(?:\s*(?:px|pixels?)\b)?", Verb.SMOOTH, 3),
        (r"join|merge", Verb.JOIN, 0),
        (r"split", Verb.SPLIT, 0),
        (r"cut", Verb.CUT, 0),
        (r"largest(?:\s+part)?", Verb.LARGEST, 0),
        (rf"{_NUMBER}\s+points", Verb.POINTS, 0),
    )
)
_PIXELS = dict.fromkeys((Verb.GROW, Verb.SHRINK, Verb.SMOOTH), (1.0, float(MOST_PIXELS)))
_LIMITS = {Verb.ABOVE: (0.0, 1.0), Verb.POINTS: (3.0, float(MOST_POINTS)), **_PIXELS}
_OF = re.compile(r"\s+(?:of\s+)?(?P<label>\S.*)$", re.IGNORECASE)


def read_edit(part: str, label_of: Callable[[str], str | None]) -> Edit | None:
    """What stands between two commas as an edit; None when it is none: a phrase, or a number that cannot be meant.

    ``label_of`` gives the label that a text names exactly, or None.
    """
    text = part.strip()
    if label_of(text) is not None:
        return None
    for form, verb, default in _FORMS:
        found = form.match(text)
        if found is None:
            continue
        label, is_read = _label_after(text[found.end() :], label_of)
        amount = _amount(found, verb, default)
        if is_read and amount is not None:
            return Edit(verb, amount, label)
    return None


def _label_after(rest: str, label_of: Callable[[str], str | None]) -> tuple[str | None, bool]:
    """The label that follows a verb, and whether all of the rest could be read."""
    if not rest.strip():
        return None, True
    found = _OF.match(rest)
    label = label_of(found["label"]) if found else None
    return label, label is not None


def _amount(found: re.Match[str], verb: Verb, default: float) -> float | None:
    """The number of an edit; None when it is out of its bounds."""
    groups = found.groupdict()
    given = groups.get("number")
    amount = default if given is None else float(given) / (100 if groups.get("percent") else 1)
    low, high = _LIMITS.get(verb, (0.0, 0.0))
    return amount if low <= amount <= high else None


def done_in_order(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    """The edits that are left when every "undo" has taken back the one before it; an "undo" that finds none stays, at the
    beginning: it is about what was edited before.
    """
    left: list[Edit] = []
    for edit in edits[-MOST_EDITS:]:
        if edit.verb is Verb.UNDO and left and left[-1].verb is not Verb.UNDO:
            left.pop()
        else:
            left.append(edit)
    return tuple(left)
