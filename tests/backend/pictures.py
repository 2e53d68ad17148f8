"""Drawn pictures whose right answers are known to the pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RED, BLUE, GREEN, WHITE, YELLOW = (255, 0, 0), (0, 0, 255), (0, 128, 0), (255, 255, 255), (255, 255, 0)


@dataclass(frozen=True)
class Picture:
    """An image on white with shapes, and the true mask of each shape by name."""

    image: NDArray[np.uint8]
    shapes: dict[str, NDArray[np.bool_]]


def disc(height: int, width: int, x: float, y: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:height, :width]
    inside: NDArray[np.bool_] = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 < radius**2
    return inside


def square(height: int, width: int, x0: int, y0: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), np.bool_)
    mask[y0 : y0 + side, x0 : x0 + side] = True
    return mask


def paint(shapes: dict[str, tuple[NDArray[np.bool_], tuple[int, int, int]]]) -> Picture:
    """Shapes in colours on a white ground; they must not overlap."""
    first = next(iter(shapes.values()))[0]
    image = np.full((*first.shape, 3), 255, np.uint8)
    for mask, colour in shapes.values():
        image[mask] = colour
    return Picture(image, {name: mask for name, (mask, _) in shapes.items()})


def two_shapes() -> Picture:
    """A red disc on the left and a blue square on the right, 120 x 80."""
    return paint({"red disc": (disc(80, 120, 30, 40, 18), RED), "blue square": (square(80, 120, 75, 25, 30), BLUE)})


def two_red_discs() -> Picture:
    """A large and a small red disc and a blue square, 160 x 90."""
    return paint(
        {
            "large": (disc(90, 160, 35, 45, 25), RED),
            "small": (disc(90, 160, 90, 40, 10), RED),
            "blue square": (square(90, 160, 120, 30, 25), BLUE),
        }
    )
