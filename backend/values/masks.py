"""Masks as run lengths, with their scores, names and embeddings: full-size pixels exist for one mask at a time.

A mask of 24 megapixels takes 24 MB as pixels and some 10 KB as runs. The runs go row by row, as images lie in memory: to encode
and decode such a mask takes milliseconds, where pycocotools, whose runs go column by column, takes hundreds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, overload

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from prompts.geometry import BoolArray, Size, check_length, mask_box, size_of

_STRIP_PIXELS = 1 << 22
"""Of a window so many are looked through at once."""
Rows = Sequence[int] | NDArray[np.intp] | NDArray[np.bool_]
"""Some rows, by their indices or by a bool array ``(N,)``."""


@dataclass(frozen=True, slots=True, eq=False)
class RunLengths:
    """One mask ``(H, W)``: ``edges (2R,)`` are the pixels at which its runs begin and, exclusive, end, counted row by row. Runs
    do not touch, so that equal masks have equal edges.
    """

    size: Size
    edges: NDArray[np.uint32]

    @classmethod
    def of(cls, mask: BoolArray) -> RunLengths:
        """The runs of a mask ``(H, W)`` bool."""
        if mask.ndim != 2 or mask.dtype != np.bool_:
            raise ValueError(f"expected a bool mask (H, W), got {mask.dtype} of shape {mask.shape}")
        box = mask_box(mask)
        if box is None:
            return cls(size_of(mask), np.zeros(0, np.uint32))
        x0, y0, x1, y1 = box
        return cls.placed(mask[y0:y1, x0:x1], (x0, y0), size_of(mask))

    @classmethod
    def placed(cls, window: BoolArray, corner: tuple[int, int], size: Size) -> RunLengths:
        """The runs of a window ``(h, w)`` of a mask of this size, whose upper left pixel is ``corner (x, y)``."""
        rows = max(1, _STRIP_PIXELS // max(1, window.shape[1]))
        strips = [_edges(window[first : first + rows], first, corner, size) for first in range(0, len(window), rows)]
        edges = np.concatenate(strips) if strips else np.zeros(0, np.uint32)
        apart = np.ones(len(edges), np.bool_)
        apart[1:-1:2] = apart[2::2] = edges[1:-1:2] != edges[2::2]
        return cls(size, edges[apart])

    @property
    def area(self) -> int:
        """How many pixels there are."""
        return int((self.edges[1::2] - self.edges[::2]).sum(dtype=np.int64))

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """The box ``(x0, y0, x1, y1)`` around the mask, the far sides exclusive; None for an empty mask."""
        if not len(self.edges):
            return None
        first_rows, left = np.divmod(self.edges[::2], self.size.width)
        last_rows, right = np.divmod(self.edges[1::2] - 1, self.size.width)
        y0, y1 = int(first_rows[0]), int(last_rows[-1]) + 1
        if not np.array_equal(first_rows, last_rows):  # a run that goes on in the next row touches both sides
            return 0, y0, self.size.width, y1
        return int(left.min()), y0, int(right.max()) + 1, y1

    def decode(self) -> BoolArray:
        """The mask ``(H, W)``."""
        return self.rows(0, self.size.height)

    def window(self) -> tuple[tuple[slice, slice], BoolArray]:
        """Where the box around the mask lies, as rows and columns, and the mask inside it; nothing of an empty one."""
        x0, y0, x1, y1 = self.box or (0, 0, 0, 0)
        return (slice(y0, y1), slice(x0, x1)), self.rows(y0, y1)[:, x0:x1]

    def with_room(self, room: int) -> tuple[tuple[int, int], BoolArray]:
        """The window with so many pixels beside it, where the image has them: its corner ``(x, y)``, and the mask there."""
        (rows, columns), window = self.window()
        above, left = min(room, rows.start), min(room, columns.start)
        below, right = min(room, self.size.height - rows.stop), min(room, self.size.width - columns.stop)
        return (columns.start - left, rows.start - above), np.pad(window, ((above, below), (left, right)))

    def transposed(self) -> RunLengths:
        """The same mask with rows and columns exchanged: its runs go column by column."""
        (rows, columns), window = self.window()
        return RunLengths.placed(window.T, (rows.start, columns.start), Size(self.size.width, self.size.height))

    def counts(self) -> NDArray[np.uint32]:
        """The lengths of all runs, outside and inside in turn, beginning outside, until the last pixel of the image."""
        ends = self.edges if len(self.edges) and self.edges[-1] == self.size.pixels else np.append(self.edges, self.size.pixels)
        return np.diff(ends, prepend=0).astype(np.uint32)

    @classmethod
    def of_coco(cls, counts: bytes | str, size: Size) -> RunLengths:
        """The runs of COCO's compressed run lengths. Raises ValueError for what is none."""
        check_length(counts, size.pixels)
        return cls.of(coco.decode({"size": [size.height, size.width], "counts": counts}).astype(np.bool_))

    def coco_counts(self) -> str:
        """COCO's compressed run lengths, which go column by column."""
        return _as_coco(self.transposed())["counts"].decode("ascii")

    def rows(self, first: int, last: int) -> BoolArray:
        """The rows ``(last - first, W)`` of the mask."""
        start, end = first * self.size.width, last * self.size.width
        bounds = np.concatenate([[start], np.clip(self.edges, start, end), [end]]).astype(np.int64)
        counts = bounds[1:] - bounds[:-1]
        values = np.zeros(len(counts), np.bool_)
        values[1::2] = True
        return np.repeat(values, counts).reshape(last - first, self.size.width)


