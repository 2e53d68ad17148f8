"""How close tracks are to the truth: masks and outlines over frames (J and F), identities (HOTA), and what correcting costs.

J and F are those of DAVIS (Perazzi et al. 2016), HOTA is that of Luiten et al. 2021 ("HOTA: A Higher Order Metric for
Evaluating Multi-Object Tracking") over masks, as TrackEval computes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from backend.engines.base import Tracker
from backend.evaluation.metrics import Assumptions, boundary_f, ious, next_click
from backend.values.errors import RequestError
from backend.video.film import Film
from backend.video.following import Mark, follow_all
from backend.video.tracks import FrameMask, Track, Tracks
from prompts.geometry import BoolArray, Size
from prompts.kinds import MaskPrompt, PointPrompt, PromptSet

ALPHAS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""The IoUs from which a match counts, over which HOTA is the mean."""
MOST_CORRECTIONS = 20
VOID = 255
"""In DAVIS's pictures a pixel of no object and no background."""


@dataclass(frozen=True, slots=True)
class Regions:
    """The mean of J and F over the frames of each object, but for the first on which it is given."""

    j: float
    f: float
    by_object: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """J&F."""
        return (self.j + self.f) / 2


def regions_of(truth: Tracks, found: Tracks) -> Regions:
    """J and F of objects that have the same id in both; a true object that was not found has 0. Raises RequestError for films
    of another size.
    """
    _check_alike(truth, found)
    by_id = {track.object_id: track for track in found.tracks}
    values = {}
    for track in truth.tracks:
        other = by_id.get(track.object_id, Track(track.object_id))
        frames = range(min(track.masks, default=0) + 1, truth.length)
        pairs = [(_mask(track, frame, truth.size), _mask(other, frame, truth.size)) for frame in frames]
        if pairs:
            values[track.object_id] = (_mean([_iou(*pair) for pair in pairs]), _mean([boundary_f(b, a) for a, b in pairs]))
    return Regions(_mean([j for j, _ in values.values()]), _mean([f for _, f in values.values()]), values)


@dataclass(frozen=True, slots=True)
class Identities:
    """HOTA and its factors, each the mean over ALPHAS, and how often a true object is another found one than before (0.5)."""

    hota: float
    detection: float
    association: float
    switches: int


def identities_of(truth: Tracks, found: Tracks) -> Identities:
    """How well found objects are the true ones and stay the same ones. Raises RequestError for films of another size."""
    _check_alike(truth, found)
    frames = [_Frame.of(truth, found, frame) for frame in range(truth.length)]
    rows, columns = len(truth.tracks), len(found.tracks)
    shared, there, seen = np.zeros((rows, columns)), np.zeros(rows), np.zeros(columns)
    for frame in frames:
        total = frame.iou.sum(axis=1, keepdims=True) + frame.iou.sum(axis=0, keepdims=True) - frame.iou
        shared[np.ix_(frame.true, frame.found)] += np.divide(frame.iou, total, out=np.zeros_like(total), where=total > 0)
        there[frame.true] += 1
        seen[frame.found] += 1
    union = there[:, None] + seen[None] - shared
    alike = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    parts = [_at(alpha, frames, alike, (there, seen)) for alpha in ALPHAS]
    detection, association = (_mean([part[k] for part in parts]) for k in (0, 1))
    hota = _mean([float(np.sqrt(d * a)) for d, a in parts])
    return Identities(hota, detection, association, _switches(frames, alike))


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """One frame: which true and found tracks are on it, by their rows, and their IoU ``(T, F)``."""

    true: list[int]
    found: list[int]
    iou: NDArray[np.float64]

    @classmethod
    def of(cls, truth: Tracks, found: Tracks, frame: int) -> _Frame:
        rows = [[k for k, track in enumerate(each.tracks) if frame in track.masks] for each in (truth, found)]
        masks = [[each.tracks[k].masks[frame].decode() for k in some] for each, some in zip((truth, found), rows, strict=True)]
        return cls(rows[0], rows[1], ious(masks[0], masks[1]))

    def pairs(self, alike: NDArray[np.float64], alpha: float) -> list[tuple[int, int]]:
        """True and found rows that match: the assignment whose tracks are most alike, of those with an IoU of ``alpha``."""
        chosen = assigned(alike[np.ix_(self.true, self.found)] * self.iou)
        return [(self.true[i], self.found[j]) for i, j in chosen if self.iou[i, j] >= alpha - 1e-9]


