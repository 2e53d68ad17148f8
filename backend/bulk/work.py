"""What is done to each item of a bulk run, and how the steps of many items overlap."""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import TypeVar

from backend.bulk.recipe import Form, Recipe
from backend.bulk.values import Answer, Found, encode_mask
from backend.images import ImageSource
from backend.labelstudio.answer import Names, write_prediction, write_together
from backend.labelstudio.request.request import TaskRequest
from backend.pictures import thumbnail
from backend.segmenter import Segmenter
from backend.serving.base import names_of
from backend.serving.preannotate import question_about
from backend.stores.ledger import Item, pages
from backend.values.errors import MaskloomError, RemoteError
from backend.values.masks import MaskSet
from backend.values.session import Question, Round
from prompts.geometry import mask_box
from prompts.kinds import KeyedImage, PromptError

ASKED_EVERY_S = 5.0
_QUERY = ("--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits")


class GpuWatch:
    """Asks ``nvidia-smi`` now and then; says nothing where there is none."""

    def __init__(self) -> None:
        self._program = shutil.which("nvidia-smi")
        self._asked_at = float("-inf")
        self._told = ""

    def __call__(self) -> str:
        """For example ``GPU 87 % 4.1 GiB``, one for each GPU; empty without a GPU."""
        if self._program and time.monotonic() - self._asked_at > ASKED_EVERY_S:
            self._asked_at = time.monotonic()
            self._told = self._ask(self._program)
        return self._told

    def _ask(self, program: str) -> str:
        try:
            done = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=3, check=True)
        except (OSError, subprocess.SubprocessError):
            return ""
        return read_gpus(done.stdout)


def read_gpus(lines: str) -> str:
    """The lines ``utilization, MiB`` of all GPUs in words; a line that cannot be read is left out."""
    told = []
    for line in lines.splitlines():
        busy, _, used = line.partition(",")
        if busy.strip().isdecimal() and used.strip().isdecimal():
            told.append(f"GPU {int(busy)} % {int(used) / 1024:.1f} GiB")
    return ", ".join(told)


log = logging.getLogger(__name__)


class AwayError(RemoteError):
    """Label Studio is away for longer than a run waits for it: that ends the run, and costs no image."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """An item whose images are here: one for each of its requests, mostly one."""

    item: Item
    requests: Sequence[TaskRequest]
    images: Sequence[KeyedImage]


@dataclass(frozen=True, slots=True, eq=False)
class Segmented:
    """An item whose masks are here, one set for each of its images, with what else names them."""

    loaded: Loaded
    masks: Sequence[MaskSet]
    names: Sequence[Names]


class Worker:
    """The three steps of an item, each for a thread of its own; whatever fails becomes an answer with its reason, unless it
    would fail for every item.

    ``busy_s`` adds up the time in the segmenter, which one thread at a time uses.
    """

    def __init__(self, images: ImageSource, segmenter: Callable[[], Segmenter], recipe: Recipe) -> None:
        self.busy_s = 0.0
        self._images = images
        self._segmenter = segmenter
        self._recipe = recipe

    def load(self, item: Item) -> Loaded | Answer:
        """Read an item's task and fetch and decode its images: of a task with several, files are written about the first."""
        try:
            wanted = list(self._recipe.request(item).images())
            requests = wanted if self._recipe.form is Form.PREDICTION else wanted[:1]
            return Loaded(item, requests, [self._images.load(r.image_url, r.project, r.task_id or None) for r in requests])
        except AwayError:
            raise
        except Exception as error:
            return _failed(item, error)

    def segment(self, batch: Sequence[Loaded | Answer]) -> list[Segmented | Answer]:
        """The masks of several images, in order; answers that have failed already pass through."""
        loaded = [each for each in batch if isinstance(each, Loaded)]
        segmenter = self._segmenter()
        started = time.perf_counter()
        rounds = iter(segmenter.segment([question for each in loaded for question in self._questions(each)]))
        done = [
            self._segmented(each, [next(rounds) for _ in each.images], segmenter) if isinstance(each, Loaded) else each
            for each in batch
        ]
        self.busy_s += time.perf_counter() - started
        return done

    def _questions(self, loaded: Loaded) -> list[Question]:
        parts = zip(loaded.requests, loaded.images, strict=True)
        return [question_about(request, image, self._recipe.wanted) for request, image in parts]

    def _segmented(self, loaded: Loaded, rounds: Sequence[Round | MaskloomError], segmenter: Segmenter) -> Segmented | Answer:
        failed = next((done for done in rounds if isinstance(done, MaskloomError)), None)
        if failed is not None:
            return _failed(loaded.item, failed)
        try:
            masks = [self._recipe.wanted.apply(done.masks) for done in rounds if isinstance(done, Round)]
            return Segmented(loaded, masks, list(map(names_of, masks, loaded.requests, repeat(segmenter))))
        except Exception as error:
            return _failed(loaded.item, error)

    def write(self, done: Segmented | Answer, version: str) -> Answer:
        """Masks as the sink needs them, with a small picture."""
        if isinstance(done, Answer):
            return done
        try:
            return self._write(done, version)
        except Exception as error:
            return _failed(done.loaded.item, error)

    def _write(self, done: Segmented, version: str) -> Answer:
        loaded, form = done.loaded, self._recipe.form
        parts = zip(loaded.requests, done.masks, done.names, strict=True) if form is Form.PREDICTION else ()
        predictions = [write_prediction(task, masks, version, self._recipe.wanted.form, names) for task, masks, names in parts]
        return Answer(
            loaded.item,
            done.masks[0].size,
            [_found(masks, row, form) for masks in done.masks for row in range(len(masks))],
            write_together(predictions, version) if predictions else {},
            thumbnail(loaded.images[0].pixels, done.masks[0].masks),
        )


