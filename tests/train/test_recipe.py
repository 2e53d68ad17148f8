"""The whole recipe in a minute: from a folder of photos to weights that answer, and on from where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from backend.engines.embedded import build
from backend.engines.embedded.places import CLASSES, HEAD, Backbone
from prompts.kinds import BoxPrompt, PromptSet, TextPrompt
from tests.backend.pictures import disc
from train import __main__ as recipe
from train import encoder, masks, text

SIZE = (96, 128)
NAMES = ("ball", "zebra")
"""One that is taught, and one by which is chosen what names need that nobody taught."""


class Spelling:
    """A teacher of phrases that knows nothing but how they are spelt."""

    vocabulary = ("sun", "moon", "stone")

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def encode(self, phrases: Sequence[str]) -> NDArray[np.float32]:
        rows = [np.random.default_rng(crc32(phrase.encode())).normal(size=384) for phrase in phrases]
        return (np.stack(rows) / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def photos(folder: Path) -> Path:
    """Balls and zebras, drawn as discs of two colours: ten photos of each split, of a source that may be used."""
    source = folder / "drawn"
    source.mkdir(parents=True)
    lines = []
    for k in range(20):
        name, dice = NAMES[k % 5 == 4], np.random.default_rng(k)
        shown = disc(*SIZE, dice.uniform(40, 90), dice.uniform(35, 60), dice.uniform(15, 28))
        colour = (210, 40, 30) if name == "ball" else (20, 190, 60)
        Image.fromarray(np.where(shown[:, :, None], colour, (40, 70, 190)).astype(np.uint8)).save(source / f"{k}.png")
        mask = Image.fromarray(shown.astype(np.uint8))
        mask.putpalette(list(range(256)) * 3)
        mask.save(source / f"{k}-mask.png")
        row = {"image": f"{k}.png", "mask": f"{k}-mask.png", "labels": {"1": name}, "source": "drawn", "kind": "instance"}
        lines.append(json.dumps({**row, "split": "val" if k % 2 else "train", "exhaustive": "drawn"}))
    source.joinpath("index.jsonl").write_text("\n".join(lines))
    return folder


def published(path: Path) -> Path:
    """Weights as the package lays them out: for every layer a kernel and its norm, then the classifier."""
    torch.manual_seed(0)
    layers = [part for part in Backbone().modules() if isinstance(part, torch.nn.Conv2d)]
    first = next(layer for layer in layers if layer.in_channels == 3)
    tensors: list[torch.Tensor] = []
    for layer in [first, *(layer for layer in layers if layer is not first)]:
        ones, zeros = torch.ones(layer.out_channels), torch.zeros(layer.out_channels)
        tensors += [layer.weight.detach().clone(), ones, zeros, zeros.clone(), ones.clone()]
    tensors += [torch.randn(CLASSES, HEAD) / 36, torch.zeros(CLASSES)]
    torch.save({f"{k}": tensor for k, tensor in enumerate(tensors)}, path)
    return path


def steps(out: Path, name: str) -> int:
    return int(torch.load(out / f"{name}.pt", weights_only=True)["step"])


@pytest.mark.long
def test_the_recipe_makes_weights_that_answer_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "Teacher", Spelling)
    monkeypatch.setattr(text, "synonyms", dict)
    for module, name, value in ((text, "ABOUT", 60), (text, "HELD_OUT", 10), (encoder, "BATCH", 4), (masks, "BATCH", 2)):
        monkeypatch.setattr(module, name, value)
    data, out, backbone = photos(tmp_path / "data"), tmp_path / "out", published(tmp_path / "lite2.pth")

    def start(minutes: float) -> None:
        recipe.main(data, out, minutes, tmp_path, backbone, None, list(recipe.SHARES), False, "cpu")

    start(0.1)
    begun = {name: steps(out, name) for name in ("encoder", "masks")}
    assert min(begun.values()) > 0
    start(0.3)
    assert all(steps(out, name) > before for name, before in begun.items()), "more minutes are more steps, not new ones"
    written = out / "embedded.safetensors"
    assert {name.split(".")[0] for name in load_file(written)} >= {"encoder", "views", "text", "classifier", "names", "places"}
    engine = build(written)
    image = np.asarray(Image.open(data / "drawn" / "0.png"))
    (features,) = engine.decoder.encode_images([image])
    for prompts in (PromptSet((BoxPrompt((20.0, 20.0, 90.0, 80.0)),)), PromptSet((TextPrompt("ball"), TextPrompt("zebra")))):
        answer = engine.decoder.decode(features, prompts, engine.space.embed(prompts, features), None)
        assert answer.size.width == SIZE[1]
        assert len(answer) >= len(prompts.drawn)
