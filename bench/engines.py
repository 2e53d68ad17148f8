"""Speed of the production decoders at full size with random weights, beside the plain transformers call and the bare decoder.

``python -m bench.engines edgetam sam2-tiny --out bench/engines.md`` on any machine; on a GPU ``python -m bench.engines
sam2-large sam3 --device cuda --dtype bfloat16``, and the same with ``--what bulk`` and ``--what ways``. The mini networks
rehearse the way and measure nothing. Times say nothing about quality: the weights are random. Beside the time on the clock
stands the CPU's own, which says more on a busy machine.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer

from backend.engines.base import Engine
from backend.engines.catalogue import DeviceName, DtypeName, Placement
from backend.engines.device import has_bfloat16, resolve
from backend.engines.sam.engine import FoundationDecoder, FoundationParts
from backend.engines.sam.references import FoundationSpace
from backend.engines.sam.sam3 import Sam3Network
from backend.engines.sam.text_grounding import Decoding, EverythingOptions, MapFinder, MapLikeFinder, segment_everything
from backend.engines.sam.transforms import FramedPrompts, PromptableNetwork
from backend.segmenter import Segmenter
from backend.values.features import FeatureCache, ImageFeatures
from backend.values.session import ForPrompts
from bench.random_models import NAMES, Built, build
from prompts.geometry import size_of
from prompts.kinds import BoxPrompt, KeyedImage, PointPrompt, PromptSet

HEIGHT, WIDTH = 768, 1024
BATCHES = (1, 2, 4, 8, 16)
POINTS_PER_SIDE = 8


@dataclass(frozen=True)
class Row:
    """One measured thing: the median and the least of some runs on the clock, and the median of the CPU's time, in seconds."""

    what: str
    seconds: float
    least: float
    cpu: float
    runs: int


class OneColour:
    """Stands in for CLIP, which is not measured here."""

    logit_scale = 100.0

    def encode_text(self, phrases: Any) -> torch.Tensor:
        return torch.ones(len(phrases), 1)

    def encode_patches(self, image: Any) -> torch.Tensor:
        return torch.ones(1, 24, 32)

    def encode_crops(self, crops: Any) -> torch.Tensor:
        return torch.ones(len(crops), 1)


def measure(what: str, run: Callable[[], object], runs: int, device: torch.device) -> Row:
    """One run to warm up, then the others."""
    times, busy = [], []
    for _ in range(runs + 1):
        started, worked = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
        busy.append(time.process_time() - worked)
    row = Row(what, statistics.median(times[1:]), min(times[1:]), statistics.median(busy[1:]), runs)
    print(f"{row.what}: {row.seconds:.4f} s, best {row.least:.4f} s, CPU {row.cpu:.4f} s", file=sys.stderr, flush=True)
    return row


def engine_around(network: PromptableNetwork) -> tuple[Engine, Decoding]:
    """The decoder as the service uses it, with CLIP replaced."""
    clip, decoding = OneColour(), Decoding(network)
    space = FoundationSpace("bench", clip)  # type: ignore[arg-type]
    finder, like = MapFinder(space, decoding), MapLikeFinder(decoding)
    parts = FoundationParts(decoding, space, clip, None, finder, like, EverythingOptions())  # type: ignore[arg-type]
    return Engine("bench", "bench-1", space, FoundationDecoder(parts)), decoding


def framed_clicks(network: PromptableNetwork) -> FramedPrompts:
    """A click inside and one outside, in the frame of a network."""
    side = network.frame.side
    points = torch.tensor([[[side * 0.5, side * 0.4], [side * 0.3, side * 0.3]]], device=network.device)
    return FramedPrompts(points, torch.tensor([[1, 0]], device=network.device), None, None, multimask_output=False)


def plain_call(built: Built, image: Any) -> object:
    """A click as Label Studio's example backends answer it: preprocessing and the whole model for every click, no cache."""
    frame, prompts = built.network.frame, framed_clicks(built.network)
    assert prompts.points is not None
    assert prompts.labels is not None
    found = built.plain(
        pixel_values=frame.pixels(image, built.network.device)[None],
        input_points=prompts.points[None],
        input_labels=prompts.labels[None],
        multimask_output=False,
    )
    return frame.resize(found.pred_masks[0, 0], size_of(image)) > 0


def rows_of(name: str, device: torch.device, dtype: torch.dtype, runs: int) -> list[Row]:
    """Everything that is measured of one model."""
    built = build(name, device, dtype)
    network = built.network
    engine, decoding = engine_around(network)
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    keyed, segmenter = KeyedImage.of(image), Segmenter(engine, FeatureCache(1 << 30))
    (features,) = engine.decoder.encode_images([image])
    framed = framed_clicks(network)
    clicks = PromptSet((PointPrompt((512, 300)), PointPrompt((300, 225), positive=False)))
    boxes = PromptSet(tuple(BoxPrompt((x, y, x + 200, y + 150)) for x in (0, 250, 500, 750) for y in (0, 190, 380, 570)))
    segmenter.segment([ForPrompts(keyed, clicks)])
    rows = [
        measure("encode one image", lambda: engine.decoder.encode_images([image]), runs, device),
        measure("bare decoder forward, one object", lambda: network.decode(features.tensors, framed), runs * 4, device),
        measure("second click through Maskloom", lambda: segmenter.segment([ForPrompts(keyed, clicks)]), runs * 4, device),
        measure("plain transformers call per click", lambda: plain_call(built, image), runs, device),
        measure("16 boxes through Maskloom", lambda: segmenter.segment([ForPrompts(keyed, boxes)]), runs, device),
        measure(
            f"everything, {POINTS_PER_SIDE} x {POINTS_PER_SIDE} points", lambda: _everything(decoding, features), 1, device
        ),
    ]
    if isinstance(network, Sam3Network):
        rows.append(measure("one phrase", lambda: network.find(features.tensors, "red cup"), runs, device))
    return rows


