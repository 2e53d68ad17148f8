"""What is done to each item of a bulk run, images and films, and how the steps of many items overlap."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from backend.background import AwayError, overlap
from backend.bulk.reader import ImageRequest, ItemReader
from backend.bulk.values import FilmShelf, Form, FoundRegion, ItemResult, encode_mask
from backend.caches import DiskCache
from backend.images.limits import ImageSource, overview
from backend.labelstudio.answer import Names, names_of, write_prediction
from backend.labelstudio.project_options import PreannotationOptions, question_about
from backend.labelstudio.request.request import TaskRequest
from backend.labelstudio.request.video import FilmPreannotation, check_answerable
from backend.labelstudio.shapes.base import number_regions, repeatable_answer, write_together
from backend.labelstudio.video_answer import Clock, region_of, write_tracks
from backend.pictures import thumbnail
from backend.segmenter import Segmenter
from backend.serving.films import seen_on
from backend.serving.learning import Teach, teach_nothing
from backend.stores.ledger import Item, in_batches
from backend.values.errors import MaskloomError, RemoteError
from backend.values.masks import MaskSet
from backend.values.session import ForNames, Question, Round
from backend.video.film import Film, open_film
from backend.video.finding import find_all
from backend.video.following import Teller
from backend.video.tracks import Track, Tracks
from prompts.kinds import KeyedImage, PromptError

log = logging.getLogger(__name__)
A = TypeVar("A")


@dataclass(frozen=True, slots=True, eq=False)
class LoadedItem:
    """An item whose images are here: one for each of its requests, mostly one."""

    item: Item
    requests: Sequence[ImageRequest]
    images: Sequence[KeyedImage]


@dataclass(frozen=True, slots=True, eq=False)
class SegmentedItem:
    """An item whose masks are here, one set for each of its images; where a prediction is written of them, with what else
    names them.
    """

    loaded: LoadedItem
    masks: Sequence[MaskSet]
    names: Sequence[Names]


class Worker:
    """The three steps of an item, each for a thread of its own; whatever fails becomes a result with its reason, unless it
    would fail for every item.
    """

    def __init__(
        self,
        images: ImageSource,
        segmenter: Callable[[], Segmenter],
        reader: ItemReader,
        teach: Teach = teach_nothing,
        shelf: FilmShelf | None = None,
    ) -> None:
        self._images = images
        self._segmenter = segmenter
        self._reader = reader
        self._teach = teach
        self._shelf = shelf

    def load(self, item: Item) -> LoadedItem | LoadedFilm | ItemResult:
        """Read an item's task and fetch and decode its images: of a task with several, files are written about the first; or
        fetch its film.
        """
        try:
            film = self._reader.film(item)
            if film is not None:
                return load_film(item, film, self._images)
            requests = self._reader.requests(item)
            return LoadedItem(item, requests, [self._images.load(r.image_url, r.project, r.task_id or None) for r in requests])
        except AwayError:
            raise
        except Exception as error:
            return _failed(item, error)

    def segment(self, batch: Sequence[LoadedItem | LoadedFilm | ItemResult]) -> list[SegmentedItem | ItemResult]:
        """The masks of several images and what is in films, in order; results of what has failed already pass through."""
        segmenter = self._segmenter()
        return self._segment_images(
            [self._through(each, segmenter) if isinstance(each, LoadedFilm) else each for each in batch]
        )

    def _through(self, loaded: LoadedFilm, segmenter: Segmenter) -> ItemResult:
        try:
            return find_in_film(loaded, segmenter, self._reader.options, self._shelf)
        except Exception as error:
            return _failed(loaded.item, error)

    def _segment_images(self, batch: Sequence[LoadedItem | ItemResult]) -> list[SegmentedItem | ItemResult]:
        loaded = [each for each in batch if isinstance(each, LoadedItem)]
        segmenter = self._segmenter()
        rounds = iter(segmenter.segment([question for each in loaded for question in self._questions(each, segmenter)]))
        return [
            self._segmented(each, [next(rounds) for _ in each.images], segmenter) if isinstance(each, LoadedItem) else each
            for each in batch
        ]

    def _questions(self, loaded: LoadedItem, segmenter: Segmenter) -> list[Question]:
        options, parts = self._reader.options, zip(loaded.requests, loaded.images, strict=True)
        return [question_about(r.vocabulary, image, options, self._teach(r, segmenter)) for r, image in parts]

    def _segmented(
        self, loaded: LoadedItem, rounds: Sequence[Round | MaskloomError], segmenter: Segmenter
    ) -> SegmentedItem | ItemResult:
        failed = next((done for done in rounds if isinstance(done, MaskloomError)), None)
        if failed is not None:
            return _failed(loaded.item, failed)
        try:
            masks = [self._reader.options.apply(done.masks) for done in rounds if isinstance(done, Round)]
            pairs = zip(masks, loaded.requests, strict=True)
            return SegmentedItem(
                loaded, masks, [names_of(m, r, segmenter.rank_names) for m, r in pairs if isinstance(r, TaskRequest)]
            )
        except Exception as error:
            return _failed(loaded.item, error)

    def write(self, done: SegmentedItem | ItemResult, version: str) -> ItemResult:
        """Masks as the sink needs them, with a small picture."""
        if isinstance(done, ItemResult):
            return done
        try:
            return self._write(done, version)
        except Exception as error:
            return _failed(done.loaded.item, error)

    def _write(self, done: SegmentedItem, version: str) -> ItemResult:
        loaded, form = done.loaded, self._reader.form
        picture, shown = overview(loaded.images[0], done.masks[0])
        predictions = self._predictions(done, version) if form is Form.PREDICTION else []
        return ItemResult(
            loaded.item,
            done.masks[0].size,
            [_found(masks, row, form) for masks in done.masks for row in range(len(masks))],
            _repeatable(write_together(predictions, version), loaded) if predictions else {},
            thumbnail(picture, shown.masks),
        )

    def _predictions(self, done: SegmentedItem, version: str) -> list[dict[str, Any]]:
        """The prediction about each image, in Label Studio's words."""
        tasks = [request for request in done.loaded.requests if isinstance(request, TaskRequest)]
        parts = zip(tasks, done.masks, done.names, strict=True)
        return [write_prediction(task, masks, version, self._reader.options.form, names) for task, masks, names in parts]