def _at(
    alpha: float, frames: Sequence[_Frame], alike: NDArray[np.float64], counts: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> tuple[float, float]:
    """The accuracy of detection and of association from one IoU on."""
    there, seen = counts
    matched = np.zeros_like(alike)
    for frame in frames:
        for i, j in frame.pairs(alike, alpha):
            matched[i, j] += 1
    hits = float(matched.sum())
    detection = hits / max(float(there.sum() + seen.sum()) - hits, 1.0)
    shares = matched / np.maximum(there[:, None] + seen[None] - matched, 1)
    return detection, float((matched * shares).sum()) / hits if hits else 0.0


def _switches(frames: Sequence[_Frame], alike: NDArray[np.float64]) -> int:
    last: dict[int, int] = {}
    count = 0
    for frame in frames:
        for i, j in frame.pairs(alike, 0.5):
            count += last.get(i, j) != j
            last[i] = j
    return count


def assigned(worth: NDArray[np.float64]) -> list[tuple[int, int]]:
    """The pairs ``(row, column)`` with the greatest sum of ``worth (N, M)``, each row and column once (Kuhn 1955, by shortest
    augmenting paths).
    """
    if worth.shape[0] > worth.shape[1]:
        return [(row, column) for column, row in assigned(worth.T)]
    count, width = worth.shape
    cost = np.zeros((count + 1, width + 1))
    cost[1:, 1:] = -worth
    lift, fall = np.zeros(count + 1), np.zeros(width + 1)
    owner = np.zeros(width + 1, np.intp)
    for row in range(1, count + 1):
        owner[0], here = row, 0
        least, way, used = np.full(width + 1, np.inf), np.zeros(width + 1, np.intp), np.zeros(width + 1, np.bool_)
        while owner[here]:
            used[here] = True
            reduced = cost[owner[here]] - lift[owner[here]] - fall
            better = ~used & (reduced < least)
            better[0] = False
            least[better], way[better] = reduced[better], here
            step = np.where(used, np.inf, least)
            step[0] = np.inf
            there = int(step.argmin())
            delta = step[there]
            lift[owner[used]] += delta
            fall[used] -= delta
            least[~used] -= delta
            here = there
        while here:
            owner[here], here = owner[way[here]], int(way[here])
    return sorted((int(owner[column]) - 1, column - 1) for column in range(1, width + 1) if owner[column])


@dataclass(frozen=True, slots=True)
class Correcting:
    """What a simulated corrector did to one object: J (mean over frames) after each prompt, the first of which is its first
    mask, on ``frames`` of the film.
    """

    reached: Sequence[float]
    frames: int

    def needed(self, enough: float) -> int:
        """The prompts until J; as many as were tried and one more where it was never reached."""
        return next((number for number, j in enumerate(self.reached, 1) if j >= enough), len(self.reached) + 1)

    def saved(self, enough: float, assumed: Assumptions) -> float:
        """The share of the time that is saved, against one mask drawn by hand on every frame."""
        clicks = self.needed(enough) - 1
        spent = assumed.draw_s + clicks * (assumed.click_s + assumed.check_s) + assumed.check_s
        return 1 - spent / max(self.frames * assumed.draw_s, spent)


def correct(film: Film, tracker: Tracker, truth: Track, enough: float, most: int = MOST_CORRECTIONS) -> Correcting:
    """Follow an object from its first true mask, click the middle of the largest error on the worst frame, and so on, until J
    is ``enough`` or ``most`` prompts were given.
    """
    first = min(truth.masks)
    marks = [Mark(first, truth.object_id, PromptSet((MaskPrompt(truth.masks[first].decode()),)))]
    clicks: dict[int, tuple[PointPrompt, ...]] = {}
    reached: list[float] = []
    while len(reached) < most:
        found = follow_all(film, tracker, [*marks, *(Mark(k, truth.object_id, PromptSet(v)) for k, v in clicks.items())])
        by_frame = {
            frame: _iou(_mask(truth, frame, film.size), _mask(found.tracks[0], frame, film.size)) for frame in range(len(film))
        }
        reached.append(_mean(list(by_frame.values())))
        open_frames = [frame for frame in by_frame if frame != first]
        if reached[-1] >= enough or not open_frames:
            break
        worst = min(open_frames, key=lambda frame: by_frame[frame])
        click = next_click(_mask(found.tracks[0], worst, film.size), _mask(truth, worst, film.size))
        clicks[worst] = (*clicks.get(worst, ()), click)
    return Correcting(reached, len(film))


def read_davis(folder: Path) -> Tracks:
    """The tracks in a folder of DAVIS's pictures, one for each frame, in the order of their names. Raises RequestError for a
    folder without any, and for pictures that are none.
    """
    masks: dict[int, dict[int, FrameMask]] = {}
    size: Size | None = None
    paths = sorted(folder.glob("*.png")) if folder.is_dir() else []
    for frame, path in enumerate(paths):
        try:
            ids = np.asarray(Pillow.open(path))
        except OSError as error:
            raise RequestError(f"{path} is no picture: {error}") from error
        if ids.ndim != 2 or (size is not None and ids.shape != (size.height, size.width)):
            raise RequestError(f"{path} is no mask of one channel as large as the others")
        size = Size(*ids.shape)
        for number in np.setdiff1d(np.unique(ids), (0, VOID)):
            masks.setdefault(int(number), {})[frame] = FrameMask.of(ids == number, 1.0)
    if size is None:
        raise RequestError(f"there are no masks in {folder}: expected a PNG for each frame, such as 00000.png")
    return Tracks(size, len(paths), tuple(Track(number, None, found) for number, found in sorted(masks.items())))


def _check_alike(truth: Tracks, found: Tracks) -> None:
    if (truth.size, truth.length) != (found.size, found.length):
        sizes = [f"{each.length} frames of {each.size.width} x {each.size.height}" for each in (truth, found)]
        raise RequestError(f"expected masks of one film, got {sizes[0]} and {sizes[1]}")


def _mask(track: Track, frame: int, size: Size) -> BoolArray:
    """An object's mask on a frame, empty where it is absent."""
    return track.masks[frame].decode() if frame in track.masks else np.zeros((size.height, size.width), np.bool_)


def _iou(truth: BoolArray, found: BoolArray) -> float:
    union = int((truth | found).sum())
    return int((truth & found).sum()) / union if union else 1.0


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