def bulk_rows(name: str, device: torch.device, dtype: torch.dtype, runs: int) -> list[Row]:
    """Encoding in batches, against the bare forward of the same batch."""
    network = build(name, device, dtype).network
    engine, decoding = engine_around(network)
    rows = []
    for batch in BATCHES:
        images = [np.random.default_rng(k).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for k in range(batch)]
        pixels = torch.stack([network.frame.pixels(image, device) for image in images])
        decoding.chunks.most = batch

        def through(images: Any = images) -> object:
            return engine.decoder.encode_images(images)

        def bare(pixels: Any = pixels) -> object:
            return network.encode(pixels)

        rows += [
            measure(f"bulk encode through Maskloom, batch {batch}", through, runs, device),
            measure(f"bare encode, batch {batch}", bare, runs, device),
        ]
    return rows


def way_rows(name: str, device: torch.device, dtype: torch.dtype, runs: int) -> list[Row]:
    """Encoding one image as it is done, with weights channels last, compiled, and in bfloat16 where the device has it."""
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)

    def encoding(network: Any) -> Callable[[], object]:
        pixels = network.frame.pixels(image, device)[None]
        return lambda: network.encode(pixels)

    def compiled(network: Any) -> Any:
        network._model.vision_encoder = torch.compile(network._model.vision_encoder)
        return network

    def channels_last(network: Any) -> Any:
        network._model.to(memory_format=torch.channels_last)
        return network

    ways: dict[str, tuple[torch.dtype, Callable[[Any], Any]]] = {
        "as it is done": (dtype, lambda network: network),
        "channels last": (dtype, channels_last),
        "compiled": (dtype, compiled),
        "compiled, channels last": (dtype, lambda network: compiled(channels_last(network))),
    }
    if has_bfloat16(device):
        ways["bfloat16"] = (torch.bfloat16, lambda network: network)
    return [
        measure(f"encode one image, {way}", encoding(change(build(name, device, number).network)), runs, device)
        for way, (number, change) in ways.items()
    ]


def _everything(decoding: Decoding, features: ImageFeatures) -> object:
    return segment_everything(decoding, features, EverythingOptions(points_per_side=POINTS_PER_SIDE))


What = Literal["clicks", "bulk", "ways"]
ROWS = {"clicks": rows_of, "bulk": bulk_rows, "ways": way_rows}


def table(name: str, rows: list[Row], where: str) -> str:
    """The rows of one model as Markdown."""
    lines = [f"## {name}, {where}", "", "| what | median s | best s | CPU s | runs |", "|---|---|---|---|---|"]
    lines += [f"| {row.what} | {row.seconds:.4f} | {row.least:.4f} | {row.cpu:.4f} | {row.runs} |" for row in rows]
    return "\n".join(lines) + "\n"


def side_by_side(measured: Mapping[str, Sequence[Row]], seconds: Callable[[Row], float]) -> str:
    """The second click of every model against its plain call and its bare decoder, as Markdown."""
    lines = [
        "| model | encode s | plain call s | bare decoder s | second click s | plain / second | second / bare |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in measured.items():
        encode, bare, second, plain = map(seconds, rows[:4])
        figures = (encode, plain, bare, second, plain / second, second / bare)
        lines.append(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    return "\n".join(lines) + "\n"


def main(
    names: Annotated[list[str], typer.Argument(help=f"Of {', '.join(NAMES)}.")],
    out: Annotated[Path | None, typer.Option(help="Append the tables to this file.")] = None,
    device: Annotated[DeviceName, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[DtypeName, typer.Option(help="float32 or bfloat16, where the device computes it itself.")] = "float32",
    runs: Annotated[int, typer.Option(help="Runs of each slow thing; quick ones get four times as many.")] = 3,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    what: Annotated[
        What, typer.Option(help="clicks; bulk: batches of 1 to 16 images; ways: encoding compiled, ...")
    ] = "clicks",
) -> None:
    """Measure and print."""
    torch.set_num_threads(threads)
    where, number = resolve(Placement(device, dtype))
    machine = torch.cuda.get_device_name() if where.type == "cuda" else f"{platform.machine()} CPU, {threads} threads"
    measured: dict[str, list[Row]] = {}
    for name in names:
        measured[name] = ROWS[what](name, where, number, runs)
        tell(table(name, measured[name], f"{machine}, {dtype}, image {HEIGHT} x {WIDTH}"), out)
    if what == "clicks":
        tell(side_by_side(measured, attrgetter("cpu" if where.type == "cpu" else "seconds")), out)  # others may compute as well


def tell(text: str, out: Path | None) -> None:
    """Print, and append to a file."""
    print(text, flush=True)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    typer.run(main)
