"""Films: what label names find in one, what an annotator's boxes become through it, and what is typed about it."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from backend.caches import Bounds, DiskCache
from backend.labelstudio.project_options import ProjectOptions
from backend.labelstudio.request.video import FilmInteraction, FilmPreannotation, FilmRegion, FilmRequest, check_answerable
from backend.labelstudio.shapes.base import Answer, write_empty, write_failure
from backend.labelstudio.shapes.video_rectangle import left_open
from backend.labelstudio.video_answer import (
    Clock,
    barriers_of,
    known_of,
    refined_keyframes,
    region_of,
    write_followed,
    write_note,
    write_tracks,
)
from backend.segmenter import EngineSource, Segmenter
from backend.serving.runs import Run, Runs, check
from backend.values.errors import MaskloomError, RequestError
from backend.values.masks import MaskSet
from backend.values.session import ForNames, ForPrompts, Question
from backend.video.film import Film, open_film
from backend.video.finding import Seen, find_all
from backend.video.keyframes import Box
from backend.video.refining import refine
from backend.video.tracks import FrameMask, Refined, Tracks, doubtful
from prompts.kinds import KeyedImage, PromptSet

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""So long an answer may take; Label Studio waits for 100 s."""
LIFETIME_S = 1800.0
MOST_KEPT_BYTES = 128 << 20
"""Of what was found, and as much of what was followed: an hour with one small object takes 24 MB."""


