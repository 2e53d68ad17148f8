from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from backend.images import Media
from backend.images.limits import MediaOptions
from tests.backend.images.servers import Server, Studio

MakeMedia = Callable[..., Media]


@pytest.fixture
def server() -> Iterator[Server]:
    """A host that has nothing to do with Label Studio."""
    made = Server()
    yield made
    made.close()


@pytest.fixture
def studio() -> Iterator[Studio]:
    made = Studio()
    yield made
    made.close()


@pytest.fixture
def make_media(tmp_path: Path) -> Iterator[MakeMedia]:
    """Media with short waits and a cache of its own; options can be given by name."""
    made: list[Media] = []

    def make(**options: Any) -> Media:
        defaults = {"cache_dir": tmp_path / "cache", "first_wait_s": 0.01, "read_timeout_s": 5.0, "total_timeout_s": 10.0}
        made.append(Media(MediaOptions(**(defaults | options))))
        return made[-1]

    yield make
    for media in made:
        media.close()


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    """A picture ``(5, 7, 3)`` in which no two pixels are alike."""
    return np.random.default_rng(5).permutation(105).astype(np.uint8).reshape(5, 7, 3)


@pytest.fixture
def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