def _repeatable(prediction: dict[str, Any], loaded: LoadedItem) -> dict[str, Any]:
    """The same prediction of the same task has the same bytes, whenever and wherever it is made."""
    facts = (loaded.requests[0].project, loaded.requests[0].task_id, loaded.item.key)
    return number_regions(prediction, repeatable_answer(prediction, *facts))


class PatientImages:
    """Images of tasks; one that a service does not give is asked for once more, when the service is back if it was away."""

    def __init__(self, images: ImageSource, wait_until_up: Callable[[], None]) -> None:
        self._images = images
        self._wait_until_up = wait_until_up

    def load(self, url: str, project: str, task_id: str | None) -> KeyedImage:
        return self._patiently(lambda: self._images.load(url, project, task_id))

    def read(self, url: str, project: str, task_id: str | None) -> bytes:
        return self._patiently(lambda: self._images.read(url, project, task_id))

    def film(self, url: str, project: str, task_id: str) -> Path:
        return self._patiently(lambda: self._images.film(url, project, task_id))

    def _patiently(self, ask: Callable[[], A]) -> A:
        try:
            return ask()
        except RemoteError:
            self._wait_until_up()
            return ask()

    def close(self) -> None:
        self._images.close()


def _found(masks: MaskSet, row: int, form: Form) -> FoundRegion:
    runs = masks.masks.runs[row]
    box = runs.box or (0, 0, 0, 0)
    return FoundRegion(
        label=masks.labels[row] or "",
        score=round(float(masks.scores[row]), 6),
        pixels=runs.area,
        box=(box[0], box[1], box[2] - box[0], box[3] - box[1]),
        rle=encode_mask(runs) if form is Form.MASKS else "",
    )


