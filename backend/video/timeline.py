"""The one table of a film's time: frame of the file, its presentation time, and Label Studio's frame at a config's frameRate.

Label Studio never sees the file's frames: it numbers from 1 and seeks its player to ``(n - 1) / frameRate`` seconds, rounded to
steps of 2 ms and one more (1.23, ``goToFrame``), whatever the film's own rate is. The keyframe's ``time`` that it stores is one
frame late (``n / frameRate``) and is never read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

STUDIO_RATE = Fraction(24)
"""The frameRate of Label Studio's ``<Video>`` when the config has none (1.23, tags/object/Video)."""
STEP_S = 0.002
"""To which Label Studio rounds the times that it seeks to (1.23, VideoCanvas)."""
TOLERANCE_S = 0.00051
"""Clocks of files are rounded, Matroska's to whole milliseconds: a seek that ends so short of a frame means that frame."""
MOST_FASTER = 240
"""So many rates are tried for a film of varying rate."""
COMMON_RATES = tuple(Fraction(n, d) for n, d in ((24000, 1001), (30000, 1001), (48000, 1001), (60000, 1001), (120000, 1001)))


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """When each of N frames is shown.

    ``starts (N,)`` float64 are seconds since the start of the file, rising; ``end`` is when the last frame goes.
    """

    starts: NDArray[np.float64]
    end: float

    def __post_init__(self) -> None:
        if not len(self.starts) or np.any(np.diff(self.starts) <= 0) or self.end <= self.starts[-1]:
            raise ValueError(f"expected rising times of at least one frame, got {self.starts} until {self.end}")

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def duration(self) -> float:
        """Seconds that all frames are shown."""
        return self.end - float(self.starts[0])

    @property
    def rate(self) -> Fraction:
        """Frames per second on average, as the nearest rate that is in use: whole, or one of NTSC's."""
        if len(self) == 1:
            return _in_use(1 / self.duration)
        return _in_use((len(self) - 1) / float(self.starts[-1] - self.starts[0]))

    @property
    def is_constant(self) -> bool:
        """Whether every frame comes within a quarter of a frame of where its number says."""
        expected = self.starts[0] + np.arange(len(self)) / float(self.rate)
        return bool(np.abs(self.starts - expected).max() * float(self.rate) <= 0.25 + len(self) * 1e-6)

    def frame_at(self, seconds: float) -> int:
        """The file's frame, from 0, that is shown at a time; the first before it and the last after it."""
        return max(0, int(np.searchsorted(self.starts, seconds + TOLERANCE_S, side="right")) - 1)

    def studio_length(self, frame_rate: Fraction) -> int:
        """How many frames Label Studio counts: ``round(duration * frameRate)``, halves up."""
        return max(1, int(np.floor(self.end * float(frame_rate) + 0.5)))

    def from_studio(self, number: int, frame_rate: Fraction) -> int:
        """The file's frame that the player shows at Label Studio's frame ``number``, from 1."""
        if number < 1:
            raise ValueError(f"expected a frame of Label Studio, which counts from 1, got {number}")
        return int(self._shown_at(np.array([number]), frame_rate)[0])

    def to_studio(self, frame: int, frame_rate: Fraction) -> int:
        """The first number at which Label Studio shows a frame of the file; the nearest one where it never does."""
        if not 0 <= frame < len(self):
            raise ValueError(f"expected a frame of the {len(self)} in the file, got {frame}")
        first = max(1, int((self.starts[frame] - 2 * STEP_S) * float(frame_rate)))
        last = int(self.starts[frame] * float(frame_rate)) + 2
        shown = self._shown_at(np.arange(first, last + 1), frame_rate)
        return first + min(int(np.searchsorted(shown, frame)), last - first)

    def unreachable(self, frame_rate: Fraction) -> list[int]:
        """The frames of the file that no number of Label Studio shows."""
        shown = self._shown_at(np.arange(1, self.studio_length(frame_rate) + 1), frame_rate)
        return [int(frame) for frame in np.setdiff1d(np.arange(len(self)), shown)]

    def first_drift(self, frame_rate: Fraction) -> int | None:
        """The first number of Label Studio, from 1, that does not show the file's frame of that number; None without one."""
        shown = self._shown_at(np.arange(1, len(self) + 1), frame_rate)
        wrong = np.flatnonzero(shown != np.arange(len(self)))
        return int(wrong[0]) + 1 if wrong.size else None

    def advised_rate(self) -> Fraction:
        """The frameRate for a config with which every frame has a number: the film's own, or one from that of its shortest
        frame on.
        """
        if self.is_constant and self.first_drift(self.rate) is None and not self.unreachable(self.rate):
            return self.rate
        shortest = float(np.diff([*self.starts, self.end]).min())
        rates = (Fraction(max(1, int(np.ceil(1 / shortest - 1e-6))) + more) for more in range(MOST_FASTER))
        return next((rate for rate in rates if not self.unreachable(rate)), Fraction(round(1 / STEP_S)))

    def _shown_at(self, numbers: NDArray[np.int64], frame_rate: Fraction) -> NDArray[np.int64]:
        """The file's frames at numbers of Label Studio, rising as they do."""
        seeks = np.floor((numbers - 1) / float(frame_rate) / STEP_S + 0.5) * STEP_S + STEP_S
        return np.maximum(np.searchsorted(self.starts, seeks + 1e-9, side="right") - 1, 0)


def as_attribute(frame_rate: Fraction) -> str:
    """A rate as the attribute ``frameRate`` of a config takes it: NTSC's need six digits to hold for an hour."""
    return str(frame_rate.numerator) if frame_rate.denominator == 1 else f"{float(frame_rate):.6f}"


def parse_frame_rate(text: str | None) -> Fraction:
    """The attribute ``frameRate``: frames per second or, below 1, seconds per frame. Raises ValueError for anything else."""
    if not text:
        return STUDIO_RATE
    try:
        number = Fraction(text.strip())
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"expected frameRate to be a number, got {text!r}") from error
    if number <= 0:
        raise ValueError(f"expected frameRate to be above 0, got {text!r}")
    return number if number >= 1 else 1 / number


def numbers_in(text: str) -> list[int]:
    """Frame numbers as a person lists them, ``"1,5,10-20"``. Raises ValueError."""
    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        low, _, high = part.partition("-")
        if not low.isdigit() or (high and not high.isdigit()):
            raise ValueError(f"expected frames such as 1,5,10-20, got {text!r}")
        found += range(int(low), int(high or low) + 1)
    return found


def _in_use(rate: float) -> Fraction:
    known: Sequence[Fraction] = [*COMMON_RATES, Fraction(max(1, round(rate)))]
    nearest = min(known, key=lambda each: abs(float(each) - rate))
    return nearest if abs(float(nearest) / rate - 1) < 2e-4 else Fraction(rate).limit_denominator(1001)
