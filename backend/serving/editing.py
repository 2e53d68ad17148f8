"""Editing: what the words that edit masks do to masks, and which masks they are about."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from backend.labelstudio.answer import NO_NAMES, Found
from backend.labelstudio.request.context import masks_of
from backend.labelstudio.request.request import InteractionRequest
from backend.labelstudio.request.typed import Edit, Verb, done_in_order
from backend.labelstudio.shapes import covers_pixels
from backend.labelstudio.shapes.base import OURS, region_kind
from backend.serving.history import page_key
from backend.values.masks import Masks, MaskSet, Region, RunLengths, best_first, united
from backend.values.morphology import fill_holes, grow, in_its_box, parts_of, shrink, smooth_runs, without
from backend.values.session import SessionKey
from prompts.geometry import Size

MOST_PAGES = 500
MOST_STEPS = 20
MOST_BYTES = 64 << 20
"""What is remembered of all that is shown, as runs."""
MOST_PARTS = 200
"""A region is split into no more."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A region with the id under which the page has it (empty: a new one), the shape that it has there, and the points that it
    may have as a polygon (0: the usual number).
    """

    region: Region
    id: str = ""
    form: str = ""
    points: int = 0


Pieces = tuple[Piece, ...]
Others = Callable[[], Masks]
"""The masks of the annotation that are not edited, read when they are needed."""
Alike = Callable[[Pieces], Sequence[Region]]
"""What else on the image resembles regions."""


def pieces_of(masks: MaskSet) -> Pieces:
    """What was found, as new regions."""
    return tuple(map(Piece, masks))


def apply(pieces: Pieces, edits: Sequence[Edit], others: Others, alike: Alike) -> Pieces:
    """The regions after edits, in order. A region of which nothing is left is gone."""
    for edit in edits:
        pieces = _apply(pieces, edit, others, alike)
    return pieces


def _apply(pieces: Pieces, edit: Edit, others: Others, alike: Alike) -> Pieces:
    chosen = tuple(piece for piece in pieces if edit.label in (None, piece.region.label))
    rest = tuple(piece for piece in pieces if piece not in chosen)
    match edit.verb:
        case Verb.MORE:
            changed: Pieces = (*chosen, *map(Piece, alike(chosen)))
        case Verb.FEWER:
            kept = best_first(np.array([piece.region.score for piece in chosen], np.float32))
            changed = tuple(chosen[row] for row in sorted(kept[: -(-len(kept) // 2)]))
        case Verb.ABOVE:
            changed = tuple(piece for piece in chosen if piece.region.score > edit.amount)
        case Verb.JOIN:
            changed = tuple(_joined(chosen))
        case Verb.SPLIT:
            changed = tuple(part for piece in chosen for part in _split(piece))
        case Verb.CUT:
            changed = tuple(_cut(chosen, others()))
        case Verb.POINTS:
            changed = tuple(replace(piece, points=int(edit.amount)) for piece in chosen)
        case _:
            changed = tuple(_with_runs(piece, MASK_EDITS[edit.verb](piece.region.runs, edit.amount)) for piece in chosen)
    return tuple(piece for piece in (*rest, *changed) if piece.region.runs.area)


MASK_EDITS: dict[Verb, Callable[[RunLengths, float], RunLengths]] = {
    Verb.FILL: lambda runs, _: in_its_box(runs, 1, fill_holes),
    Verb.LARGEST: lambda runs, _: next(iter(parts_of(runs)), runs),
    Verb.UNDO: lambda runs, _: runs,
    Verb.GROW: lambda runs, pixels: in_its_box(runs, int(pixels) + 1, lambda mask: grow(mask, pixels)),
    Verb.SHRINK: lambda runs, pixels: in_its_box(runs, 1, lambda mask: shrink(mask, pixels)),
    Verb.SMOOTH: smooth_runs,
}


def _with_runs(piece: Piece, runs: RunLengths) -> Piece:
    return replace(piece, region=replace(piece.region, runs=runs))


def _joined(pieces: Pieces) -> Iterator[Piece]:
    """One region for each label, under the id and the score of the best."""
    for label in dict.fromkeys(piece.region.label for piece in pieces):
        same = [piece for piece in pieces if piece.region.label == label]
        best = max(same, key=lambda piece: piece.region.score)
        yield _with_runs(best, united([piece.region.runs for piece in same]))


def _split(piece: Piece) -> Iterator[Piece]:
    """The largest part keeps the id; of more parts than a page should have the smallest stay together."""
    parts = parts_of(piece.region.runs)
    rest = [united(parts[MOST_PARTS:])] if len(parts) > MOST_PARTS else []
    for place, part in enumerate([*parts[:MOST_PARTS], *rest]):
        yield _with_runs(piece if place == 0 else replace(piece, id=""), part)


def _cut(pieces: Pieces, others: Masks) -> Iterator[Piece]:
    """Without what other regions cover, and of two that are edited the better one keeps what both cover."""
    taken = list(others.runs) if pieces else []
    for row in best_first(np.array([piece.region.score for piece in pieces], np.float32)):
        left = without(pieces[row].region.runs, taken)
        taken.append(left)
        yield _with_runs(pieces[row], left)


@dataclass(frozen=True, slots=True)
class Request:
    """Which text prompt asks for which edits: the same one asked again gets the same answer."""

    said_by: str
    edits: tuple[Edit, ...]

    def continues(self, earlier: Request) -> bool:
        """Whether it is the earlier one with more after it."""
        return self.said_by == earlier.said_by and self.edits[: len(earlier.edits)] == earlier.edits


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page shows: the answer before every edit since it was found, the newest last, and who asked last. ``known`` are
    the ids that the draft held when it was first shown.
    """

    steps: tuple[Pieces, ...]
    known: frozenset[str]
    request: Request | None = None

    @property
    def now(self) -> Pieces:
        return self.steps[-1]

    @property
    def nbytes(self) -> int:
        return sum(piece.region.runs.edges.nbytes for step in self.steps for piece in step)

    def edited(self, request: Request, others: Others, alike: Alike) -> Shown:
        """After a request: what was asked before is not done again, and "undo" goes back through all steps."""
        if self.request is not None and request.continues(self.request):
            new = request.edits[len(self.request.edits) :]
        else:
            new = request.edits
        steps = list(self.steps)
        for edit in done_in_order(new):
            if edit.verb is Verb.UNDO:
                steps = steps[:-1] or steps
            else:
                steps.append(apply(steps[-1], [edit], others, alike))
        return replace(self, steps=tuple(steps[-MOST_STEPS:]), request=request)


