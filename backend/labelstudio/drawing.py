"""How a labelling config wants masks drawn: the shape, the points of a polygon, smoothing, and what is too small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from backend.labelstudio.shapes.base import SHAPE_NAMES
from backend.values.errors import ConfigError
from backend.values.masks import RunLengths
from backend.values.morphology import smooth

OUTPUT, POINTS, SMOOTH, MIN_AREA = "maskloom-output", "maskloom-points", "maskloom-smooth", "maskloom-min-area"
_LIMITS = {POINTS: (3, 1000), SMOOTH: (0, 500), MIN_AREA: (0, 1_000_000_000)}


@dataclass(frozen=True, slots=True)
class Drawing:
    """What a ``<Label>`` or a tag says of its masks; empty and 0 where it says nothing. ``smooth`` is in pixels of the image,
    ``min_area`` in as many pixels.
    """

    output: str = ""
    points: int = 0
    smooth: int = 0
    min_area: int = 0

    def over(self, other: Drawing) -> Drawing:
        """This, and what the other says where this says nothing."""
        return Drawing(
            self.output or other.output,
            self.points or other.points,
            self.smooth or other.smooth,
            self.min_area or other.min_area,
        )

    def refined(self, runs: RunLengths) -> RunLengths:
        """A mask smoothed, if that is wanted; only the box around it is worked on."""
        if not self.smooth or not runs.area:
            return runs
        (rows, columns), window = runs.window()
        height, width, room = runs.size.height, runs.size.width, self.smooth + 1
        above, left = min(room, rows.start), min(room, columns.start)
        below, right = min(room, height - rows.stop), min(room, width - columns.stop)
        padded = np.pad(window, ((above, below), (left, right)))
        return RunLengths.placed(smooth(padded, self.smooth), (columns.start - left, rows.start - above), runs.size)


NO_DRAWING = Drawing()


def read_drawing(attributes: Mapping[str, str]) -> Drawing:
    """What attributes, under lower-case names, say of masks. Raises ConfigError for a shape or a number that cannot be."""
    output = attributes.get(OUTPUT, "").strip().lower()
    if output and output not in SHAPE_NAMES:
        raise ConfigError(f"the labelling config says {OUTPUT}={output!r}; it can be {', '.join(SHAPE_NAMES)}")
    return Drawing(output, *(_number(attributes, name) for name in (POINTS, SMOOTH, MIN_AREA)))


def _number(attributes: Mapping[str, str], name: str) -> int:
    said = attributes.get(name, "").strip()
    low, high = _LIMITS[name]
    if said and not (said.isdecimal() and len(said) < 12 and low <= int(said) <= high):
        raise ConfigError(f"the labelling config says {name}={said[:40]!r}; expected a whole number from {low} to {high:,}")
    return int(said or 0)
