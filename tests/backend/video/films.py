"""Films made by the tests, whose every picture says which frame it is: the number as black and white cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from prompts.kinds import Image

BITS = 12
CELL = 16


def paint_number(number: int, height: int = 64, width: int = 192) -> Image:
    """A picture with ``number`` as twelve cells in its top row, the highest bit at the left."""
    image = np.full((height, width, 3), 90, np.uint8)
    for bit in range(BITS):
        image[:CELL, bit * CELL : (bit + 1) * CELL] = 235 if number >> (BITS - 1 - bit) & 1 else 20
    return image


def read_number(image: Image) -> int:
    """The number that is painted in a picture."""
    cells = [image[4 : CELL - 4, bit * CELL + 4 : (bit + 1) * CELL - 4].mean() > 128 for bit in range(BITS)]
    return sum(int(cell) << (BITS - 1 - bit) for bit, cell in enumerate(cells))


@dataclass(frozen=True)
class Recipe:
    """How a film is encoded; ``ticks`` are timestamps in units of ``base``, one frame each by default."""

    rate: Fraction = Fraction(24)
    codec: str = "libx264"
    ticks: Sequence[int] | None = None
    base: Fraction | None = None
    b_frames: int = 0
    rotation: int = 0
    keyframe_every: int = 12
    options: tuple[tuple[str, str], ...] = ()


def write_film(path: Path, pictures: Sequence[Image], recipe: Recipe = Recipe()) -> Path:
    """Encode pictures ``(H, W, 3)``."""
    with av.open(str(path), "w", options=dict(recipe.options)) as container:
        stream = container.add_stream(recipe.codec, rate=recipe.rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if recipe.codec == "mjpeg" else "yuv420p"
        stream.gop_size = recipe.keyframe_every
        if recipe.codec in ("libx264", "mpeg4"):
            stream.max_b_frames = recipe.b_frames
        if recipe.codec == "libx264":
            stream.options = {"preset": "ultrafast", "crf": "18", "bf": str(recipe.b_frames), "threads": "1"}
        base = recipe.base or 1 / recipe.rate
        stream.codec_context.time_base = base
        if recipe.rotation:
            stream.set_display_rotation(recipe.rotation)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number if recipe.ticks is None else recipe.ticks[number]
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbered_film(path: Path, count: int, recipe: Recipe = Recipe()) -> Path:
    """A film of ``count`` frames that say their numbers."""
    return write_film(path, [paint_number(number) for number in range(count)], recipe)
