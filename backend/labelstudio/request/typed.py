"""What a line typed into a text prompt says: phrases, "this" for what is marked, "like cup" for examples, and edits of masks.

The grammar of edits::

    edit    = verb [ ["of"] label ]
    verb    = "more" | "fewer" | "undo" { "undo" }
            | ["score"] (">" | "above" | "over") score  0 to 1, or a percentage
            | "fill" [["the" | "all"] "holes"] | ("join" | "merge") ["all"] | "split" | "cut"
            | ["keep"] ["the"] ("largest" | "biggest") ["part"]
            | ("grow" | "shrink" | "smooth") [["by"] pixels]  1 to 500, one without a number, three for "smooth"
            | points "points"                          3 to 1000

A line may hold several, and phrases beside them, between commas; a label of the labelling config is always that label. What
begins like an edit with a number and is none ("grow 501", "grow 2 of" what is no label) is no phrase either, but told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from backend.labelstudio.shapes.base import Answer, new_id
from backend.labelstudio.tags import ControlTag
from prompts.kinds import TextPrompt, read_phrases, split_phrases
from prompts.phrases import LabelPhrases, Vocabulary, in_words

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
_PIXELS_SAID = rf"(?:(?:\s+by)?\s*\+?{_NUMBER})?(?:\s*(?:px|pixels?)\b)?"
_FORMS: tuple[tuple[re.Pattern[str], Verb, float], ...] = tuple(
    (re.compile(form, re.IGNORECASE), verb, default)
    for form, verb, default in (
        (r"more", Verb.MORE, 0),
        (r"fewer|less", Verb.FEWER, 0),
        (r"undo", Verb.UNDO, 0),
        (rf"(?:score\s*)?(?:>|above\b|over\b)\s*{_NUMBER}\s*(?P<percent>%)?", Verb.ABOVE, 0),
        (r"fill(?:\s+(?:(?:the|all)\s+)?holes?)?", Verb.FILL, 0),
        (rf"grow{_PIXELS_SAID}", Verb.GROW, 1),
        (rf"shrink{_PIXELS_SAID}", Verb.SHRINK, 1),
        (rf"smooth{_PIXELS_SAID}", Verb.SMOOTH, 3),
        (r"(?:join|merge)(?:\s+all\b)?", Verb.JOIN, 0),
        (r"split", Verb.SPLIT, 0),
        (r"cut", Verb.CUT, 0),
        (r"(?:keep\s+)?(?:the\s+)?(?:largest|biggest)(?:\s+part\b)?", Verb.LARGEST, 0),
        (rf"{_NUMBER}\s+points?\b", Verb.POINTS, 0),
    )
)
_PIXELS = dict.fromkeys((Verb.GROW, Verb.SHRINK, Verb.SMOOTH), (1.0, float(MOST_PIXELS)))
_LIMITS = {Verb.ABOVE: (0.0, 1.0), Verb.POINTS: (3.0, float(MOST_POINTS)), **_PIXELS}
_UNDOS = re.compile(r"undo(?:\s+undo)+", re.IGNORECASE)
_ALMOST = re.compile(
    r"(?:grow|shrink|smooth|undo)\b.*\d.*|(?:score\s*)?(?:[<>]=?|(?:above|over|below|under)\b)\s*[\d.]+\s*%?"
    r"|[\d.]+\s+points?\b.*",
    re.IGNORECASE | re.DOTALL,
)
"""What is meant as an edit, but has a number that cannot be meant, or a name that is no label."""
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
    """What was typed: the phrases and the references, each once, whether "this" asks for what is marked, and the edits in
    order; ``said_by`` is the id of the text prompt, and ``misread`` what its newest line says that is almost an edit.
    """

    texts: tuple[TextPrompt, ...] = ()
    references: tuple[TypedReference, ...] = ()
    asks_for_marked: bool = False
    edits: tuple[Edit, ...] = ()
    misread: tuple[str, ...] = ()
    said_by: str = field(default="", compare=False, repr=False)

    @property
    def only_edits(self) -> bool:
        """Whether nothing is to be found, but what is shown or drawn already is to be changed."""
        return bool(self.edits) and not (self.texts or self.references or self.asks_for_marked)


def read_typed(lines: Iterable[str], labels: Vocabulary) -> Typed:
    """Read the lines of a text prompt.

    A label of the config is that label, whatever words it has ("not red", "like new"), and all the phrases that find it.
    Otherwise "cup, not the saucer" are two phrases; "this" alone says nothing but to answer what is marked on the image; "like
    this", "all like this" and "cup like this" ask for what resembles the reference regions, "like cup" for what resembles the
    regions that have the label cup, and "not like cup" for what does not. Edits are words like "grow 2" (see edits).
    """
    if not (lines := tuple(lines)):
        return Typed()
    names = {name: entry for entry in reversed(labels.entries) for name in (in_words(entry.label), entry.label)}
    read = [tuple(_read_part(part, names) for part in _parts_of(line, names)) for line in lines]
    parts = [part for line in read for part in line]
    texts = dict.fromkeys(text for part in parts for text in part.texts)
    references = dict.fromkeys(reference for part in parts for reference in part.references)
    edits = tuple(edit for part in parts for edit in part.edits)
    misread = tuple(text for part in read[-1] for text in part.misread)
    return Typed(tuple(texts), tuple(references), any(part.asks_for_marked for part in parts), edits, misread)


def _parts_of(line: str, names: Names) -> list[str]:
    """What stands between the commas of a line, which may be a label as a whole; "undo undo" are two."""
    if _find(line, names):
        return [line.strip()]
    return [word for part in split_phrases(line) for word in (part.split() if _UNDOS.fullmatch(part.strip()) else [part])]


def _read_part(part: str, names: Names) -> Typed:
    """What stands between two commas: a label, or a phrase that may be negative and may tell what the thing resembles."""
    if entry := _find(part, names):
        return Typed(_phrases(TextPrompt(part), entry))
    if edit := read_edit(part, lambda text: found.label if (found := _find(text, names)) else None):
        return Typed(edits=(edit,))
    if _ALMOST.fullmatch(part.strip()):
        return Typed(misread=(part.strip(),))
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


MESSAGE_SIGN = "\N{WARNING SIGN}"
"""What our own messages in a TextArea begin with, so that they are not read as prompts when they come back."""


def tell(areas: Sequence[ControlTag], to_name: str, text: str, model_version: str, page: int | None = None) -> Answer:
    """The answer that is a sentence for the annotator, in one of the TextAreas of an object tag; one
    named ``message`` or ``messages`` is preferred.
    """
    area = next((area for area in areas if area.name.lower() in ("message", "messages")), areas[0])
    paged = {} if page is None or not area.is_on("peritem") else {"item_index": page}
    head = {"id": new_id(), "from_name": area.name, "type": area.type, "to_name": to_name, **paged}
    return {"result": [{**head, "value": {"text": [f"{MESSAGE_SIGN} {text}"]}}], "score": 0.0, "model_version": model_version}
