"""Interaction: one answer to what an annotator draws and types on one image, with what is remembered of earlier rounds.

The page never sends points together with boxes or text: which earlier prompts belong to the object that is prompted now is told
here, from notes of what was answered.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from backend.caches import Bounds, SingleFlight
from backend.images.limits import ImageSource
from backend.labelstudio.answer import Found, names_of
from backend.labelstudio.project_options import ProjectOptions
from backend.labelstudio.request.context import masks_of
from backend.labelstudio.request.request import InteractionRequest
from backend.labelstudio.request.typed import Verb
from backend.labelstudio.shapes.marks import BoxMark, Mark, PointMark
from backend.postprocessing import drop_known
from backend.segmenter import EngineSource
from backend.serving.editing import Editor, Pieces, form_with_points, found_of
from backend.serving.history import History, NewNotes
from backend.serving.learning import Learning
from backend.serving.service import Finding, failure_of, segment
from backend.stores.sessions import Note
from backend.tiling import example_on
from backend.values.masks import Region, RunLengths
from backend.values.session import ForPrompts
from prompts.kinds import KeyedImage, PromptSet

CLICK_PATIENCE_S = 0.3
"""So long a click waits for examples that nobody has looked at yet."""
NOTHING_MARKED = (
    'nothing is marked that "this" could mean: draw it with a label or a tool that has a role in the labelling config, and '
    "wait five seconds until the page has saved it"
)
NOTHING_TO_EDIT = (
    "nothing is shown or drawn here that this could change: find something first, or wait five seconds until the page has "
    "saved what you drew"
)
MISREAD = (
    "cannot be read as an edit: pixels go from 1 to 500, scores from 0 to 1 (or to 100 %), points from 3 to 1000, and "
    'after "of" stands a label of this project'
)
NO_POINTS = "the labelling config has no <PolygonLabels> or <VectorLabels>, and what else it draws has no points"
MOST_QUOTED = 40
MOST_SHOWN = 8
"""Of the regions shown the best so many say what "more" is to resemble."""


class Interactor:
    """Answers prompts. Identical requests at the same time, which one page may send, are answered together."""

    def __init__(
        self, engine: EngineSource, images: ImageSource, options: ProjectOptions, history: History, learning: Learning
    ) -> None:
        self._engine = engine
        self._images = images
        self._options = options
        self._history = history
        self._editor = Editor()
        self._learning = learning
        self._under_way: SingleFlight[Finding] = SingleFlight(Bounds(0, lambda known: known.nbytes))

    def find(self, task: InteractionRequest) -> Finding:
        """What the prompts of a request mean on its image."""
        key = f"{self._engine.version}/{self._options.of(task.project)}/{task.fingerprint()}"
        return self._under_way.do(key, lambda: self._find_or_say_why(task))

    def _find_or_say_why(self, task: InteractionRequest) -> Finding:
        try:
            return self._find(task)
        except Exception as error:
            return Finding(self._engine.version, failure=failure_of(error, task))

    def _find(self, task: InteractionRequest) -> Finding:
        image = self._images.load(task.image_url, task.project, task.task_id or None)
        self._history.remember_shown(task, image)
        if task.typed.misread:
            return Finding(self._engine.version, message=f'"{task.typed.misread[0][:MOST_QUOTED]}" {MISREAD}')
        if task.typed.edits and task.typed.only_edits:
            return self._edited(task, image)
        seen = self._history.notes(task)
        task = join(task, seen)
        prompts = PromptSet((*task.prompts(image.size).prompts, *self._history.examples(task, image)))
        if not len(prompts):
            return Finding(self._engine.version, message=NOTHING_MARKED if task.typed.asks_for_marked else "")
        wanted = self._options.of(task.project)
        done, segmenter = segment(self._engine, self._question(task, image, prompts, wanted.alternatives))
        version = segmenter.engine.version
        self._history.remember_round(task, NewNotes(notes_of(task, seen), seen), version, done)
        masks = drop_known(done.masks, _finished(task, image)) if task.asks_for_likeness else done.masks
        if task.labels.text_areas:
            self._editor.show(task, masks)
        if task.typed.edits:
            return self._edited(task, image)
        if not len(masks):
            return Finding(version, message=nothing_found(task))
        return Finding(version, (Found(task, masks, names_of(masks, task, segmenter.rank_names)),), wanted.form)

    def _edited(self, task: InteractionRequest, image: KeyedImage) -> Finding:
        """What is shown or drawn, after the words that edit it."""
        version = self._engine.version
        pieces = self._editor.edit(task, image.size, lambda pieces: self._alike(task, image, pieces))
        if pieces is None:
            return Finding(version, message=NOTHING_TO_EDIT)
        if not pieces:
            return Finding(
                version, message=f'nothing is left after {", ".join(map(str, task.typed.edits))}; "undo" brings it back'
            )
        pointed = form_with_points(task)
        if not pointed and task.typed.edits[-1].verb is Verb.POINTS:
            return Finding(version, message=NO_POINTS)
        return Finding(version, found_of(task, pieces, pointed), self._options.of(task.project).form)

    def _alike(self, task: InteractionRequest, image: KeyedImage, pieces: Pieces) -> list[Region]:
        """What else on the image resembles regions, under their label where they have one and the same."""
        shown = sorted(pieces, key=lambda piece: -piece.region.score)[:MOST_SHOWN]
        if not shown:
            return []
        labels = {piece.region.label for piece in pieces}
        prompts = PromptSet(tuple(example_on(image, piece.region.runs) for piece in shown))
        label = next(iter(labels)) if len(labels) == 1 else None
        done, _ = segment(self._engine, ForPrompts(image, prompts, task.vocabulary, label))
        return list(drop_known(done.masks, (piece.region.runs for piece in pieces)))

    def _question(self, task: InteractionRequest, image: KeyedImage, prompts: PromptSet, alternatives: int) -> ForPrompts:
        memory = self._history.last_answer(task, self._engine.version, prompts)
        learnt = self._learning.about(task, self._engine, CLICK_PATIENCE_S)
        taught = learnt.besides(task.task_id) if learnt.images else ()
        return ForPrompts(image, prompts, task.vocabulary, task.answer_label, memory, alternatives, taught)


def nothing_found(task: InteractionRequest) -> str:
    """What an annotator is told when a prompt finds nothing."""
    if task.marks:
        return "nothing is left of the object: what is clicked, boxed or marked against it covers all of it"
    asked = [f'"{text.phrase}"' for text in task.typed.texts if text.positive]
    asked += [f"like {each.label or 'this'}" for each in task.typed.references if each.positive]
    return f"nothing found for {', '.join(asked)} on this image" if asked else "nothing found that resembles it on this image"


def _finished(task: InteractionRequest, image: KeyedImage) -> Iterator[RunLengths]:
    """What the annotation has already, where more of it is wanted."""
    return (runs for _, runs in masks_of(task.draft.results, image.size))


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
