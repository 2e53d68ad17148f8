"""Encodings that several callers want at the same moment go to the engine as one batch."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from backend.values.features import ImageFeatures
from prompts.kinds import Image

WINDOW_S = 0.005
"""How long the first caller waits for others, far below the time of any encoding."""


@dataclass(frozen=True, slots=True)
class Batching:
    """At most ``most`` images together, of callers within ``window_s``; one caller's images are never divided."""

    most: int = 1
    window_s: float = WINDOW_S


SINGLY = Batching()


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    images: Sequence[Image]
    result: Future[Sequence[ImageFeatures]] = field(default_factory=Future)


class EncodeQueue:
    """Encodes for many threads: one of those that wait leads, takes what has come and encodes it for all.

    ``device`` is held while encoding. What comes meanwhile is the next batch: a busy device makes batches by itself.
    """

    def __init__(
        self, encode: Callable[[Sequence[Image]], Sequence[ImageFeatures]], device: threading.Lock, batching: Batching
    ) -> None:
        self._encode = encode
        self._device = device
        self._batching = batching
        self._changed = threading.Condition()
        self._waiting: deque[_Request] = deque()
        self._has_leader = False

    def __call__(self, images: Sequence[Image]) -> Sequence[ImageFeatures]:
        """The features of all images, in order. Raises what the engine raises for them."""
        request = _Request(images)
        with self._changed:
            self._waiting.append(request)
            self._changed.notify_all()
        while self._becomes_leader(request):
            self._lead()
        return request.result.result()

    def _becomes_leader(self, request: _Request) -> bool:
        """Wait until somebody has answered the request (False), or until nobody leads (True)."""
        with self._changed:
            self._changed.wait_for(lambda: request.result.done() or not self._has_leader)
            leads = not request.result.done()
            self._has_leader |= leads
        return leads

    def _lead(self) -> None:
        try:
            self._gather()
            with self._device:
                self._answer(self._take())
        finally:
            with self._changed:
                self._has_leader = False
                self._changed.notify_all()

    def _gather(self) -> None:
        """Give others a moment, unless the batch is full already."""
        with self._changed:
            self._changed.wait_for(lambda: self._images_waiting() >= self._batching.most, self._batching.window_s)

    def _images_waiting(self) -> int:
        return sum(len(request.images) for request in self._waiting)

    def _take(self) -> list[_Request]:
        """The first request, and those after it as long as there is room."""
        with self._changed:
            batch = [self._waiting.popleft()]
            count = len(batch[0].images)
            while self._waiting and count + len(self._waiting[0].images) <= self._batching.most:
                count += len(self._waiting[0].images)
                batch.append(self._waiting.popleft())
        return batch

    def _answer(self, batch: Sequence[_Request]) -> None:
        """Encode a batch; when that fails, each request by itself, so that an image costs only those who want it."""
        try:
            features = self._encode([image for request in batch for image in request.images])
            parts = iter(features)
            shares = [[next(parts) for _ in request.images] for request in batch] if len(batch) > 1 else [features]
        except BaseException as error:
            if len(batch) > 1:
                for request in batch:
                    self._answer([request])
            else:
                batch[0].result.set_exception(error)
            return
        for request, share in zip(batch, shares, strict=True):
            request.result.set_result(share)
