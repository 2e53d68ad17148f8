"""A video file as upright RGB frames by number: the only place that knows PyAV's reading side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from backend.images.limits import check_pixels
from backend.values.errors import ImageError, VideoError
from backend.video.timeline import Timeline
from prompts.geometry import Size
from prompts.kinds import Image

SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".ts", ".webm"})
"""The endings of files in a folder that are taken for films."""
MOST_BYTES = 256 << 20
"""Decoded frames that are held at once when a film is read backwards."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of a film: its number in the file, from 0, and ``image (H, W, 3)`` RGB, upright."""

    number: int
    image: Image


@dataclass(frozen=True, slots=True)
class FilmFacts:
    """What a file says of itself. ``rotation`` is in degrees clockwise; ``promised`` is the number of frames in the header,
    None where it has none; ``starts_late`` are the seconds of the file before its first picture; ``cut`` counts frames that
    an edit list hides; ``pixel_aspect`` is the shape of a stored pixel; ``reordered`` says whether it has B-frames.
    """

    codec: str
    size: Size
    rotation: int
    promised: int | None
    starts_late: float
    cut: int
    pixel_aspect: Fraction
    reordered: bool


@dataclass(frozen=True, slots=True, eq=False)
class Film:
    """A readable video. ``ticks (N,)`` are the frames' timestamps as the file has them; without any, frames are counted."""

    path: Path
    facts: FilmFacts
    timeline: Timeline
    ticks: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.timeline)

    @property
    def size(self) -> Size:
        """The size of the upright picture."""
        return self.facts.size

    def frame(self, number: int) -> Image:
        """One frame ``(H, W, 3)`` by its number from 0. Raises VideoError."""
        return next(self.frames(number, number + 1)).image

    def frames(self, first: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """The frames ``first .. stop - 1`` in order, one in memory at a time. Raises VideoError for one that is damaged."""
        stop = len(self) if stop is None else stop
        if not 0 <= first < stop <= len(self):
            raise VideoError(f"{self.path} has the frames 0 to {len(self) - 1}, asked for {first} to {stop - 1}")
        expected = first
        for start in dict.fromkeys((first, 0)):
            for number, picture in self._decoded(start):
                if number > expected:
                    break
                if number == expected:
                    yield Frame(number, self._upright(picture))
                    expected += 1
                if expected == stop:
                    return
        raise VideoError(f"{self.path}: frame {expected} of {len(self)} cannot be decoded; the file is damaged there")

    def backwards(self, first: int, stop: int) -> Iterator[Frame]:
        """The frames ``stop - 1 .. first``, in that order, with a bounded number of them in memory."""
        chunk = max(1, MOST_BYTES // (3 * self.size.pixels))
        for end in range(stop, first, -chunk):
            yield from reversed(list(self.frames(max(first, end - chunk), end)))

    def _decoded(self, first: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Pictures with their numbers from a keyframe on that, where the container can seek, comes before ``first``."""
        with _opened(self.path) as (container, stream):
            if self.ticks is None:
                yield from enumerate(_pictures(container, stream))
                return
            if first > 0:
                container.seek(int(self.ticks[first]), stream=stream)
            for picture in _pictures(container, stream):
                number = int(np.searchsorted(self.ticks, picture.pts)) if picture.pts is not None else len(self)
                if number < len(self) and self.ticks[number] == picture.pts:
                    yield number, picture

    def _upright(self, picture: av.VideoFrame) -> Image:
        stored = picture.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(stored, -self.facts.rotation // 90))


def open_film(path: Path, most_pixels: int = 64_000_000) -> Film:
    """A film whose frames are counted, without decoding them where the file tells their times.

    Raises VideoError for what is no video, has no picture, no frame, or more than ``most_pixels``.
    """
    with _opened(path) as (container, stream):
        packets = _Packets.read(container, stream)
    if packets.has_times:
        ticks = packets.shown()
        starts = (ticks - packets.zero).astype(np.float64) * float(packets.base)
        last = packets.last_duration(ticks) * float(packets.base)
    else:
        ticks = None
        count = _count(path)
        starts = np.arange(count, dtype=np.float64) / float(packets.rate)
        last = 1 / float(packets.rate)
    if not len(starts):
        raise VideoError(f"{path} has a video stream without a single frame; the recording was not finished")
    timeline = Timeline(starts, float(starts[-1] + last))
    facts = _facts(path, packets, timeline)
    try:
        check_pixels(facts.size.width, facts.size.height, most_pixels)
    except ImageError as error:
        raise VideoError(f"{path}: {error}") from error
    return Film(path, facts, timeline, ticks)


@dataclass(frozen=True, slots=True, eq=False)
class _Packets:
    """The encoded frames of a stream as the container lists them: timestamps ``(N,)``, durations, and which are shown."""

    pts: list[int | None]
    duration: list[int]
    hidden: list[bool]
    base: Fraction
    rate: Fraction
    zero: int
    codec: str
    promised: int
    aspect: Fraction

    @classmethod
    def read(cls, container: InputContainer, stream: VideoStream) -> _Packets:
        pts: list[int | None] = []
        duration, hidden = [], []
        try:
            for packet in container.demux(stream):
                if packet.size and not packet.is_corrupt:
                    pts.append(packet.pts)
                    duration.append(packet.duration or 0)
                    hidden.append(packet.is_discard)
        except av.error.FFmpegError:
            pass  # what the file has until here is its length; how much is missing is told by ``promised``
        base = Fraction(stream.time_base or Fraction(1, 1000))
        start = Fraction(container.start_time or 0, av.time_base)
        return cls(
            pts=pts,
            duration=duration,
            hidden=hidden,
            base=base,
            rate=Fraction(stream.guessed_rate or stream.average_rate or 25),
            zero=round(start / base),
            codec=stream.codec_context.name,
            promised=int(stream.frames),
            aspect=Fraction(stream.sample_aspect_ratio or 1),
        )

    @property
    def has_times(self) -> bool:
        return None not in self.pts

    @property
    def is_reordered(self) -> bool:
        shown = [number for number in self.pts if number is not None]
        return shown != sorted(shown)

    def shown(self) -> NDArray[np.int64]:
        """The rising timestamps of the frames that are shown."""
        kept = [number for number, hidden in zip(self.pts, self.hidden, strict=True) if number is not None and not hidden]
        return np.unique(np.array(kept, np.int64))

    def last_duration(self, ticks: NDArray[np.int64]) -> float:
        """How long the last frame is shown, in ticks: as the file says, else as long as the others."""
        if not len(ticks):
            return 1
        said = self.duration[self.pts.index(int(ticks[-1]))]
        return said or (float(np.median(np.diff(ticks))) if len(ticks) > 1 else float(1 / self.rate / self.base))


def _facts(path: Path, packets: _Packets, timeline: Timeline) -> FilmFacts:
    """What only the first decoded picture tells, with the rest."""
    with _opened(path) as (container, stream):
        picture = next(_pictures(container, stream), None)
    if picture is None:
        raise VideoError(f"{path}: no frame can be decoded; the file is damaged")
    rotation = round(-picture.rotation / 90) * 90 % 360
    sides = (picture.width, picture.height) if rotation % 180 else (picture.height, picture.width)
    return FilmFacts(
        codec=packets.codec,
        size=Size(*sides),
        rotation=rotation,
        promised=packets.promised or None,
        starts_late=float(timeline.starts[0]),
        cut=sum(packets.hidden),
        pixel_aspect=packets.aspect,
        reordered=packets.is_reordered,
    )


def _count(path: Path) -> int:
    with _opened(path) as (container, stream):
        return sum(1 for _ in _pictures(container, stream))


def _pictures(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """Everything that can be decoded, in the order of presentation; a damaged packet costs its own picture alone."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the file breaks off: what the decoder still holds comes next
            packet = None
        with suppress(av.error.FFmpegError):
            yield from stream.codec_context.decode(packet)
        if packet is None or not packet.size:
            return


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream. Raises VideoError, also for what decoding trips over inside."""
    if not path.is_file():
        raise VideoError(f"there is no file {path}")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                kinds = ", ".join(sorted({stream.type for stream in container.streams}))
                raise VideoError(f"{path} has no video stream" + (f", only {kinds}" if kinds else ""))
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise VideoError(f"{path}: its video codec is unknown here; convert it, for example to H.264")
            yield container, stream
    except av.error.FFmpegError as error:
        what = "it is empty" if path.stat().st_size == 0 else f"it is no video, or cut short or damaged ({error.strerror})"
        raise VideoError(f"{path} cannot be read: {what}") from error
