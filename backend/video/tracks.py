"""Tracks: which pixels belong to which object on which frame, who said so, and how sure that is."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from pycocotools import mask as coco

from backend.caches import Codec
from backend.video.keyframes import Box, overlap
from prompts.geometry import BoolArray, Size, mask_box
from prompts.kinds import PromptSet

OBJECT_BYTES = 240
"""Of a small object of Python with its fields."""


@dataclass(frozen=True, slots=True)
class FrameMask:
    """An object's mask on one frame as COCO's run lengths; ``is_given`` where a person drew it, not a machine."""

    size: Size
    counts: bytes
    score: float
    is_given: bool = False

    @classmethod
    def of(cls, mask: BoolArray, score: float, *, is_given: bool = False) -> FrameMask:
        encoded = coco.encode(np.asfortranarray(mask, np.uint8))
        return cls(Size(*encoded["size"]), encoded["counts"], score, is_given)

    @property
    def rle(self) -> dict[str, object]:
        """As pycocotools takes it."""
        return {"size": [self.size.height, self.size.width], "counts": self.counts}

    @property
    def nbytes(self) -> int:
        """What it takes in memory, with the object around it."""
        return OBJECT_BYTES + len(self.counts)

    @property
    def area(self) -> int:
        return int(coco.area(self.rle))

    def decode(self) -> BoolArray:
        """The mask ``(H, W)``."""
        mask: BoolArray = coco.decode(self.rle).astype(np.bool_)
        return mask

    def box(self) -> tuple[int, int, int, int] | None:
        """The box ``(x0, y0, x1, y1)`` around it, the far sides exclusive; None for an empty mask."""
        return mask_box(self.decode())


@dataclass(frozen=True, slots=True)
class Barrier:
    """What a person set on a frame of the file: the object's ``box`` in pixels, or None where it is gone from that frame on.
    ``prompts`` say more about it than the box does, such as a mask that is remembered.
    """

    frame: int
    box: Box | None
    prompts: PromptSet | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What there is of an object already: ``boxes`` in pixels by frame of the file. On ``firm`` frames they are as they were
    found; elsewhere they lead to or from a barrier, which may have come later.
    """

    boxes: Mapping[int, Box] = field(default_factory=dict)
    firm: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Track:
    """One object through a film: its masks by frame of the file, from 0; frames where it is absent are left out."""

    object_id: int
    label: str | None = None
    masks: Mapping[int, FrameMask] = field(default_factory=dict)

    def spans(self) -> Iterator[tuple[int, int]]:
        """The runs ``(first, last)`` of frames on which it is there."""
        frames = sorted(self.masks)
        starts = [k for k, frame in enumerate(frames) if k == 0 or frames[k - 1] != frame - 1]
        for start, stop in zip(starts, [*starts[1:], len(frames)], strict=True):
            yield frames[start], frames[stop - 1]


@dataclass(frozen=True, slots=True)
class Tracks:
    """All objects of one film of ``length`` frames of one size; ids are constant and start at 1."""

    size: Size
    length: int
    tracks: tuple[Track, ...]

    @property
    def nbytes(self) -> int:
        """What all masks take in memory."""
        return sum(mask.nbytes for track in self.tracks for mask in track.masks.values())

    def on(self, frame: int) -> dict[int, FrameMask]:
        """The masks on a frame by object."""
        return {track.object_id: track.masks[frame] for track in self.tracks if frame in track.masks}

    def named(self, labels: Mapping[int, str | None]) -> Tracks:
        """The same tracks with labels by object."""
        return replace(self, tracks=tuple(replace(track, label=labels.get(track.object_id)) for track in self.tracks))


def label_map(masks: Mapping[int, FrameMask], size: Size) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """Object ids ``(H, W)`` on one frame, 0 where there is none; where masks overlap, the surer one is in front."""
    ids = np.zeros((size.height, size.width), np.int32)
    for number, mask in sorted(masks.items(), key=lambda item: item[1].score):
        ids[mask.decode()] = number
    return ids


DOUBTFUL = 0.3
MOST_DOUBTFUL = 5
RETURNED = 0.5
"""The doubt of a frame on which an object is there again: it may be another one."""
APART = 12
"""Doubtful frames that are nearer to each other than this are one place to look at."""


@dataclass(frozen=True, slots=True)
class Refined:
    """The object on one frame that was followed; ``doubt`` in 0..1 is how far following from both sides disagrees, or how
    unsure it is where there is one side. ``mask`` is None where it is hidden or gone.
    """

    frame: int
    mask: FrameMask | None
    doubt: float

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return OBJECT_BYTES + (0 if self.mask is None else self.mask.nbytes)


def doubtful(refined: Sequence[Refined]) -> list[int]:
    """The frames of the file to look at first, in order: the most doubtful ones, APART from each other."""
    chosen: list[int] = []
    for each in sorted(refined, key=lambda one: -one.doubt):
        if each.doubt < DOUBTFUL or len(chosen) == MOST_DOUBTFUL:
            break
        if all(abs(each.frame - frame) >= APART for frame in chosen):
            chosen.append(each.frame)
    return sorted(chosen)


def doubts_of(track: Track) -> list[Refined]:
    """How doubtful each frame of a track is: how unsure it is, how far the object's size jumps from the frame before, or, where
    it was not there then, half.
    """
    found: list[Refined] = []
    before: FrameMask | None = None
    for frame, mask in sorted(track.masks.items()):
        is_next = before is not None and frame - 1 in track.masks
        jump = 1 - _same_size(before, mask) if before is not None and is_next else RETURNED * (before is not None)
        found.append(Refined(frame, mask, round(min(max(1 - mask.score, jump), 1.0), 4)))
        before = mask
    return found


def _same_size(left: FrameMask, right: FrameMask) -> float:
    """The IoU of the boxes of two masks, each moved to one place."""
    one, other = left.box() or (0, 0, 0, 0), right.box() or (0, 0, 0, 0)
    sizes = [(x1 - x0, y1 - y0) for x0, y0, x1, y1 in (one, other)]
    return overlap(*((0.0, 0.0, float(width), float(height)) for width, height in sizes))


def masks_to_bytes(masks: Mapping[int, FrameMask]) -> bytes:
    """One object's masks by frame, of one size, as they are kept beside what Label Studio has of it."""
    rows = [[frame, each.counts.decode("ascii"), round(each.score, 4), each.is_given] for frame, each in sorted(masks.items())]
    size = next(iter(masks.values())).size if masks else Size(1, 1)
    return zlib.compress(json.dumps([size.height, size.width, rows]).encode("ascii"))


def masks_from_bytes(content: bytes) -> dict[int, FrameMask]:
    """The reverse. Raises ValueError for anything else."""
    try:
        height, width, rows = json.loads(zlib.decompress(content))
        size = Size(int(height), int(width))
        return {
            int(frame): FrameMask(size, str(counts).encode("ascii"), float(score), bool(given))
            for frame, counts, score, given in rows
        }
    except (zlib.error, TypeError, KeyError) as error:
        raise ValueError(f"these are no masks of a track: {error}") from error


KEPT: Codec[Mapping[int, FrameMask]] = Codec("masks of films", ".masks", masks_to_bytes, masks_from_bytes)
"""How the masks of a region are kept on disk, by the region's id."""
