"""What a run knows about its source, its target and its items, as plain values that travel between threads and machines; and a
project of Label Studio as target: each prediction once, whatever happens to the connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from pycocotools import mask as coco

from backend.background import wait_for
from backend.caches import DiskCache
from backend.labelstudio.api import LabelStudio, Prediction, is_up
from backend.stores.ledger import Item
from backend.values.errors import RemoteError
from backend.values.masks import RunLengths
from backend.video.tracks import FrameMask
from prompts.geometry import BoolArray, Size

ATTEMPTS = 6
FIRST_PAUSE_S = 0.5
T = TypeVar("T")


class Target(StrEnum):
    """Where the results go."""

    PREDICTIONS = "predictions"
    IMPORT = "import"
    COCO = "coco"
    YOLO = "yolo"
    PNG = "png"


class Form(StrEnum):
    """What a sink needs of a result."""

    PREDICTION = "prediction"
    MASKS = "masks"


@dataclass(frozen=True, slots=True)
class FoundRegion:
    """One region: its box is ``(x, y, width, height)`` in pixels, ``rle`` COCO's compressed run lengths where asked for."""

    label: str
    score: float
    pixels: int
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    rle: str = ""


@dataclass(frozen=True, slots=True)
class ItemResult:
    """An item with what was found on it, or with the reason why nothing could be."""

    item: Item
    size: Size | None = None
    regions: Sequence[FoundRegion] = ()
    prediction: Mapping[str, Any] = field(default_factory=dict)
    thumbnail: bytes = b""
    failure: str = ""

    @property
    def least_score(self) -> float:
        """The score of the least certain region; 0 when nothing was found."""
        return min((region.score for region in self.regions), default=0.0)


@dataclass(frozen=True, slots=True)
class FilmShelf:
    """What is kept of films on disk: how far each was looked through, and the masks of what was found, by region."""

    progress: DiskCache[bytes]
    masks: DiskCache[Mapping[int, FrameMask]]


class Sink(Protocol):
    """A target, which can be given the same result twice and keeps it once. ``name`` tells a person, and the ledger, which:
    what is written under one name replaces what was there.
    """

    @property
    def name(self) -> str: ...

    @property
    def form(self) -> Form:
        """What it needs of a result."""
        ...

    def arrived(self, keys: Sequence[str]) -> set[str]:
        """Of results that may or may not have been written before the last process ended, those that were."""
        ...

    def remove(self, keys: Sequence[str]) -> None:
        """Take away the earlier results of items that are done anew."""
        ...

    def write(self, results: Sequence[ItemResult]) -> Mapping[str, str]:
        """Write results so that they last; the reasons for those that the target does not take, by key.

        Raises MaskloomError when the target cannot be written to at all.
        """
        ...

    def finish(self) -> str:
        """Put together what was written; says where it is."""
        ...


def encode_mask(runs: RunLengths) -> str:
    """COCO's compressed run lengths of a mask."""
    return runs.coco_counts()


def decode_mask(rle: str, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of COCO's compressed run lengths."""
    mask: BoolArray = coco.decode({"size": [size.height, size.width], "counts": rle.encode("ascii")}).astype(np.bool_)
    return mask


class Source(Protocol):
    """A list of items; ``name`` tells a person, and the ledger, which; ``made_at`` since when, 0 where that is not told."""

    @property
    def name(self) -> str: ...

    @property
    def made_at(self) -> float: ...

    def items(self) -> Iterator[Item]:
        """Every item, once, in an order that does not change."""
        ...


@dataclass(frozen=True, slots=True)
class StudioSink:
    """Predictions of one model version; annotations and other versions are never touched."""

    label_studio: LabelStudio
    project_id: int
    version: str
    stop: threading.Event = field(default_factory=threading.Event)
    patience_s: float = 600.0

    @property
    def name(self) -> str:
        return f"predictions of project {self.project_id} of {self.label_studio.url} by {self.version}"

    @property
    def form(self) -> Form:
        return Form.PREDICTION

    def arrived(self, keys: Sequence[str]) -> set[str]:
        return {key for key in keys if self._patiently(partial(self._numbers, key))}

    def remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._patiently(partial(self._remove, key))

    def write(self, results: Sequence[ItemResult]) -> Mapping[str, str]:
        """Store predictions in one request; after a reply that leaves it open whether they were stored, look first.

        Label Studio refuses a request as a whole when one of its tasks is gone: then they are sent one by one.
        """
        delivery = _Delivery(self, list(results))
        try:
            self._patiently(delivery.send)
        except RemoteError as error:
            if error.is_passing:
                raise
            return self._send_each(delivery.left, error)
        return {}

    def finish(self) -> str:
        return f"{self.label_studio.url}/projects/{self.project_id}/data"

    def store(self, results: Sequence[ItemResult]) -> None:
        """Send predictions, once."""
        if results:
            predictions = {int(result.item.key): _prediction(result, self.version) for result in results}
            self.label_studio.import_predictions(self.project_id, predictions)

    def missing(self, results: Sequence[ItemResult]) -> list[ItemResult]:
        """The results that are not there. Asks once, for each of them."""
        return [result for result in results if not self._numbers(result.item.key)]

    def _numbers(self, key: str) -> list[int]:
        return self.label_studio.prediction_ids(int(key), self.version)

    def _remove(self, key: str) -> None:
        for prediction in self._numbers(key):
            self.label_studio.delete_prediction(prediction)

    def _patiently(self, request: Callable[[], T]) -> T:
        """What a request gives, which is tried again while Label Studio is away or busy."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return request()
            except RemoteError as error:
                if not error.is_passing:
                    raise
                if attempt == ATTEMPTS or self.stop.is_set():
                    raise _given_up(error, attempt) from error
                self.stop.wait(error.after_s if error.after_s is not None else FIRST_PAUSE_S * 2 ** (attempt - 1))
                wait_for(lambda: is_up(self.label_studio.url), self.stop, self.patience_s)

    def _send_each(self, results: Sequence[ItemResult], refusal: RemoteError) -> Mapping[str, str]:
        if len(results) == 1:
            if refusal.status in (401, 403):
                raise refusal
            return {results[0].item.key: f"Label Studio does not take its prediction, was the task deleted? {refusal}"}
        reasons: dict[str, str] = {}
        for result in results:
            reasons |= self.write([result])
        return reasons


@dataclass(slots=True)
class _Delivery:
    """Results on their way: those that are ``left``, and whether some of them may be there already."""

    sink: StudioSink
    left: list[ItemResult]
    in_doubt: bool = False

    def send(self) -> None:
        """Send what is not there; only a refusal by 429 says that none of it is."""
        if self.in_doubt:
            self.left = self.sink.missing(self.left)
            self.in_doubt = False
        try:
            self.sink.store(self.left)
        except RemoteError as error:
            self.in_doubt = error.status != 429
            raise


def _prediction(result: ItemResult, version: str) -> Prediction:
    return Prediction(version, result.prediction.get("score"), result.prediction.get("result") or ())


def _given_up(error: RemoteError, attempts: int) -> RemoteError:
    times = "once" if attempts == 1 else f"{attempts} times"
    return RemoteError(f"{error} (tried {times}); run the same command again when it is back", error.status)
