"""Frames as a film again: the only place that knows PyAV's writing side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.error
import numpy as np
from av.video.stream import VideoStream

from backend.pictures import PALETTE, paint_mask, write_name
from backend.values.errors import RequestError
from backend.video.film import Film
from backend.video.tracks import Tracks
from prompts.kinds import Image

CODECS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9"}
CLOCK = Fraction(1, 90_000)
"""Ticks of the written film: those of MPEG, in which every rate in use is exact enough."""


class Overlay:
    """A film under way; frames ``(H, W, 3)`` are added in order with the time at which they are shown."""

    def __init__(self, container: av.container.OutputContainer, codec: str) -> None:
        self._container = container
        self._stream = cast(VideoStream, container.add_stream(codec, rate=25))
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = CLOCK
        self._is_sized = False

    def add(self, image: Image, seconds: float) -> None:
        """Sides are made even by leaving the last row or column out, as the codecs need."""
        height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        if not self._is_sized:
            self._stream.height, self._stream.width = height, width
            self._is_sized = True
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        frame.pts, frame.time_base = round(seconds / CLOCK), CLOCK
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))


def write_overlay(film: Film, tracks: Tracks, path: Path) -> None:
    """The film with every object in a colour of its own and its name, at the film's own times.

    Raises RequestError when the file cannot be written and VideoError for a damaged frame.
    """
    names = {track.object_id: track.label or f"object {track.object_id}" for track in tracks.tracks}
    with _written(path) as overlay:
        for frame in film.frames():
            found = tracks.on(frame.number)
            picture = frame.image.copy()
            for number, mask in sorted(found.items()):
                shown, colour = mask.decode(), PALETTE[(number - 1) % len(PALETTE)]
                paint_mask(picture, shown, colour)
                write_name(picture, shown, names[number], colour)
            overlay.add(picture, float(film.timeline.starts[frame.number]))


@contextmanager
def _written(path: Path) -> Iterator[Overlay]:
    codec = CODECS.get(path.suffix.lower())
    if codec is None:
        raise RequestError(f"cannot write the film {path}: choose an ending among {', '.join(CODECS)}")
    try:
        with av.open(str(path), "w") as container:
            overlay = Overlay(container, codec)
            yield overlay
            overlay.finish()
    except (av.error.FFmpegError, OSError) as error:
        raise RequestError(f"cannot write the film {path}: {error.strerror}") from error