def _failed(item: Item, error: Exception) -> ItemResult:
    if isinstance(error, MaskloomError | PromptError):
        return ItemResult(item, failure=str(error))
    log.exception("item %s", item.key, exc_info=error)
    return ItemResult(item, failure=f"Maskloom failed on it: {type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """How much is under way at once. Memory holds at most ``ahead`` images and ``behind`` sets of masks, and one batch."""

    batch: int = 4
    loaders: int = 4
    writers: int = 2
    ahead: int = 12
    behind: int = 6


def process(worker: Worker, items: Iterable[Item], version: str, limits: PipelineLimits) -> Iterator[ItemResult]:
    """The results of items, as they become ready. The model runs in the thread that asks for them."""
    with ThreadPoolExecutor(limits.loaders, "load") as loaders, ThreadPoolExecutor(limits.writers, "write") as writers:
        loaded = overlap(loaders, worker.load, items, limits.ahead)
        segmented = (each for batch in in_batches(loaded, limits.batch) for each in worker.segment(batch))
        yield from overlap(writers, partial(worker.write, version=version), segmented, limits.behind)


def _found_through(track: Track) -> FoundRegion:
    first = track.masks[min(track.masks)]
    x0, y0, x1, y1 = first.box() or (0, 0, 0, 0)
    score = sum(mask.score for mask in track.masks.values()) / len(track.masks)
    return FoundRegion(track.label or "", round(score, 6), first.area, (x0, y0, x1 - x0, y1 - y0))


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


@dataclass(frozen=True, slots=True)
class _Bookmark:
    """How far one film was looked through for one question."""

    progress: DiskCache[bytes]
    key: str

    def load(self) -> bytes | None:
        return self.progress.get(self.key)

    def save(self, state: bytes) -> None:
        self.progress.put(self.key, state)


def find_in_film(
    loaded: LoadedFilm, segmenter: Segmenter, options: PreannotationOptions, shelf: FilmShelf | None = None
) -> ItemResult:
    """The result of a film: memory holds the frames between two looks at most, however long it is, and what was begun with the
    same ``shelf`` before goes on. Raises MaskloomError.
    """
    film, request, version = loaded.film, loaded.request, segmenter.engine.version
    question = f"{version} {loaded.item.key} {request.fingerprint()} {options} {len(film)} {film.timeline.end}"
    tracks = find_all(
        film,
        segmenter.tracker(),
        lambda image: seen_on(segmenter, ForNames(KeyedImage.of(image), request.labels.vocabulary), options.apply),
        None if shelf is None else _Bookmark(shelf.progress, question),
        Teller(loaded.item.key, len(film)).tell,
    )
    answer = write_tracks(request, tracks, Clock(film.timeline, request.frame_rate), version)
    named = number_regions(answer, repeatable_answer(answer, request.project, request.task_id, loaded.item.key))
    if shelf is not None:
        names = {old["id"]: new["id"] for old, new in zip(answer["result"], named["result"], strict=True)}
        for track in tracks.tracks:
            if (region := names.get(region_of(request, track))) is not None:
                shelf.masks.put(region, track.masks)
    return ItemResult(loaded.item, film.size, [_found_through(track) for track in tracks.tracks], named, _picture(film, tracks))


def _picture(film: Film, tracks: Tracks) -> bytes:
    """A small picture of the frame on which most objects are."""
    counts = Counter(frame for track in tracks.tracks for frame in sorted(track.masks))
    shown = max(sorted(counts), key=counts.__getitem__, default=0)
    return thumbnail(film.frame(shown), [mask.decode() for mask in tracks.on(shown).values()])
