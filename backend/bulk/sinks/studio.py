"""Answers as predictions of a Label Studio project, each once, whatever happens to the connection."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.bulk.answers import Answer
from backend.bulk.recipe import Form
from backend.bulk.work import wait_for
from backend.errors import RemoteError
from backend.labelstudio.client import LabelStudio, Prediction
from backend.labelstudio.login import is_up

ATTEMPTS = 6
FIRST_PAUSE_S = 0.5


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
        return f"predictions of project {self.project_id} of {self.label_studio.url}"

    @property
    def form(self) -> Form:
        return Form.PREDICTION

    def arrived(self, keys: Sequence[str]) -> set[str]:
        return {key for key in keys if self.label_studio.prediction_ids(int(key), self.version)}

    def remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            for prediction in self.label_studio.prediction_ids(int(key), self.version):
                self.label_studio.delete_prediction(prediction)

    def write(self, answers: Sequence[Answer]) -> Mapping[str, str]:
        """Store predictions in one request; after an answer that leaves it open whether they were stored, look first.

        Label Studio refuses a request as a whole when one of its tasks is gone: then they are sent one by one.
        """
        left, trouble = list(answers), None
        for attempt in range(ATTEMPTS):
            try:
                left = self._missing(left, trouble)
                self._send(left)
                return {}
            except RemoteError as error:
                if not error.is_passing:
                    return self._send_each(left, error)
                if attempt == ATTEMPTS - 1 or self.stop.is_set():
                    raise _given_up(error) from error
                self.stop.wait(error.after_s if error.after_s is not None else FIRST_PAUSE_S * 2**attempt)
                wait_for(lambda: is_up(self.label_studio.url), self.stop, self.patience_s)
                trouble = error
        return {}

    def finish(self) -> str:
        return f"{self.label_studio.url}/projects/{self.project_id}/data"

    def _send(self, answers: Sequence[Answer]) -> None:
        if answers:
            predictions = {int(answer.item.key): _prediction(answer, self.version) for answer in answers}
            self.label_studio.import_predictions(self.project_id, predictions)

    def _send_each(self, answers: Sequence[Answer], refusal: RemoteError) -> Mapping[str, str]:
        if len(answers) == 1:
            if refusal.status in (401, 403):
                raise refusal
            return {answers[0].item.key: f"Label Studio does not take its prediction, was the task deleted? {refusal}"}
        reasons: dict[str, str] = {}
        for answer in answers:
            reasons |= self.write([answer])
        return reasons

    def _missing(self, answers: Sequence[Answer], trouble: RemoteError | None) -> list[Answer]:
        """The answers that are not there; at first, and after a refusal by 429, none of them is."""
        if trouble is None or trouble.status == 429:
            return list(answers)
        there = self.arrived([answer.item.key for answer in answers])
        return [answer for answer in answers if answer.item.key not in there]


def _prediction(answer: Answer, version: str) -> Prediction:
    return Prediction(version, answer.prediction.get("score"), answer.prediction.get("result") or ())


def _given_up(error: RemoteError) -> RemoteError:
    return RemoteError(f"{error} (tried {ATTEMPTS} times); run the same command again when it is back", error.status)
