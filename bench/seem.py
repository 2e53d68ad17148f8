"""How long SEEM takes on this machine, part by part, beside the same network without Maskloom's shortcuts.

Run as ``python -m bench.seem [variant ...] [--threads N] [--rounds N] [--clock wall|processor]
[--dtype auto|float32]``, for instance ``python -m bench.seem focal-t focal-l``.
The weights are random: no part's time depends on them. Both ways take turns on the same image in the same process, and the
least time of each counts.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from backend.engines.device import computing, processor_has_bfloat16
from backend.engines.seem import predictor as attention
from backend.engines.seem.engine import CONFIGS, assemble
from backend.engines.seem.inputs import SeemNetwork
from backend.engines.seem.pixel_decoders import PixelFeatures
from backend.engines.seem.predictor import Ask, Prediction, Predictor
from backend.engines.seem.wiring import V1, MaskMemory, VisualTokens
from prompts.encoders.seem import CONTEXT, END_OF_TEXT, LanguageEncoder

IMAGE = (512, 768)
SQUARE = (1024, 1024)
BEGIN_OF_TEXT = 49406
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}


class PlainAttention(attention.MultiheadAttention):
    """Attention that always projects every key and value."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
        weight, bias = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        parts = zip((query, key, value), weight, bias, strict=True)
        q, k, v = (self._heads(functional.linear(x, w, b))[None] for x, w, b in parts)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)[0]
        out: Tensor = self.out_proj(attended.transpose(0, 1).flatten(1))
        return out


class PlainPredictor(Predictor):
    """A decoder that makes every layer's masks at full resolution and resizes them, as SEEM's own code does."""

    mask_features: Tensor

    def _visible(self, said: Prediction, small: Tensor, memory: MaskMemory | None) -> Tensor:
        resized = functional.interpolate(said.masks(self.mask_features)[None], small.shape[-2:], mode="bilinear")[0]
        visible = (resized.sigmoid() >= 0.5).flatten(1)
        if memory is not None:
            visible = torch.cat([visible, ~memory.outside((small.shape[2], small.shape[3]))])
        return visible | ~visible.any(dim=1, keepdim=True)


@dataclass(frozen=True, slots=True)
class Pair:
    """One job, done plainly and done with the shortcuts."""

    name: str
    plain: Callable[[], object]
    short: Callable[[], object]

    def measure(self, rounds: int, clock: Clock) -> tuple[float, float]:
        """The least seconds of each way; they take turns, after one turn that does not count."""
        times: dict[str, list[float]] = {"plain": [], "short": []}
        for turn in range(rounds + 1):
            for name, job in (("plain", self.plain), ("short", self.short)):
                start = clock()
                job()
                if turn:
                    times[name].append(clock() - start)
        return min(times["plain"]), min(times["short"])


def random_network(variant: str) -> SeemNetwork:
    """A network of full size with random weights."""
    with torch.device("meta"):
        network = assemble(CONFIGS[variant], V1)
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.fill_(1.0) if "norm" in name and name.endswith("weight") else weight.normal_(0, 0.02)
    return network


def without_shortcuts(network: SeemNetwork) -> SeemNetwork:
    """The same network, every part done plainly."""
    plain = copy.deepcopy(network)
    plain.predictor.__class__ = PlainPredictor
    for module in plain.modules():
        if isinstance(module, attention.MultiheadAttention):
            module.__class__ = PlainAttention
    return plain


def encoding(network: SeemNetwork, plain: SeemNetwork, size: tuple[int, int], dtype: torch.dtype) -> Pair:
    """The backbone and the pixel decoder, on images stored plane by plane in float32, and pixel by pixel in a number format."""
    image = torch.randn(1, 3, *size)
    by_pixel = image.contiguous(memory_format=torch.channels_last)

    def short() -> object:
        with computing(image.device, dtype):
            return network.encode(by_pixel)

    return Pair(f"encode image, {str(dtype).removeprefix('torch.')}", partial(plain.encode, image), short)


