"""The films of a bulk run's items: looked through frame by frame, one track for each thing that the labels name."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from backend.bulk.values import FoundRegion, ItemResult
from backend.images.limits import ImageSource
from backend.labelstudio.project_options import PreannotationOptions
from backend.labelstudio.request.video import FilmPreannotation, check_answerable
from backend.labelstudio.shapes.base import number_regions, repeatable_answer
from backend.labelstudio.video_answer import Clock, write_tracks
from backend.pictures import thumbnail
from backend.segmenter import Segmenter
from backend.serving.films import seen_on
from backend.stores.ledger import Item
from backend.values.session import ForNames
from backend.video.film import Film, open_film
from backend.video.finding import find_all
from backend.video.tracks import Track, Tracks
from prompts.kinds import KeyedImage

log = logging.getLogger(__name__)

TOLD_EVERY_S = 20.0
"""How often a long film says how far it is."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedFilm:
    """An item whose film is here."""

    item: Item
    request: FilmPreannotation
    film: Film


def load_film(item: Item, request: FilmPreannotation, images: ImageSource) -> LoadedFilm:
    """Have an item's film here. Raises ConfigError, VideoError or RemoteError."""
    check_answerable(request.labels)
    return LoadedFilm(item, request, open_film(images.film(request.url, request.project, request.task_id)))


def find_in_film(loaded: LoadedFilm, segmenter: Segmenter, options: PreannotationOptions) -> ItemResult:
    """The result of a film: memory holds the frames between two looks at most, however long it is. Raises MaskloomError."""
    film, request = loaded.film, loaded.request
    tracks = find_all(
        film,
        segmenter.tracker(_teller(loaded)),
        lambda image: seen_on(segmenter, ForNames(KeyedImage.of(image), request.labels.vocabulary), options.apply),
    )
    version = segmenter.engine.version
    answer = write_tracks(request, tracks, Clock(film.timeline, request.frame_rate), version)
    named = number_regions(answer, repeatable_answer(answer, request.project, request.task_id, loaded.item.key))
    return ItemResult(loaded.item, film.size, [_found(track) for track in tracks.tracks], named, _picture(film, tracks))


def _teller(loaded: LoadedFilm) -> Callable[[], None]:
    """Called at each step of following; tells the log now and then how far the film is."""
    told, steps = time.monotonic(), 0

    def step() -> None:
        nonlocal told, steps
        steps += 1
        if time.monotonic() - told > TOLD_EVERY_S:
            told = time.monotonic()
            log.info("item %s: about frame %d of %d", loaded.item.key, min(steps, len(loaded.film)), len(loaded.film))

    return step


def _found(track: Track) -> FoundRegion:
    first = track.masks[min(track.masks)]
    x0, y0, x1, y1 = first.box() or (0, 0, 0, 0)
    score = sum(mask.score for mask in track.masks.values()) / len(track.masks)
    return FoundRegion(track.label or "", round(score, 6), first.area, (x0, y0, x1 - x0, y1 - y0))


def _picture(film: Film, tracks: Tracks) -> bytes:
    """A small picture of the frame on which most objects are."""
    frames = [frame for track in tracks.tracks for frame in track.masks]
    shown = max(sorted(set(frames)), key=frames.count, default=0)
    return thumbnail(film.frame(shown), [mask.decode() for mask in tracks.on(shown).values()])
