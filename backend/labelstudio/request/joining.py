"""Which earlier prompts belong to the object that is prompted now: the page never sends points together with boxes or text."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from backend.labelstudio.request.request import InteractionRequest
from backend.labelstudio.shapes import Mark
from backend.labelstudio.shapes.keypoint import PointMark
from backend.labelstudio.shapes.rectangle import BoxMark

Note = Mapping[str, Any]
"""A smart prompt that was answered, as plain values: its mark, its class under ``label``, and when it came, ``at``."""

Labelled = tuple[str | None, Mark]
"""A prompt with its class."""

MOST_JOINED = 64
"""Of the clicks and boxes about one object the newest so many count, and as many of the regions that mark it."""
STANDS_S = 600.0
STANDS_UNSEEN_S = 20.0
"""How long a prompt is believed to be still on the page when no draft has shown whose page it is."""


def join(task: InteractionRequest, notes: Sequence[Note]) -> InteractionRequest:
    """The request together with the earlier prompts about the same object.

    ``notes`` are what this annotator prompted before. An ambiguous rectangle that is remembered is a prompt. Clicks join the
    boxes in which the newest of them lies, and a box the clicks inside it; a text joins the clicks and boxes that the draft
    still holds. Whatever has been deleted on the page or was followed by an accepted suggestion stays out.
    """
    if task.asks_for_likeness:
        return task
    remembered = {str(note.get("id")) for note in notes}
    marks = (*(box for box in task.ambiguous if box.id in remembered), *task.marks)
    earlier = [(label, mark) for label, mark in _earlier(task, marks, notes) if _belongs(mark, marks)]
    label = _label_of_the_object(task, earlier)
    regions = tuple(mark for mark in task.regions if mark.label in (None, label))
    joined = (*(mark for its, mark in earlier if its in (None, label)), *marks)
    return replace(task, marks=joined[-MOST_JOINED:], ambiguous=(), regions=regions[-MOST_JOINED:], armed_label=label)


def notes_of(task: InteractionRequest, earlier: Sequence[Note]) -> list[Note]:
    """What to note of an answered request; prompts that were noted before keep their time."""
    before = {note.get("id"): note for note in earlier}
    return [before.get(mark.id) or _note(mark, task) for mark in task.marks if mark.id]


def _note(mark: Mark, task: InteractionRequest) -> Note:
    return {**asdict(mark), "label": task.armed_label, "place": _place(task), "at": time.time()}


def _place(task: InteractionRequest) -> list[Any]:
    return [task.labels.image.name, task.image.item_index]


def _earlier(task: InteractionRequest, marks: Sequence[Mark], notes: Sequence[Note]) -> list[Labelled]:
    """The prompts from before the request that may still count; a text by itself has only those that the draft holds."""
    sent = {mark.id for mark in marks}
    remembered = _still_there(task, notes) if marks or not task.typed.texts else ()
    found = {mark.id: (label, mark) for label, mark in (*remembered, *task.draft.current)}
    return [pair for name, pair in found.items() if name not in sent]


def _label_of_the_object(task: InteractionRequest, earlier: Sequence[Labelled]) -> str | None:
    """The class that is selected, or else the newest that an earlier prompt or a marked region has."""
    said = (task.armed_label, *(label for label, _ in reversed(earlier)), *(mark.label for mark in reversed(task.regions)))
    return next(filter(None, said), None)


def _still_there(task: InteractionRequest, notes: Sequence[Note]) -> Iterator[Labelled]:
    """The remembered prompts of another kind than the request's that no later draft contradicts; of its own kind it has all."""
    own_kind = type(task.marks[-1]) if task.marks else None
    lifetime = STANDS_S if task.annotator else STANDS_UNSEEN_S
    for note in notes:
        mark = _read(note)
        at = float(note.get("at", 0))
        gone = task.draft.saved_at > at and mark.id not in task.draft.ids
        if note.get("place") == _place(task) and not gone and type(mark) is not own_kind and time.time() - at < lifetime:
            yield note.get("label"), mark


def _read(note: Note) -> Mark:
    if "positive" in note:
        return PointMark(note["x"], note["y"], note["positive"], note["id"])
    return BoxMark(note["x"], note["y"], note["width"], note["height"], note["degrees"], note["id"])


def _belongs(mark: Mark, marks: Sequence[Mark]) -> bool:
    """Whether an earlier mark is about the same object as the new ones; with none, a text is about whatever is marked."""
    match mark, marks[-1] if marks else None:
        case _, None:
            return True
        case BoxMark(), PointMark():
            positive = [point for point in marks if isinstance(point, PointMark) and point.positive]
            return not positive or mark.holds(positive[-1].x, positive[-1].y)
        case PointMark(), BoxMark():
            return any(isinstance(box, BoxMark) and box.holds(mark.x, mark.y) for box in marks)
        case _:
            return False
