"""What one image looks like to an engine, and the cache that keeps every image from being encoded twice."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

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


def image_key(image: Image) -> str:
    """A key of an image's content; SHA-256, for which most processors have instructions."""
    digest = hashlib.sha256(np.ascontiguousarray(image).data, usedforsecurity=False)
    digest.update(repr(image.shape).encode())
    return digest.hexdigest()[:32]


class Spill(Protocol):
    """Where encoded images go for which memory has no room."""

    def get(self, key: str) -> ImageFeatures | None: ...

    def put(self, key: str, features: ImageFeatures) -> None: ...


class Nowhere:
    """No such place: what memory has no room for is forgotten."""

    def get(self, key: str) -> None:
        return None

    def put(self, key: str, features: ImageFeatures) -> None: ...


class FeatureCache:
    """Encoded images of one engine, the least recently used ones moved out first once they take more than ``most_bytes``.

    Whoever asks for an image that somebody else is encoding waits for that encoding instead of repeating it. With ``dtype``
    float16 all are kept in that, and everybody gets what was kept, so that an answer does not depend on who encoded.
    """

    def __init__(self, most_bytes: int, dtype: torch.dtype = torch.float32, spill: Spill | None = None) -> None:
        self.encoded = 0
        self._most_bytes = most_bytes
        self._bytes = 0
        self._is_half = dtype == torch.float16
        self._spill = spill or Nowhere()
        self._kept: OrderedDict[str, ImageFeatures] = OrderedDict()
        self._under_way: dict[str, Future[ImageFeatures]] = {}
        self._lock = threading.Lock()

    def get_or_encode(
        self, keys: Sequence[str], images: Sequence[Image], encode: Callable[[Sequence[Image]], Sequence[ImageFeatures]]
    ) -> list[ImageFeatures]:
        """The features of every image, in order, the same object for the same key; those that nobody has are encoded in one
        batch. Raises what ``encode`` raises for one of them by itself, upon which the others are kept all the same.
        """
        found, mine, waiting = self._claim(keys)
        if mine:
            found.update(self._obtain([(key, images[keys.index(key)]) for key in mine], encode))
        found.update({key: future.result() for key, future in waiting.items()})
        widened = {key: features.widened() for key, features in found.items()}
        return [widened[key] for key in keys]

    def _claim(self, keys: Sequence[str]) -> tuple[dict[str, ImageFeatures], list[str], dict[str, Future[ImageFeatures]]]:
        """What is kept, what the caller must encode, and what others are encoding."""
        found, mine, waiting = {}, [], {}
        with self._lock:
            for key in dict.fromkeys(keys):
                if key in self._kept:
                    self._kept.move_to_end(key)
                    found[key] = self._kept[key]
                elif key in self._under_way:
                    waiting[key] = self._under_way[key]
                else:
                    self._under_way[key] = Future()
                    mine.append(key)
        return found, mine, waiting

    def _obtain(
        self, batch: Sequence[tuple[str, Image]], encode: Callable[[Sequence[Image]], Sequence[ImageFeatures]]
    ) -> dict[str, ImageFeatures]:
        """What the caller must get: spilled features are read, the rest is encoded; whoever waits is told.

        When a batch fails, each image is tried by itself, so that one costs only those who want it.
        """
        try:
            fresh = self._read_or_encode(batch, encode)
        except BaseException as error:
            if len(batch) > 1 and isinstance(error, Exception):
                return self._obtain_each(batch, encode)
            with self._lock:
                for key, _ in batch:
                    self._under_way.pop(key).set_exception(error)
            raise
        left: list[tuple[str, ImageFeatures]] = []
        with self._lock:
            for key, features in fresh.items():
                left += self._keep(key, features)
                self._under_way.pop(key).set_result(features)
        for key, features in left:
            self._spill.put(key, features)
        return fresh

    def _obtain_each(
        self, batch: Sequence[tuple[str, Image]], encode: Callable[[Sequence[Image]], Sequence[ImageFeatures]]
    ) -> dict[str, ImageFeatures]:
        fresh: dict[str, ImageFeatures] = {}
        failures: list[Exception] = []
        for each in batch:
            try:
                fresh.update(self._obtain([each], encode))
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return fresh

    def _read_or_encode(
        self, batch: Sequence[tuple[str, Image]], encode: Callable[[Sequence[Image]], Sequence[ImageFeatures]]
    ) -> dict[str, ImageFeatures]:
        spilled = ((key, self._spill.get(key)) for key, _ in batch)
        found = {key: features for key, features in spilled if features is not None}
        missing = [(key, image) for key, image in batch if key not in found]
        if missing:
            encoded = [self._stored(features) for features in encode([image for _, image in missing])]
            found.update(zip((key for key, _ in missing), encoded, strict=True))
            with self._lock:
                self.encoded += len(missing)
        return found

    def _stored(self, features: ImageFeatures) -> ImageFeatures:
        return (features.halved() if self._is_half else features).compact()

    def _keep(self, key: str, features: ImageFeatures) -> list[tuple[str, ImageFeatures]]:
        """What has to leave for it, or itself when it is larger than everything that there may be."""
        if features.nbytes > self._most_bytes:
            return [(key, features)]
        left = []
        self._kept[key] = features
        self._bytes += features.nbytes
        while self._bytes > self._most_bytes:
            left.append(self._kept.popitem(last=False))
            self._bytes -= left[-1][1].nbytes
        return left
