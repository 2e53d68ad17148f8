"""The run-length code beside that of label-studio-sdk: time and memory of encoding and decoding the same masks.

Run as ``python -m bench.rle``; the SDK is found in this environment or in that of ``make run``.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from backend.demo.label_studio import StudioFolder
from backend.labelstudio.shapes import painted as rle
from backend.values.settings import Settings
from prompts.geometry import BoolArray, Size, ellipse_outline, polygon_mask, size_of, stroke_mask

PATIENCE_S = 1.0
"""A measurement is repeated for this long, at least three times."""


def find_sdk(*folders: Path) -> ModuleType | None:
    """label-studio-sdk's ``converter/brush.py``, loaded by itself, or None where there is no SDK.

    The module needs numpy and Pillow alone, while its package pins older versions of what we use.
    """
    own = importlib.util.find_spec("label_studio_sdk")
    places = [Path(place) for place in (own.submodule_search_locations or ())] if own else []
    for folder in folders:
        places.extend((StudioFolder(folder).venv / "lib").glob("python3*/site-packages/label_studio_sdk"))
    file = next((file for place in places if (file := place / "converter" / "brush.py").is_file()), None)
    spec = importlib.util.spec_from_file_location("sdk_brush", file) if file else None
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def masks() -> Iterator[tuple[str, BoolArray]]:
    """What annotators meet: a disc, a thin structure, a speckled mask, and noise as the worst case."""
    full_hd, rng = Size(1080, 1920), np.random.default_rng(0)
    disc = polygon_mask(ellipse_outline(960, 540, 500, 400, 20), full_hd)
    yield "disc, VGA", polygon_mask(ellipse_outline(320, 240, 150, 120, 20), Size(480, 640))
    yield "disc, 1080p", disc
    yield "stroke, 1080p", stroke_mask(rng.uniform((0, 0), (1920, 1080), (30, 2)), 9, full_hd)
    yield "speckled disc, 1080p", disc ^ (rng.random(disc.shape) < 0.002)
    yield "noise 10 %, 1080p", rng.random(disc.shape) < 0.1
    yield "disc, 12 MP", polygon_mask(ellipse_outline(2000, 1500, 1000, 900, 20), Size(3000, 4000))


def seconds(call: Callable[[], Any]) -> float:
    """The median time of a call."""
    call()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < PATIENCE_S and len(times) < 100):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def mebibytes(call: Callable[[], Any]) -> float:
    """The most memory that a call holds at once."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / (1 << 20)


def compare(name: str, ours: Callable[[], Any], theirs: Callable[[], Any]) -> str:
    """One line: times, memory and how many times faster we are."""
    our_time, their_time, our_peak, their_peak = seconds(ours), seconds(theirs), mebibytes(ours), mebibytes(theirs)
    return (
        f"{name:32}{our_time * 1e3:10.2f}{their_time * 1e3:12.2f}{their_time / our_time:9.1f}x"
        f"{our_peak:10.1f}{their_peak:10.1f}{their_peak / our_peak:9.1f}x"
    )


def main() -> int:
    sdk = find_sdk(Settings().home_folder, Path(".maskloom"))
    if sdk is None:
        print("label-studio-sdk is not here: run `make run` or `make test` once, which install it beside Label Studio")
        return 1
    print(f"{'':32}{'ours ms':>10}{'sdk ms':>12}{'faster':>10}{'ours MiB':>10}{'sdk MiB':>10}{'leaner':>10}")
    for name, mask in masks():
        grey = mask.astype(np.uint8) * 255
        stream = rle.encode(mask)
        assert np.array_equal(rle.decode(sdk.mask2rle(grey), size_of(mask)), mask)
        print(compare(f"encode {name}", lambda m=mask: rle.encode(m), lambda g=grey: sdk.mask2rle(g)))  # type: ignore[misc]
        print(compare(f"decode {name}", lambda s=stream, m=mask: rle.decode(s, size_of(m)), lambda s=stream: sdk.decode_rle(s)))  # type: ignore[misc]
    return 0


if __name__ == "__main__":
    sys.exit(main())
