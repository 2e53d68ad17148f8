"""Speed of the production decoders at full size with random weights, beside the plain transformers call and the bare decoder.

``python -m bench.engines edgetam sam2-tiny --out bench/engines.md`` on any machine; ``--device cuda --dtype bfloat16`` on a
GPU. Times say nothing about quality: the weights are random.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from backend.decoders.base import Engine
from backend.decoders.everything import EverythingOptions, segment_everything
from backend.decoders.finding import Decoding, MapFinder, MapLikeFinder
from backend.decoders.foundation import FoundationDecoder, FoundationParts
from backend.decoders.frames import SquashFrame
from backend.decoders.joint import FoundationSpace
from backend.decoders.promptable import FramedPrompts, PromptableNetwork
from backend.decoders.sam2 import Sam2Network
from backend.features import FeatureCache, ImageFeatures
from backend.segmenter import Question, Segmenter
from prompts.geometry import size_of
from prompts.kinds import BoxPrompt, PointPrompt, PromptSet
from prompts.torchvision_compat import declare_missing_operators

HEIGHT, WIDTH = 768, 1024
MODELS = ("edgetam", "sam2-tiny", "sam2-small", "sam2-large")


@dataclass(frozen=True)
class Row:
    """One measured thing: the median and the spread of some runs, in seconds."""

    what: str
    seconds: float
    least: float
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


def random_model(name: str) -> Any:
    """A model of full size with random weights."""
    declare_missing_operators()
    import transformers as hf

    if name == "edgetam":
        arguments = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
        backbone = hf.TimmWrapperConfig(architecture="repvit_m1", model_args=arguments)
        return hf.EdgeTamModel(
            hf.EdgeTamConfig(vision_config=hf.EdgeTamVisionConfig(backbone_config=backbone.to_dict()))
        ).eval()
    sizes: dict[str, dict[str, Any]] = {
        "sam2-tiny": {},
        "sam2-small": {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]},
        "sam2-large": {
            "hidden_size": 144,
            "embed_dim_per_stage": [144, 288, 576, 1152],
            "num_attention_heads_per_stage": [2, 4, 8, 16],
            "blocks_per_stage": [2, 6, 36, 4],
            "global_attention_blocks": [23, 33, 43],
            "window_size_per_stage": [8, 4, 16, 8],
        },
    }
    backbone = hf.Sam2HieraDetConfig(**sizes[name])
    vision = hf.Sam2VisionConfig(
        backbone_config=backbone.to_dict(), backbone_channel_list=list(reversed(backbone.embed_dim_per_stage))
    )
    return hf.Sam2Model(hf.Sam2Config(vision_config=vision)).eval()


def measure(what: str, run: Callable[[], object], runs: int, device: torch.device) -> Row:
    """One run to warm up, then the others."""
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        with torch.inference_mode():
            run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    row = Row(what, statistics.median(times[1:]), min(times[1:]), runs)
    print(f"{row.what}: {row.seconds:.4f} s, best {row.least:.4f} s", file=sys.stderr, flush=True)
    return row


def engine_around(network: PromptableNetwork) -> tuple[Engine, Decoding]:
    """The decoder as the service uses it, with CLIP replaced."""
    clip, decoding = OneColour(), Decoding(network)
    space = FoundationSpace("bench", clip)  # type: ignore[arg-type]
    finder, like = MapFinder(space, decoding), MapLikeFinder(decoding)
    parts = FoundationParts(decoding, space, clip, None, finder, like, EverythingOptions())  # type: ignore[arg-type]
    return Engine("bench", "bench-1", space, FoundationDecoder(parts)), decoding


def plain_call(model: Any, image: Any) -> object:
    """A click as Label Studio's example backends answer it: processor and whole model for every click, no cache."""
    frame = SquashFrame(1024)
    pixels = frame.pixels(image, next(model.parameters()).device)[None]
    points = torch.tensor([[[[512.0, 400.0], [300.0, 300.0]]]], device=pixels.device)
    labels = torch.tensor([[[1, 0]]], device=pixels.device)
    found = model(pixel_values=pixels, input_points=points, input_labels=labels, multimask_output=False)
    return frame.resize(found.pred_masks[0, 0], size_of(image)) > 0


def rows_of(name: str, device: torch.device, dtype: torch.dtype, runs: int) -> list[Row]:
    """Everything that is measured of one model."""
    model = random_model(name).to(device)
    network = Sam2Network(model, dtype)
    engine, decoding = engine_around(network)
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    segmenter = Segmenter(engine, FeatureCache(1 << 30))
    (features,) = engine.decoder.encode_images([image])
    clicks = PromptSet((PointPrompt((512, 300)), PointPrompt((300, 225), positive=False)))
    boxes = PromptSet(tuple(BoxPrompt((x, y, x + 200, y + 150)) for x in (0, 250, 500, 750) for y in (0, 190, 380, 570)))
    framed = FramedPrompts(
        torch.tensor([[[512.0, 400.0], [300.0, 300.0]]], device=device),
        torch.tensor([[1, 0]], device=device),
        None,
        None,
        multimask_output=False,
    )
    segmenter.segment([Question(image, clicks)])
    return [
        measure("encode one image", lambda: engine.decoder.encode_images([image]), runs, device),
        measure("bare decoder forward, one object", lambda: network.decode(features.tensors, framed), runs * 4, device),
        measure("second click through Maskloom", lambda: segmenter.segment([Question(image, clicks)]), runs * 4, device),
        measure("plain transformers call per click", lambda: plain_call(model, image), runs, device),
        measure("16 boxes through Maskloom", lambda: segmenter.segment([Question(image, boxes)]), runs, device),
        measure("everything, 8 x 8 points", lambda: _everything(decoding, features), 1, device),
    ]


def bulk_rows(name: str, device: torch.device, dtype: torch.dtype, runs: int) -> list[Row]:
    """Encoding in batches, against the bare forward of the same batch."""
    network = Sam2Network(random_model(name).to(device), dtype)
    engine, decoding = engine_around(network)
    rows = []
    for batch in (1, 2, 4, 8, 16):
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


def _everything(decoding: Decoding, features: ImageFeatures) -> object:
    return segment_everything(decoding, features, EverythingOptions(points_per_side=8))


def table(name: str, rows: list[Row], where: str) -> str:
    """The rows of one model as Markdown."""
    lines = [f"## {name}, {where}", "", "| what | median s | best s | runs |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {row.seconds:.4f} | {row.least:.4f} | {row.runs} |" for row in rows]
    return "\n".join(lines) + "\n"


def main(
    names: Annotated[list[str], typer.Argument(help=f"Of {', '.join(MODELS)}.")],
    out: Annotated[Path | None, typer.Option(help="Append the tables to this file.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    runs: Annotated[int, typer.Option(help="Runs of each slow thing; quick ones get four times as many.")] = 3,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    bulk: Annotated[bool, typer.Option("--bulk", help="Batches of 1 to 16 images instead of clicks.")] = False,
) -> None:
    """Measure and print."""
    torch.set_num_threads(threads)
    where, number = torch.device(device), getattr(torch, dtype)
    machine = torch.cuda.get_device_name() if where.type == "cuda" else f"{platform.machine()} CPU, {threads} threads"
    for name in names:
        rows = (bulk_rows if bulk else rows_of)(name, where, number, runs)
        text = table(name, rows, f"{machine}, {dtype}, image {HEIGHT} x {WIDTH}")
        print(text)
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(text + "\n")


if __name__ == "__main__":
    typer.run(main)
