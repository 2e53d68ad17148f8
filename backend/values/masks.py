"""Masks with their scores, names and embeddings: rows of equal length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from prompts.geometry import BoolArray, Size


@dataclass(frozen=True, slots=True)
class Region:
    """One row of a mask set."""

    mask: BoolArray
    score: float
    label: str | None


@dataclass(frozen=True, slots=True)
class MaskSet:
    """N answers on one image.

    ``masks (N, H, W)`` bool; ``scores (N,)`` in 0..1; ``labels``, N names or None; ``low_res_logits (N, h, w)`` float16 in
    the decoder's own resolution, to be handed back as memory; ``embeddings (N, D)`` float32, unit vectors of the joint space.
    """

    masks: BoolArray
    scores: NDArray[np.float32]
    labels: tuple[str | None, ...]
    low_res_logits: NDArray[np.float16]
    embeddings: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.masks.ndim != 3 or self.masks.dtype != np.bool_:
            raise ValueError(f"expected bool masks (N, H, W), got {self.masks.dtype} of shape {self.masks.shape}")
        lengths = {
            "masks": len(self.masks),
            "scores": len(self.scores),
            "labels": len(self.labels),
            "low_res_logits": len(self.low_res_logits),
            "embeddings": len(self.embeddings),
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(f"expected columns of one length, got {lengths}")
        if not (np.isfinite(self.scores).all() and (self.scores >= 0).all() and (self.scores <= 1).all()):
            raise ValueError(f"expected scores in 0..1, got {self.scores}")

    @classmethod
    def empty(cls, size: Size) -> MaskSet:
        """No answer on an image of this size."""
        return cls(
            masks=np.zeros((0, size.height, size.width), np.bool_),
            scores=np.zeros(0, np.float32),
            labels=(),
            low_res_logits=np.zeros((0, 1, 1), np.float16),
            embeddings=np.zeros((0, 1), np.float32),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[MaskSet], size: Size) -> MaskSet:
        """All rows of several mask sets of one image and one decoder, in order."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return cls.empty(size)
        return cls(
            masks=np.concatenate([part.masks for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            labels=tuple(label for part in parts for label in part.labels),
            low_res_logits=np.concatenate([part.low_res_logits for part in parts]),
            embeddings=np.concatenate([part.embeddings for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, rows: Sequence[int] | NDArray[np.intp] | NDArray[np.bool_]) -> MaskSet:
        """Some rows, by a list of indices or a bool array ``(N,)``."""
        index = np.arange(len(self))[np.asarray(rows, np.bool_ if np.asarray(rows).dtype == np.bool_ else np.intp)]
        return MaskSet(
            masks=self.masks[index],
            scores=self.scores[index],
            labels=tuple(self.labels[k] for k in index.tolist()),
            low_res_logits=self.low_res_logits[index],
            embeddings=self.embeddings[index],
        )

    def __iter__(self) -> Iterator[Region]:
        for mask, score, label in zip(self.masks, self.scores.tolist(), self.labels, strict=True):
            yield Region(mask, score, label)

    @property
    def size(self) -> Size:
        return Size(int(self.masks.shape[1]), int(self.masks.shape[2]))

    def named(self, labels: Sequence[str | None]) -> MaskSet:
        """The same rows under other names."""
        return replace(self, labels=tuple(labels))


def overlaps(masks: BoolArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For masks ``(N, H, W)``: their IoU ``(N, N)``, and which share of row i lies inside row j ``(N, N)``."""
    if not len(masks):
        return np.zeros((0, 0)), np.zeros((0, 0))
    encoded = [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    ordinary, crowd = [0] * len(encoded), [1] * len(encoded)
    return coco.iou(encoded, encoded, ordinary), coco.iou(encoded, encoded, crowd)