class Editor:
    """Remembers what pages show, and edits it. What is least recently used is forgotten, which costs a sentence."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: OrderedDict[SessionKey, Shown] = OrderedDict()

    def show(self, task: InteractionRequest, masks: MaskSet) -> None:
        """Keep what was found, so that words can change it."""
        self._put(task, Shown((pieces_of(masks),), task.draft.ids))

    def edit(self, task: InteractionRequest, size: Size, alike: Alike) -> Pieces | None:
        """What is shown, or else the drawn regions of a label, after the edits of a request; None when there is nothing."""
        shown = self._shown(task) or self._drawn(task, size)
        if shown is None:
            return None
        request = Request(task.typed.said_by, task.typed.edits)
        before = {piece.id for piece in shown.now}
        others = (mark for mark in task.draft.results if mark.id not in before and covers_pixels(mark.item))
        edited = shown.edited(request, lambda: Masks(size, tuple(runs for _, runs in masks_of(list(others), size))), alike)
        self._put(task, edited)
        return edited.now

    def _shown(self, task: InteractionRequest) -> Shown | None:
        """What the page shows as a suggestion; None once it was accepted, or when a label is named that it does not have."""
        key = page_key(task)
        with self._lock:
            shown = self._pages.get(key) or self._pages.get(replace(key, annotator=""))
        if shown is None or any(mark.id.startswith(OURS) and mark.id not in shown.known for mark in task.draft.results):
            return None
        named = {edit.label for edit in task.typed.edits} - {None}
        return shown if not named or named & {piece.region.label for piece in shown.now} else None

    def _drawn(self, task: InteractionRequest, size: Size) -> Shown | None:
        """The regions of the annotation with the labels that are named, or else with the label of the newest one."""
        results = [mark for mark in task.draft.results if covers_pixels(mark.item)]
        named = {edit.label for edit in task.typed.edits} - {None} or {mark.label for mark in results[-1:]}
        chosen = masks_of([mark for mark in results if mark.label in named], size)
        pieces = tuple(Piece(Region(runs, 1.0, each.label), each.id, region_kind(each.item)) for each, runs in chosen)
        return Shown((pieces,), task.draft.ids) if pieces else None

    def _put(self, task: InteractionRequest, shown: Shown) -> None:
        with self._lock:
            key = page_key(task)
            self._pages[key] = shown
            self._pages.move_to_end(key)
            while len(self._pages) > 1 and (len(self._pages) > MOST_PAGES or self._nbytes() > MOST_BYTES):
                self._pages.popitem(last=False)

    def _nbytes(self) -> int:
        return sum(shown.nbytes for shown in self._pages.values())


def form_with_points(task: InteractionRequest) -> str:
    """The shape that regions get which are to have so many points: polygons before vectors; empty where neither is drawn."""
    drawn = {control.type.removesuffix("labels") for control in task.labels.controls if not control.role}
    return next((form for form in ("polygon", "vector") if form in drawn), "")


def found_of(task: InteractionRequest, pieces: Pieces, pointed: str) -> tuple[Found, ...]:
    """Regions as they are answered: those that the page has each under its id, new ones of one shape together; those whose
    points were counted as ``pointed``.
    """
    new: dict[tuple[str, int], list[Region]] = {}
    found = []
    for piece in pieces:
        form = pointed if piece.points else piece.form
        if piece.id:
            here = replace(task, most_points=piece.points)
            found.append(Found(here, _mask_set([piece.region]), NO_NAMES, form, piece.id))
        else:
            new.setdefault((form, piece.points), []).append(piece.region)
    for (form, points), regions in new.items():
        found.append(Found(replace(task, most_points=points), _mask_set(regions), NO_NAMES, form))
    return tuple(found)


def _mask_set(regions: Sequence[Region]) -> MaskSet:
    count, size = len(regions), regions[0].runs.size
    return MaskSet(
        Masks(size, tuple(region.runs for region in regions)),
        np.array([region.score for region in regions], np.float32),
        tuple(region.label for region in regions),
        np.zeros((count, 1, 1), np.float16),
        np.zeros((count, 1), np.float32),
    )
