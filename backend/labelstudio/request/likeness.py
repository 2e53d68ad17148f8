"""What "like this" and "like cup" are about: regions of the same image, and those that the memory bank holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backend.labelstudio.request.marks import RegionMark
from backend.labelstudio.request.request import TaskRequest
from backend.labelstudio.shapes.base import Role
from backend.values.errors import RequestError

MOST_HERE = 8
MOST_ELSEWHERE = 3


@dataclass(frozen=True, slots=True)
class Wish:
    """Examples that are wanted: those ``here`` on the image, and at most ``elsewhere`` many of the project with ``label`` (None
    for those that only show).
    """

    label: str | None
    positive: bool
    here: tuple[RegionMark, ...]
    elsewhere: int


def wishes(task: TaskRequest) -> list[Wish]:
    """What a request wants to be compared with.

    Raises:
        RequestError: it wants what resembles a label that the config lacks.
    """
    drawn = [mark for mark in task.references if not task.likes or mark.role is Role.UNLIKE]
    found = [Wish(mark.label, mark.role is Role.REFERENCE, (mark,), 0) for mark in drawn]
    return [*found, *_typed(task)]


def label_to_answer(task: TaskRequest) -> str | None:
    """The class of the answer: the one that is selected, unless it only carries names; or that of what it is to resemble, when
    the examples say one and the same.
    """
    armed = None if task.config.is_named_by_region else task.armed_label
    labels = {task.config.value_of(like.label) for like in task.likes if like.label and like.positive}
    shown = {mark.label for mark in task.references if mark.role is Role.REFERENCE}
    said = labels or shown
    return armed or (next(iter(said)) if len(said) == 1 else None)


def _typed(task: TaskRequest) -> Iterator[Wish]:
    for like in task.likes:
        if like.label is None:
            here: Sequence[RegionMark] = [mark for mark in task.references if mark.role is Role.REFERENCE]
            yield Wish(None, like.positive, tuple(here[:MOST_HERE]), 0 if here else MOST_ELSEWHERE)
            continue
        label = task.config.value_of(like.label)
        if label is None:
            raise RequestError(f"there is no label {like.label!r}; the labelling config has {list(task.vocabulary.labels)}")
        here = [mark for mark in task.draft.finished if mark.label == label]
        yield Wish(label, like.positive, tuple(here[:MOST_HERE]), MOST_ELSEWHERE)


def nothing_to_compare(label: str | None) -> RequestError:
    """The error for a wish without examples."""
    if label is not None:
        return RequestError(f"no region with the label {label!r} has been accepted in this project yet, here or elsewhere")
    return RequestError(
        'nothing shows what "this" is: draw a region with a label that has maskloom="reference" in the labelling config '
        "and wait five seconds until the page has saved it"
    )
