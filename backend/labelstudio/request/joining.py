"""Which earlier prompts belong to the object that is prompted now: the page never sends points together with boxes or text."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from backend.labelstudio.request.request import TaskRequest
from backend.labelstudio.shapes import Mark
from backend.labelstudio.shapes.keypoint import PointMark
from backend.labelstudio.shapes.rectangle import BoxMark

Note = Mapping[str, Any]
"""A smart prompt that was answered, as plain values: its mark, its class under ``label``, and when it came, ``at``."""

MOST_JOINED = 64
"""Of the clicks and boxes about one object the newest so many count, and as many of the regions that mark it."""
STANDS_S = 600.0
STANDS_UNSEEN_S = 20.0
"""How long a prompt is believed to be still on the page when no draft has shown whose page it is."""


def join(task: TaskRequest, notes: Sequence[Note]) -> TaskRequest:
    """The request together with the earlier prompts about the same object.

    ``notes`` are what this annotator prompted before. A rectangle that was once sent as the prompt is no ordinary one. Clicks
    join the boxes in which the newest of them lies, and a box the clicks inside it; a text joins the clicks and boxes that the
    draft still holds. Whatever has been deleted on the page or was followed by an accepted suggestion stays out.
    """
    if not task.interactive or task.references or task.likes:
        return task
    known = {str(note.get("id")) for note in notes}
    marks = tuple(box for box in task.doubtful if box.id in known) + task.marks
    drafted = {mark.id: (label, mark) for label, mark in task.draft.standing}
    noted = dict(_still_there(task, notes)) if marks or not task.texts else {}
    others = [pair for name, pair in {**noted, **drafted}.items() if name not in {mark.id for mark in marks}]
    wanted = [(label, mark) for label, mark in others if _belongs(mark, marks)]
    label = task.armed_label or next((label for label, _ in reversed(wanted) if label), None)
    label = label or next((mark.label for mark in reversed(task.regions) if mark.label), None)
    regions = tuple(mark for mark in task.regions if mark.label in (None, label))
    joined = (*(mark for its, mark in wanted if its in (None, label)), *marks)
    return replace(task, marks=joined[-MOST_JOINED:], doubtful=(), regions=regions[-MOST_JOINED:], armed_label=label)


def notes_of(task: TaskRequest, earlier: Sequence[Note]) -> list[Note]:
    """What to note of an answered request; prompts that were noted before keep their time."""
    before = {note.get("id"): note for note in earlier}
    return [before.get(mark.id) or _note(mark, task) for mark in task.marks if mark.id]


def _note(mark: Mark, task: TaskRequest) -> Note:
    return {**asdict(mark), "label": task.armed_label, "place": [task.image_tag, task.item_index], "at": time.time()}


def _still_there(task: TaskRequest, notes: Sequence[Note]) -> Iterator[tuple[str, tuple[str | None, Mark]]]:
    """The noted prompts of another kind than the request's that no later draft contradicts; of its own kind it has all."""
    own_kind = type(task.marks[-1]) if task.marks else None
    lifetime = STANDS_S if task.annotator else STANDS_UNSEEN_S
    for note in notes:
        mark = _read(note)
        at = float(note.get("at", 0))
        gone = task.draft.saved_at > at and mark.id not in task.draft.ids
        is_here = note.get("place") == [task.image_tag, task.item_index]
        if is_here and not gone and type(mark) is not own_kind and time.time() - at < lifetime:
            yield mark.id, (note.get("label"), mark)


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
