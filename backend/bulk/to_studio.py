"""Results as predictions of a Label Studio project, each once, whatever happens to the connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from backend.background import wait_for
from backend.bulk.values import Form, ItemResult
from backend.labelstudio.api import LabelStudio, Prediction, is_up
from backend.values.errors import RemoteError

ATTEMPTS = 6
FIRST_PAUSE_S = 0.5
T = TypeVar("T")


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