NOTHING_DRAWN = RunLengths(Size(1, 1), np.zeros(0, np.uint32))
"""No pixel, of an image whose size is not known yet."""


def _edges(strip: BoolArray, first: int, corner: tuple[int, int], size: Size) -> NDArray[np.uint32]:
    """Where the runs of some rows ``(h, w)`` of a window begin and end; ``first`` is the first of these rows in it."""
    (height, width), (x0, y0) = strip.shape, corner
    padded = np.zeros((height, width + 2), np.bool_)
    padded[:, 1:-1] = strip
    rows, columns = np.divmod(np.flatnonzero(padded[:, 1:] != padded[:, :-1]), width + 1)
    edges: NDArray[np.uint32] = ((rows + y0 + first) * size.width + columns + x0).astype(np.uint32)
    return edges


class _Coco(TypedDict):
    """A mask as pycocotools has it."""

    size: list[int]
    counts: bytes


def _as_coco(runs: RunLengths) -> _Coco:
    """Runs as pycocotools has them; for it they go down the columns, so that it sees the image transposed."""
    height, width = runs.size.width, runs.size.height
    encoded: _Coco = coco.frPyObjects({"counts": runs.counts(), "size": [height, width]}, height, width)
    return encoded


@dataclass(frozen=True, slots=True, eq=False)
class Masks(Sequence[BoolArray]):
    """N masks of one image, which are decoded when they are asked for: ``masks[k]`` is the mask ``(H, W)``, not a view."""

    size: Size
    runs: tuple[RunLengths, ...]

    def __post_init__(self) -> None:
        others = {runs.size for runs in self.runs} - {self.size}
        if others:
            raise ValueError(f"expected masks of {self.size}, got some of {others}")

    @classmethod
    def of(cls, masks: Iterable[BoolArray], size: Size) -> Masks:
        """Masks ``(H, W)`` bool of an image, taken one at a time."""
        return cls(size, tuple(map(RunLengths.of, masks)))

    @classmethod
    def of_stack(cls, masks: BoolArray) -> Masks:
        """Masks ``(N, H, W)`` bool in one array, for small images."""
        if masks.ndim != 3 or masks.dtype != np.bool_:
            raise ValueError(f"expected bool masks (N, H, W), got {masks.dtype} of shape {masks.shape}")
        return cls.of(masks, Size(int(masks.shape[1]), int(masks.shape[2])))

    def __len__(self) -> int:
        return len(self.runs)

    @overload
    def __getitem__(self, row: int) -> BoolArray: ...
    @overload
    def __getitem__(self, row: slice) -> Masks: ...
    def __getitem__(self, row: int | slice) -> BoolArray | Masks:
        return Masks(self.size, self.runs[row]) if isinstance(row, slice) else self.runs[row].decode()

    def __iter__(self) -> Iterator[BoolArray]:
        return (runs.decode() for runs in self.runs)

    def decode(self) -> BoolArray:
        """All at once ``(N, H, W)``: of large images too much for memory."""
        pixels = np.zeros((len(self), self.size.height, self.size.width), np.bool_)
        for row, runs in enumerate(self.runs):
            place, window = runs.window()
            pixels[row][place] = window
        return pixels

    @property
    def areas(self) -> NDArray[np.int64]:
        """The pixels of each ``(N,)``."""
        return np.array([runs.area for runs in self.runs], np.int64)

    @property
    def nbytes(self) -> int:
        """What the runs take in memory."""
        return sum(runs.edges.nbytes for runs in self.runs)

    def union(self) -> BoolArray:
        """Every pixel ``(H, W)`` that is in one of them."""
        pixels = np.zeros((self.size.height, self.size.width), np.bool_)
        for runs in self.runs:
            place, window = runs.window()
            pixels[place] |= window
        return pixels


@dataclass(frozen=True, slots=True)
class Region:
    """One row of a mask set."""

    runs: RunLengths
    score: float
    label: str | None

    @property
    def mask(self) -> BoolArray:
        """The mask ``(H, W)``, decoded."""
        return self.runs.decode()