def decodings(network: SeemNetwork, plain_network: SeemNetwork, pixels: PixelFeatures) -> list[Pair]:
    """Each kind of question, with every group of queries and with those alone that answer it."""
    short, plain = network.predictor, plain_network.predictor
    plain.mask_features = pixels.mask_features
    height, width = (4 * side for side in pixels.mask_features.shape[2:])
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, height // 4 : height // 2, width // 4 : width // 2] = True
    tokens: VisualTokens = short.sample(pixels, (mask, torch.zeros_like(mask)))
    memory = MaskMemory(torch.randn(1, height // 4, width // 4), torch.zeros(1, dtype=torch.long))
    phrase, spatial = torch.randn(8, tokens.pooled.shape[1]), V1.spatial_queries(1, 101)
    questions = {
        "nothing asked": Ask(objects=1),
        "drawing": Ask(drawn=tokens, spatial=spatial),
        "drawing, memory": Ask(drawn=tokens, spatial=spatial, memory=memory),
        "phrase": Ask(phrases=[phrase]),
    }
    return [
        Pair(name, partial(plain, pixels, with_objects(ask)), partial(short, pixels, ask)) for name, ask in questions.items()
    ]


def with_objects(ask: Ask) -> Ask:
    """The same question, and the object queries beside it."""
    return Ask(1, ask.phrases, ask.drawn, ask.reference, ask.spatial, ask.memory)


def naming(encoder: LanguageEncoder) -> Pair:
    """Ten names of five tokens in six templates, with the whole context and with as much of it as is used."""
    ids = torch.full((60, CONTEXT), END_OF_TEXT)
    ids[:, 0], ids[:, 1:9] = BEGIN_OF_TEXT, 320
    return Pair("ten names", lambda: encoder.lang_encoder(ids) @ encoder.lang_proj, lambda: encoder(ids))


def main() -> None:
    """Measure and print one table for each variant."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("variants", nargs="*", default=["focal-t"], help=f"of {', '.join(CONFIGS)}")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--clock", choices=CLOCKS, default="wall", help="'processor' where others use the machine too")
    options.add_argument(
        "--dtype", choices=("auto", "float32"), default="auto", help="auto: bfloat16 where the processor has it"
    )
    chosen = options.parse_args()
    dtype = torch.bfloat16 if chosen.dtype == "auto" and processor_has_bfloat16() else torch.float32
    torch.set_num_threads(chosen.threads)
    for variant in chosen.variants:
        size = SQUARE if variant.startswith("samvit") else IMAGE
        how = f"{chosen.threads} threads, least of {chosen.rounds}, {chosen.clock} seconds"
        print(f"{variant}, {size[1]} x {size[0]} pixels, {how}")
        print(f"  {'':24}{'plain':>9}{'Maskloom':>10}{'ratio':>8}")
        with torch.inference_mode():
            report(
                random_network(variant), size, dtype, partial(Pair.measure, rounds=chosen.rounds, clock=CLOCKS[chosen.clock])
            )


def report(
    network: SeemNetwork, size: tuple[int, int], dtype: torch.dtype, measure: Callable[[Pair], tuple[float, float]]
) -> None:
    """Measure every part of one network and print a line for each."""
    plain_network = without_shortcuts(network)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = network.encode(torch.randn(1, 3, *size))
    ratios = []
    jobs = [encoding(network, plain_network, size, dtype), *decodings(network, plain_network, pixels)]
    for pair in (*jobs, naming(network.predictor.lang_encoder)):
        slow, quick = measure(pair)
        ratios.append(slow / quick)
        print(f"  {pair.name:24}{slow:9.2f}{quick:10.2f}{slow / quick:7.1f}x", flush=True)
    print(f"  {'geometric mean':24}{'':19}{statistics.geometric_mean(ratios):7.1f}x")


if __name__ == "__main__":
    main()
