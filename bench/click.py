"""What a box on a photo costs beside the decoder's own time, once the photo is encoded: ``python -m bench.click``.

A photo of noise in a file is loaded as a request loads it and asked about through the one path; the decoder alone gets the same
features and the same prompts. Medians over rounds that alternate, so that a busy machine slows all alike.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image

from backend.assemble import media_options
from backend.engines.catalogue import find_engine
from backend.images import Media
from backend.segmenter import Segmenter
from backend.values.features import FeatureCache
from backend.values.session import ForPrompts, Round
from backend.values.settings import Settings
from prompts.kinds import BoxPrompt, KeyedImage, PromptSet


def photo(folder: Path, width: int, height: int) -> Path:
    """A file of coloured noise in patches, as large as a camera's."""
    small = np.random.default_rng(0).integers(0, 256, (height // 40, width // 40, 3), np.uint8)
    path = folder / "photo.jpg"
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(
    engine: Annotated[str, typer.Option(help="The engine that answers.")] = "embedded",
    width: int = 6000,
    height: int = 4000,
    rounds: int = 15,
) -> None:
    """Measure a box answer: the decoder alone, the one path, and the one path with loading the image."""
    with tempfile.TemporaryDirectory() as folder:
        options = replace(media_options(Settings(home=Path(folder))), local_roots=(Path(folder),), decoded_bytes=1 << 28)
        media, path = Media(options), str(photo(Path(folder), width, height))
        loaded = find_engine(engine).load(None)
        segmenter = Segmenter(loaded, FeatureCache(1 << 29))
        prompts = PromptSet((BoxPrompt((0.3 * width, 0.3 * height, 0.55 * width, 0.6 * height)),))
        image = media.load(path, "", None)
        (features,) = loaded.decoder.encode_images([image.pixels])

        def alone() -> None:
            with torch.inference_mode():
                loaded.decoder.decode(features, prompts, loaded.space.embed(prompts, features), None)

        def ask(asked: KeyedImage) -> None:
            (done,) = segmenter.segment([ForPrompts(asked, prompts)])
            assert isinstance(done, Round), done

        ask(image)
        ways = {"decoder": alone, "path": lambda: ask(image), "load and path": lambda: ask(media.load(path, "", None))}
        times = {name: [] for name in ways}  # type: dict[str, list[float]]
        for _ in range(rounds):
            for name, way in ways.items():
                times[name].append(seconds(way))
        own = statistics.median(times["decoder"])
        for name, measured in times.items():
            middle = statistics.median(measured)
            print(f"{name:14} {1000 * middle:7.1f} ms  {middle / own:5.2f} x")


if __name__ == "__main__":
    typer.run(main)