class FilmSource(Protocol):
    """Whoever gives the video files of tasks."""

    def film(self, url: str, project: str, task_id: str) -> Path:
        """The file. Raises VideoError or RemoteError where it cannot be had."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """A film that was looked through: its time, and what was found."""

    clock: Clock
    tracks: Tracks


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """One frame of a film on which a drawn object was followed."""

    film: Film
    refined: Refined


class FilmAnswerer:
    """Answers about films. The work is done in threads of its own and kept: an answer comes when it is done or time is up, and
    who asks again joins it.
    """

    def __init__(
        self,
        engine: EngineSource,
        films: FilmSource,
        options: ProjectOptions,
        beside: DiskCache[Mapping[int, FrameMask]] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._engine = engine
        self._films = films
        self._options = options
        self._beside = beside
        self._patience_s = patience_s
        self._searches: Runs[Searched] = Runs(Bounds(MOST_KEPT_BYTES, lambda found: found.tracks.nbytes, LIFETIME_S))
        self._followings: Runs[Followed] = Runs(Bounds(MOST_KEPT_BYTES, lambda part: part.refined.nbytes, LIFETIME_S))

    def answer(self, task: FilmRequest) -> Answer:
        """The prediction of a task; a failure that says why, upon which Label Studio stores nothing, or a sentence to the
        annotator.
        """
        version = self._engine.version
        try:
            if isinstance(task, FilmInteraction):
                return self._interact(task)
            check_answerable(task.labels)
            question = self._names_asked(task)
            found = self._search(task, "names", question, time.monotonic() + self._patience_s)
            if not found.tracks.tracks:
                raise RequestError(f"none of {', '.join(task.labels.vocabulary.labels)} is found in the film")
            self._keep_tracks(task, found)
            return write_tracks(task, found.tracks, found.clock, version)
        except MaskloomError as error:
            log.warning("task %s of project %s: %s", task.task_id, task.project, error)
            text = str(error)
        except Exception as error:
            log.exception("task %s of project %s", task.task_id, task.project)
            text = f"Maskloom failed on this film ({type(error).__name__}); its log says more"
        return write_failure(text, version) if isinstance(task, FilmPreannotation) else write_note(task, text, version)

    def close(self) -> None:
        """Begin nothing more, and end what is under way."""
        self._searches.close()
        self._followings.close()

    def _interact(self, task: FilmInteraction) -> Answer:
        until, version = time.monotonic() + self._patience_s, self._engine.version
        if task.regions:
            return self._follow_regions(task, until)
        if task.typed.texts:
            check_answerable(task.labels)
            prompts = PromptSet(task.typed.texts)
            words = repr(task.typed.texts)
            found = self._search(
                task, words, lambda image: ForPrompts(image, prompts, task.labels.vocabulary, None, None), until
            )
            if not found.tracks.tracks:
                raise RequestError(f"nothing of {', '.join(text.phrase for text in task.typed.texts)} is found in the film")
            self._keep_tracks(task, found)
            return write_tracks(task, found.tracks, found.clock, version)
        raise RequestError("draw a box on the object and select its label again, or type what is to be found")

    def _names_asked(self, task: FilmRequest) -> Callable[[KeyedImage], Question]:
        return lambda image: ForNames(image, task.labels.vocabulary)

    def _search(self, task: FilmRequest, words: str, question: Callable[[KeyedImage], Question], until: float) -> Searched:
        """Everything that a question finds in the film. Raises MaskloomError, also when it takes longer."""
        wanted = self._options.of(task.project)

        def work(run: Run[Searched]) -> Iterator[Searched]:
            film = self._open(task)
            run.total = len(film)
            segmenter = self._engine.segmenter()
            tracker = segmenter.tracker(run.step)
            tracks = find_all(film, tracker, lambda image: seen_on(segmenter, question(KeyedImage.of(image)), wanted.apply))
            yield Searched(Clock(film.timeline, task.frame_rate), tracks)

        run = self._searches.join(self._key(task, f"{wanted} {words}"), work)
        is_done = run.wait(until - time.monotonic())
        check(run)
        if not is_done:
            part = f"{run.steps} of {run.total} frames" if run.total else "it is being fetched"
            raise RequestError(f"the film is still looked through ({part}); ask again in about {run.left_s() + 5:.0f} s")
        return run.parts[0]

    def _follow_regions(self, task: FilmInteraction, until: float) -> Answer:
        """Every box of which a person set something, as far as it can be followed in time; the page sends others along."""
        notes, followed, clock = list[str](), list[tuple[FilmRegion, Sequence[Any], list[int]]](), None
        drawn = [region for region in task.regions if region.is_given]
        if not drawn:
            return write_empty(self._engine.version)
        for region in drawn:
            run = self._following(task, region)
            is_done = run.wait(until - time.monotonic())
            parts = run.parts
            note = _left_off(run, is_done, len(parts))
            notes += [note] if note else []
            if parts:
                film = parts[0].film
                clock = Clock(film.timeline, task.frame_rate)
                self._keep(region.id, {part.refined.frame: part.refined.mask for part in parts})
                boxes = {part.refined.frame: _box_of(part.refined) for part in parts}
                items = refined_keyframes(region, boxes, clock, film.size)
                written = left_open(items) if note else items
                followed.append((region, written, doubtful([part.refined for part in parts])))
        if clock is None:
            raise RequestError("; ".join(notes) or "nothing was followed")
        answer = write_followed(task, followed, clock, self._engine.version)
        return write_note(task, notes[0], self._engine.version, answer["result"]) if notes else answer

    def _keep_tracks(self, task: FilmRequest, found: Searched) -> None:
        """Keep the masks of what was found beside the boxes that Label Studio gets."""
        for track in found.tracks.tracks if self._beside else ():
            self._keep(region_of(task, track), track.masks)

    def _keep(self, region: str, masks: Mapping[int, FrameMask | None]) -> None:
        """Keep masks of a region in place of those of the same frames; None where it is not there."""
        if self._beside:
            both = {**(self._beside.get(region) or {}), **masks}
            self._beside.put(region, {frame: mask for frame, mask in both.items() if mask is not None})

    def _following(self, task: FilmInteraction, region: FilmRegion) -> Run[Followed]:
        def work(run: Run[Followed]) -> Iterator[Followed]:
            film = self._open(task)
            run.total = len(film)
            clock = Clock(film.timeline, task.frame_rate)
            barriers, known = barriers_of(region, clock, film.size), known_of(region, clock, film.size)
            tracker = self._engine.segmenter().tracker(run.step)
            for refined in refine(film, tracker, barriers, known):
                yield Followed(film, refined)

        return self._followings.join(self._key(task, repr(region.settled)), work)

    def _open(self, task: FilmRequest) -> Film:
        return open_film(self._films.film(task.url, task.project, task.task_id))

    def _key(self, task: FilmRequest, what: str) -> str:
        parts = (self._engine.version, task.project, task.task_id, task.url, task.labels, task.frame_rate, what)
        return hashlib.blake2b(repr(parts).encode(errors="surrogatepass"), digest_size=16).hexdigest()


def seen_on(segmenter: Segmenter, question: Question, wanted: Callable[[MaskSet], MaskSet]) -> list[Seen]:
    """The named things on one frame, of which those that are ``wanted``. Raises MaskloomError."""
    (done,) = segmenter.segment([question])
    if isinstance(done, MaskloomError):
        raise done
    masks = wanted(done.masks)
    rows = zip(masks, masks.embeddings, strict=True)
    return [Seen(row.mask, row.label, row.score, look) for row, look in rows if row.label is not None]


def _left_off(run: Run[Followed], is_done: bool, count: int) -> str:
    """Why there are no more than ``count`` parts, empty where those are all. Raises the error of a run without any."""
    try:
        check(run)
    except MaskloomError as error:
        if not count:
            raise
        return f"followed on {count} frames, then: {error}"
    return "" if is_done else f"followed on {count} of {run.total} frames; ask again to go on"


def _box_of(refined: Refined) -> Box | None:
    """The box around a mask in pixels; None where there is none."""
    box = refined.mask.box() if refined.mask is not None else None
    return None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
