"""What one image looks like to an engine, the cache that keeps every image from being encoded twice, and the queue in which
images that several want are encoded together.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from backend.caches import Bounds, SingleFlight
from backend.telemetry import turn
from prompts.geometry import BoolArray, FloatArray, Size
from prompts.kinds import Image


@dataclass(frozen=True, slots=True, eq=False)
class ImageFeatures:
    """An encoded image.

    ``grid (D, h, w)`` holds unit vectors of the joint space over the whole image; ``tensors`` belong to the decoder alone.
    """

    size: Size
    grid: Tensor
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.grid, *self.tensors.values()))

    def sample(self, points: FloatArray) -> Tensor:
        """The joint-space features ``(N, D)`` of the grid cells under ``points (N, 2)`` in pixels."""
        height, width = self.grid.shape[1:]
        columns = np.clip((points[:, 0] * width / self.size.width).astype(np.intp), 0, width - 1)
        rows = np.clip((points[:, 1] * height / self.size.height).astype(np.intp), 0, height - 1)
        return self.grid[:, torch.from_numpy(rows), torch.from_numpy(columns)].T

    def pool(self, mask: BoolArray) -> Tensor:
        """The mean joint-space feature ``(D,)`` of a region ``(H, W)``, a unit vector; zeros for an empty region."""
        whole = torch.from_numpy(mask.astype(np.float32))[None, None]
        shape = self.grid.shape[1:]
        weight = torch.nn.functional.adaptive_avg_pool2d(whole, (shape[0], shape[1]))[0, 0].to(self.grid)
        return torch.nn.functional.normalize((self.grid * weight).sum(dim=(1, 2)), dim=0)

    def compact(self) -> ImageFeatures:
        """The same in memory of its own: a slice of a batch's tensor would keep the whole batch alive."""
        return self._with_tensors(_own)

    def halved(self) -> ImageFeatures:
        """The same in half the memory: float32 becomes float16, which keeps three digits."""
        return self._with_tensors(_halve)

    def widened(self) -> ImageFeatures:
        """The same in float32, in which decoders compute."""
        return self._with_tensors(lambda tensor: tensor.float() if tensor.dtype == torch.float16 else tensor)

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> ImageFeatures:
        return replace(self, grid=change(self.grid), tensors={name: change(tensor) for name, tensor in self.tensors.items()})


def _halve(tensor: Tensor) -> Tensor:
    largest = torch.finfo(torch.float16).max
    return tensor.clamp(-largest, largest).half() if tensor.dtype == torch.float32 else tensor


