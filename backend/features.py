"""What one image looks like to an engine, and the cache that keeps every image from being encoded twice."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

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
        return replace(self, grid=_own(self.grid), tensors={name: _own(tensor) for name, tensor in self.tensors.items()})


def _own(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size() else tensor


def image_key(image: Image) -> str:
    """A key of an image's content."""
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16)
    digest.update(repr(image.shape).encode())
    return digest.hexdigest()


class FeatureCache:
    """Encoded images, the least recently used ones forgotten first once they take more than ``most_bytes``.

    Whoever asks for an image that somebody else is encoding waits for that encoding instead of repeating it.
    """

    def __init__(self, most_bytes: int) -> None:
        self.encoded = 0
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, ImageFeatures] = OrderedDict()
        self._under_way: dict[str, Future[ImageFeatures]] = {}
        self._lock = threading.Lock()

    def get_or_encode(
        self, keys: Sequence[str], images: Sequence[Image], encode: Callable[[Sequence[Image]], Sequence[ImageFeatures]]
    ) -> list[ImageFeatures]:
        """The features of every image, in order; those that nobody has are encoded in one batch."""
        found, mine, waiting = self._claim(keys)
        if mine:
            found.update(self._encode([(key, images[keys.index(key)]) for key in mine], encode))
        found.update({key: future.result() for key, future in waiting.items()})
        return [found[key] for key in keys]

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

    def _encode(
        self, batch: Sequence[tuple[str, Image]], encode: Callable[[Sequence[Image]], Sequence[ImageFeatures]]
    ) -> dict[str, ImageFeatures]:
        try:
            encoded = [features.compact() for features in encode([image for _, image in batch])]
            fresh = dict(zip((key for key, _ in batch), encoded, strict=True))
        except BaseException as error:
            with self._lock:
                for key, _ in batch:
                    self._under_way.pop(key).set_exception(error)
            raise
        with self._lock:
            self.encoded += len(fresh)
            for key, features in fresh.items():
                self._keep(key, features)
                self._under_way.pop(key).set_result(features)
        return fresh

    def _keep(self, key: str, features: ImageFeatures) -> None:
        if features.nbytes > self._most_bytes:
            return
        self._kept[key] = features
        self._bytes += features.nbytes
        while self._bytes > self._most_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
