"""Images for the live tests: one drawn, whose true masks are known, and those that scikit-image ships."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backend.labelstudio.api import LabelStudio
from tests.backend.pictures import BLUE, GREEN, RED, Picture, disc, paint, square

HEIGHT, WIDTH = 240, 320
DISC_CENTRE, BLUE_CENTRE, GREEN_CENTRE = (80, 100), (230, 90), (130, 200)


def three_shapes() -> Picture:
    """A red disc, a blue square and a small green square, 320 x 240."""
    return paint(
        {
            "red disc": (disc(HEIGHT, WIDTH, *DISC_CENTRE, 50), RED),
            "blue square": (square(HEIGHT, WIDTH, 190, 50, 80), BLUE),
            "green square": (square(HEIGHT, WIDTH, 100, 170, 60), GREEN),
        }
    )


def save(image: NDArray[np.uint8], path: Path) -> Path:
    Image.fromarray(image).save(path)
    return path


def save_truncated(path: Path) -> Path:
    """A JPEG of which the second half is missing."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)).save(path, "JPEG")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def upload_files(label_studio: LabelStudio, project_id: int, files: Sequence[Path]) -> list[int]:
    """Store image files in Label Studio, each as one task, as its import page does."""
    with ExitStack() as stack:
        parts = [(f"file{i}", (path.name, stack.enter_context(path.open("rb")))) for i, path in enumerate(files)]
        path, params = f"/api/projects/{project_id}/import", {"return_task_ids": "true"}
        return [int(each) for each in label_studio.call("POST", path, params=params, files=parts)["task_ids"]]