def _own(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size() else tensor


class Spill(Protocol):
    """Where encoded images go for which memory has no room."""

    def get(self, key: str, /) -> ImageFeatures | None: ...

    def put(self, key: str, value: ImageFeatures, /) -> None: ...

    def __contains__(self, key: str, /) -> bool: ...


_GRID, _SIZE, _OTHER = "grid", "size", "of."


def features_to_bytes(features: ImageFeatures) -> bytes:
    """Features in safetensors; ``features_from_bytes`` makes the same of them, on the CPU."""
    tensors = {_GRID: features.grid, **{_OTHER + name: tensor for name, tensor in features.tensors.items()}}
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return bytes(save({**whole, _SIZE: torch.tensor([features.size.height, features.size.width])}))


def features_from_bytes(body: bytes) -> ImageFeatures:
    tensors = load(body)
    height, width = tensors.pop(_SIZE).tolist()
    grid = tensors.pop(_GRID)
    return ImageFeatures(Size(height, width), grid, {name.removeprefix(_OTHER): tensor for name, tensor in tensors.items()})


Encoded = ImageFeatures | Exception
"""What became of an image that was to be encoded."""
Encode = Callable[[Sequence[Image]], Sequence[Encoded]]


class FeatureCache:
    """Encoded images of one engine, the least recently used ones moved out first once they take more than ``most_bytes``.

    Whoever asks for an image that somebody else is encoding waits for that encoding instead of repeating it. With ``dtype``
    float16 all are kept in that, and everybody gets what was kept, so that an answer does not depend on who encoded.
    """

    def __init__(self, most_bytes: int, dtype: torch.dtype = torch.float32, spill: Spill | None = None) -> None:
        self.encoded = 0
        self._is_half = dtype == torch.float16
        self._spill = spill
        self._kept: SingleFlight[ImageFeatures] = SingleFlight(
            Bounds(most_bytes, lambda features: features.nbytes, left=self._move_out)
        )
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """What is in memory now."""
        return self._kept.nbytes

    def get_or_encode(self, keys: Sequence[str], images: Sequence[Image], encode: Encode) -> list[Encoded]:
        """The features of every image, in order, the same object for the same key, or the error that kept it from being
        encoded; those that nobody has are given to ``encode`` in one batch. Raises what that raises, upon which none is kept.
        """
        by_key = dict(zip(keys, images, strict=True))
        found = self._kept.do_each(keys, lambda missing: self._obtain({key: by_key[key] for key in missing}, encode))
        widened = {key: each if isinstance(each, Exception) else each.widened() for key, each in zip(keys, found, strict=True)}
        return [widened[key] for key in keys]

    def _obtain(self, images: Mapping[str, Image], encode: Encode) -> dict[str, Encoded]:
        """What the caller must get: spilled features are read, the rest is encoded."""
        spilled = {key: self._spill.get(key) if self._spill is not None else None for key in images}
        found: dict[str, Encoded] = {key: features for key, features in spilled.items() if features is not None}
        missing = [key for key in images if key not in found]
        if missing:
            fresh = encode([images[key] for key in missing])
            found.update(zip(missing, map(self._stored, fresh), strict=True))
            with self._lock:
                self.encoded += sum(not isinstance(each, Exception) for each in fresh)
        return found

    def _stored(self, each: Encoded) -> Encoded:
        if isinstance(each, Exception):
            return each
        return (each.halved() if self._is_half else each).compact()

    def _move_out(self, key: str, features: ImageFeatures) -> None:
        if self._spill is not None and key not in self._spill:
            self._spill.put(key, features)


WINDOW_S = 0.005
"""How long the first caller waits for others, far below the time of any encoding."""


@dataclass(frozen=True, slots=True)
class Batching:
    """At most ``most`` images together, of callers within ``window_s``."""

    most: int = 1
    window_s: float = WINDOW_S


SINGLY = Batching()


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    images: Sequence[Image]
    result: Future[Sequence[Encoded]] = field(default_factory=Future)


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

    def __call__(self, images: Sequence[Image]) -> Sequence[Encoded]:
        """The features of all images, in order, or what the engine raises for one of them."""
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
            with turn(self._device):
                self._answer(self._take())
        finally:
            with self._changed:
                self._has_leader = False
                self._changed.notify_all()

    def _gather(self) -> None:
        """Give others a moment, unless the batch is full already."""
        with self._changed:
            self._changed.wait_for(lambda: self.images_waiting >= self._batching.most, self._batching.window_s)

    @property
    def images_waiting(self) -> int:
        with self._changed:  # whoever measures is no caller: requests come and go meanwhile
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
        try:
            images = [image for request in batch for image in request.images]
            parts = [images[start : start + self._batching.most] for start in range(0, len(images), self._batching.most)]
            encoded = iter([each for part in parts for each in self._encode_part(part)])
        except BaseException as error:
            for request in batch:
                request.result.set_exception(error)
            return
        for request in batch:
            request.result.set_result([next(encoded) for _ in request.images])

    def _encode_part(self, images: Sequence[Image]) -> list[Encoded]:
        """Encode together; when that fails, each image by itself, so that one costs only those who want it."""
        try:
            return [features for _, features in zip(images, self._encode(images), strict=True)]
        except Exception as error:
            if len(images) == 1:
                return [error]
        return [each for image in images for each in self._encode_part([image])]
