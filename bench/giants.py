"""What is found on an image too large to be held: ``python -m bench.giants --side 30000``.

Balls are planted on a tiled TIFF, two of them on seams of tiles; a phrase and a click on each are asked about through the one
path. A ball is found where one mask has an IoU of at least a half with it, and double where a second mask touches it.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import tifffile
import typer
from numpy.typing import NDArray

from backend import tiling
from backend.assemble import engine_handle
from backend.images.limits import LargeImage
from backend.images.windows import open_large
from backend.segmenter import Segmenter
from backend.tiles import tiles_of
from backend.values.masks import Masks, MaskSet, RunLengths, shared
from backend.values.session import ForPrompts, Round
from backend.values.settings import Settings
from prompts.geometry import BoolArray, Size
from prompts.kinds import PointPrompt, Prompt, PromptSet, TextPrompt

CELL = 512
"""The side of the tiles of the file."""
LIGHT = (-0.5, -0.6, 0.62)
Pixels = NDArray[np.uint8]
Corner = tuple[int, int]


def ball(across: int) -> tuple[Pixels, BoolArray]:
    """A lit red ball ``(d, d, 3)`` and where it is ``(d, d)``."""
    rows, columns = (np.mgrid[:across, :across] + 0.5) * 2 / across - 1
    height = np.sqrt(np.clip(1 - rows**2 - columns**2, 0, 1))
    light = np.clip(LIGHT[0] * columns + LIGHT[1] * rows + LIGHT[2] * height, 0, 1)[..., None]
    pixels = np.array((200, 30, 30)) * (0.35 + 0.65 * light) + 120 * light**20
    return pixels.clip(0, 255).astype(np.uint8), rows**2 + columns**2 <= 1


def corners(dice: np.random.Generator, side: int, count: int, across: int) -> list[Corner]:
    """Where balls lie, no two near each other, the first two on seams."""
    begins = sorted({tile.x for tile in tiles_of(Size(side, side), tiling.TILE, tiling.TILE_OVERLAP)})
    seams = [*begins[1:], *(begin + tiling.TILE for begin in begins[:-1])]
    found: list[Corner] = []
    while len(found) < count:
        x, y = dice.integers(0, side - across, 2).tolist()
        if len(found) < 2:
            x = int(dice.choice(seams)) - across // 2
        if all(max(abs(x - left), abs(y - top)) > 2 * across for left, top in found):
            found.append((x, y))
    return found


def planted(path: Path, dice: np.random.Generator, side: int, noise: bool, places: list[Corner], across: int) -> LargeImage:
    """A file with balls at these corners, on noise or on one colour."""
    ground, (pixels, inside) = dice.integers(80, 220, 3), ball(across)

    def cells() -> Iterator[Pixels]:
        for top in range(0, side, CELL):
            for left in range(0, side, CELL):
                cell = np.empty((CELL, CELL, 3), np.uint8)
                cell[:] = dice.integers(90, 160, cell.shape) if noise else ground
                for x, y in places:
                    if left - across < x < left + CELL and top - across < y < top + CELL:
                        wide = np.pad(cell, ((across, across), (across, across), (0, 0)))
                        part = wide[y - top + across :, x - left + across :][:across, :across]
                        part[inside] = pixels[inside]
                        cell = wide[across:-across, across:-across]
                yield np.ascontiguousarray(cell)

    layout = {"shape": (side, side, 3), "tile": (CELL, CELL), "photometric": "rgb", "compression": "zlib"}
    tifffile.imwrite(path, cells(), dtype=np.uint8, **layout)
    found = open_large(path, 1)
    assert found is not None
    return found


def asked(segmenter: Segmenter, image: LargeImage, prompt: Prompt) -> tuple[MaskSet, float]:
    """The masks for a prompt, and the seconds of the processor that they took."""
    began = time.process_time()
    (done,) = segmenter.segment([ForPrompts(image, PromptSet((prompt,)))])
    assert isinstance(done, Round), done
    return done.masks, time.process_time() - began


def main(
    engine: Annotated[str, typer.Option(help="The engine that answers.")] = "embedded",
    phrase: Annotated[str, typer.Option(help="What is asked for.")] = "red ball",
    side: Annotated[int, typer.Option(help="Of the image, in pixels.")] = 2048,
    across: Annotated[int, typer.Option(help="Of a ball, in pixels.")] = 40,
    count: Annotated[int, typer.Option(help="How many balls an image has.")] = 10,
    seeds: Annotated[int, typer.Option(help="How many images, each with other places and another ground.")] = 3,
    noise: Annotated[bool, typer.Option("--noise", help="A ground of noise instead of one colour.")] = False,
) -> None:
    """Plant balls and look for them: by a phrase, then by a click on each."""
    with tempfile.TemporaryDirectory() as folder:
        segmenter = engine_handle(Settings(engine=engine, home=Path(folder))).segmenter()
        for seed in range(seeds):
            dice, path = np.random.default_rng(seed), Path(folder) / f"{seed}.tif"
            places = corners(dice, side, count, across)
            image = planted(path, dice, side, noise, places, across)
            truth = Masks(image.size, tuple(RunLengths.placed(ball(across)[1], place, image.size) for place in places))
            found, took_s = asked(segmenter, image, TextPrompt(phrase))
            overlap = shared(found.masks, truth)
            best = overlap.max(axis=0, initial=0)
            doubles, others = int(((overlap > 0).sum(axis=0) > 1).sum()), int((overlap.max(axis=1, initial=0) == 0).sum())
            clicks = [asked(segmenter, image, PointPrompt((x + across / 2, y + across / 2))) for x, y in places]
            hits = [float(shared(masks.masks, truth)[0, k]) for k, (masks, _) in enumerate(clicks)]
            first, *later = (took for _, took in clicks)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            told = f"{(best >= 0.5).sum()} of {count} found, IoU {best.mean():.2f}, {doubles} double, {others} elsewhere"
            print(f"{seed}: {told}, {took_s:.0f} s of the processor, peak {peak:,} MiB", flush=True)
            told = f"IoU {np.mean(hits):.2f}, least {min(hits):.2f}; the first {first:.2f} s, later {np.median(later):.2f} s"
            print(f"   clicks: {told} ({max(later):.2f} s at most)", flush=True)
            path.unlink()


if __name__ == "__main__":
    typer.run(main)