@dataclass(frozen=True, slots=True, eq=False)
class MaskSet:
    """N answers on one image.

    ``masks``, N of them as runs; ``scores (N,)`` in 0..1; ``labels``, N names or None; ``low_res_logits (N, h, w)`` float16 in
    the decoder's own resolution, to be handed back as memory; ``embeddings (N, D)`` float32, unit vectors of the joint space.
    """

    masks: Masks
    scores: NDArray[np.float32]
    labels: tuple[str | None, ...]
    low_res_logits: NDArray[np.float16]
    embeddings: NDArray[np.float32]

    def __post_init__(self) -> None:
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
        return cls(Masks(size, ()), np.zeros(0, np.float32), (), np.zeros((0, 1, 1), np.float16), np.zeros((0, 1), np.float32))

    @classmethod
    def concatenate(cls, parts: Sequence[MaskSet], size: Size) -> MaskSet:
        """All rows of several mask sets of one image and one decoder, in order."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return cls.empty(size)
        return cls(
            masks=Masks(size, tuple(runs for part in parts for runs in part.masks.runs)),
            scores=np.concatenate([part.scores for part in parts]),
            labels=tuple(label for part in parts for label in part.labels),
            low_res_logits=np.concatenate([part.low_res_logits for part in parts]),
            embeddings=np.concatenate([part.embeddings for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Rows) -> MaskSet:
        """Some rows; their masks are not copied."""
        index = np.arange(len(self))[np.asarray(rows, np.bool_ if np.asarray(rows).dtype == np.bool_ else np.intp)]
        return MaskSet(
            masks=Masks(self.size, tuple(self.masks.runs[k] for k in index.tolist())),
            scores=self.scores[index],
            labels=tuple(self.labels[k] for k in index.tolist()),
            low_res_logits=self.low_res_logits[index],
            embeddings=self.embeddings[index],
        )

    def __iter__(self) -> Iterator[Region]:
        for runs, score, label in zip(self.masks.runs, self.scores.tolist(), self.labels, strict=True):
            yield Region(runs, score, label)

    @property
    def size(self) -> Size:
        return self.masks.size

    def named(self, labels: Sequence[str | None]) -> MaskSet:
        """The same rows under other names."""
        return replace(self, labels=tuple(labels))

    def with_masks(self, masks: Iterable[BoolArray]) -> MaskSet:
        """The same rows with other masks ``(H, W)``, taken one at a time."""
        return replace(self, masks=Masks.of(masks, self.size))


def overlaps(masks: Masks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of N masks, computed on their runs: their IoU ``(N, N)``, and which share of row i lies inside row j ``(N, N)``."""
    if not len(masks):
        return np.zeros((0, 0)), np.zeros((0, 0))
    encoded = list(map(_as_coco, masks.runs))
    ordinary, crowd = [0] * len(encoded), [1] * len(encoded)
    return coco.iou(encoded, encoded, ordinary), coco.iou(encoded, encoded, crowd)


def shared(some: Masks, others: Masks) -> NDArray[np.float64]:
    """The IoU ``(N, M)`` of N masks with M others, computed on their runs."""
    if not len(some) or not len(others):
        return np.zeros((len(some), len(others)))
    left, right = list(map(_as_coco, some.runs)), list(map(_as_coco, others.runs))
    found: NDArray[np.float64] = coco.iou(left, right, [0] * len(right))
    return found


def keep_best(overlap: NDArray[np.float64], scores: NDArray[np.float32], most: float) -> list[int]:
    """Greedy suppression: the rows, best score first, that overlap with no better row that stays by more than ``most``. Of
    ``overlap (N, N)`` row i is what i shares with the others.
    """
    kept: list[int] = []
    for row in best_first(scores):
        if not kept or overlap[row, kept].max() <= most:
            kept.append(row)
    return kept


def best_first(scores: NDArray[np.float32]) -> list[int]:
    """The rows by their scores ``(N,)``, the best first, in order where they are equal."""
    rows: list[int] = np.argsort(-scores, kind="stable").tolist()
    return rows


def united(runs: Sequence[RunLengths]) -> RunLengths:
    """The union of masks of one size, one at least, by their runs alone."""
    if len(runs) == 1:
        return runs[0]
    starts, ends = (np.concatenate([each.edges[side::2] for each in runs]).astype(np.int64) for side in (0, 1))
    order = np.argsort(starts, kind="stable")
    starts, reached = starts[order], np.maximum.accumulate(ends[order])
    is_first = np.ones(len(starts), np.bool_)
    is_first[1:] = starts[1:] > reached[:-1]
    last = np.append(np.flatnonzero(is_first)[1:] - 1, len(starts) - 1) if len(starts) else np.zeros(0, np.int64)
    edges = np.stack([starts[is_first], reached[last]], axis=1).ravel()
    return RunLengths(runs[0].size, edges.astype(np.uint32))