class PatientImages:
    """Images of tasks; one that a service does not give is asked for once more, when the service is back if it was away."""

    def __init__(self, images: ImageSource, wait_until_up: Callable[[], None]) -> None:
        self._images = images
        self._wait_until_up = wait_until_up

    def load(self, url: str, project: str, task_id: str | None) -> KeyedImage:
        try:
            return self._images.load(url, project, task_id)
        except RemoteError:
            self._wait_until_up()
            return self._images.load(url, project, task_id)

    def close(self) -> None:
        self._images.close()


def wait_for(is_up: Callable[[], bool], stop: threading.Event, patience_s: float) -> None:
    """Return when Label Studio answers, at once if it does. Raises AwayError when patience is over, or when there is a stop."""
    if is_up():
        return
    log.warning("Label Studio does not answer; waiting for it, for at most %.0f s", patience_s)
    started = time.monotonic()
    while not is_up():
        waited = time.monotonic() - started
        if waited > patience_s:
            raise AwayError(f"Label Studio did not answer for {waited:.0f} s; run the same command again when it is back")
        if stop.wait(1.0):
            raise AwayError("stopped while Label Studio did not answer; run the same command again when it is back")


def _found(masks: MaskSet, row: int, form: Form) -> Found:
    mask, box = masks.masks[row], mask_box(masks.masks[row]) or (0, 0, 0, 0)
    return Found(
        label=masks.labels[row] or "",
        score=round(float(masks.scores[row]), 6),
        pixels=int(mask.sum()),
        box=(box[0], box[1], box[2] - box[0], box[3] - box[1]),
        rle=encode_mask(mask) if form is Form.MASKS else "",
    )


def _failed(item: Item, error: Exception) -> Answer:
    if isinstance(error, MaskloomError | PromptError):
        return Answer(item, failure=str(error))
    log.exception("item %s", item.key, exc_info=error)
    return Answer(item, failure=f"Maskloom failed on it: {type(error).__name__}: {error}")


A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Flow:
    """How much is under way at once. Memory holds at most ``ahead`` images and ``behind`` sets of masks, and one batch."""

    batch: int = 4
    loaders: int = 4
    writers: int = 2
    ahead: int = 12
    behind: int = 6


def answers(worker: Worker, items: Iterable[Item], version: str, flow: Flow) -> Iterator[Answer]:
    """The answers to items, as they become ready. The model runs in the thread that asks for them."""
    with ThreadPoolExecutor(flow.loaders, "load") as loaders, ThreadPoolExecutor(flow.writers, "write") as writers:
        loaded = overlap(loaders, worker.load, items, flow.ahead)
        segmented = (each for batch in pages(loaded, flow.batch) for each in worker.segment(batch))
        yield from overlap(writers, partial(worker.write, version=version), segmented, flow.behind)


def overlap(pool: Executor, work: Callable[[A], B], items: Iterable[A], depth: int) -> Iterator[B]:
    """The results of ``work`` on items, in the order in which they become ready, with at most ``depth`` items under way.

    Nothing is taken from ``items`` while that many are: a slow consumer holds up what comes before it.
    """
    under_way: set[Future[B]] = set()
    for item in items:
        under_way.add(pool.submit(work, item))
        if len(under_way) >= depth:
            wait(under_way, return_when=FIRST_COMPLETED)
        if ready := next((future for future in under_way if future.done()), None):
            under_way.remove(ready)
            yield ready.result()
    while under_way:
        done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)
