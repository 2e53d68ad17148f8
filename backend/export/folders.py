"""Exports of one file for each image: YOLO's segmentation labels beside their images, and PNGs of numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from backend.export.formats import whole
from backend.export.lines import TaskLine, disk_at
from backend.export.outlines import outline
from backend.export.rows import ImageRow, MaskRow
from backend.pictures import PALETTE

YOLO_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""What Ultralytics reads (https://docs.ultralytics.com/modes/predict/#images), of what we read."""
Numbers = NDArray[np.uint8 | np.uint16]


class PngKind(StrEnum):
    """What the numbers of a PNG are."""

    SEMANTIC = "semantic"
    """Each pixel has the number of its label, 0 none."""
    PALETTE = "palette"
    """The same, with a colour for each label."""
    INSTANCE = "instance"
    """Each pixel has the number of its region; ``instances.json`` says which label that is."""


def side_of(url: str, val_share: float) -> str:
    """``train`` or ``val``, drawn from an image's address: the same image is always on the same side."""
    drawn = int.from_bytes(hashlib.blake2b(url.encode(errors="surrogatepass"), digest_size=6).digest(), "big") / (1 << 48)
    return "val" if drawn < val_share else "train"


def yolo_line(row: MaskRow, number: int, image: ImageRow) -> str:
    """A mask in YOLO's format (https://docs.ultralytics.com/datasets/segment/): its label's number and a ring in 0..1."""
    ring = outline(row.mask(image.size)) / (image.width, image.height)
    return f"{number} {' '.join(f'{value:.6g}' for value in ring.ravel())}\n"


def write_yolo(lines: Iterable[TaskLine], folder: Path, labels: Sequence[str], val_share: float) -> Path:
    """``labels/`` beside the ``images/`` that lie there, and ``data.yaml``. Where one side has no image, it is the other one,
    since training wants both.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    sides: dict[str, int] = {"train": 0, "val": 0}
    for line in lines:
        for image in line.images:
            side = side_of(image.url, val_share)
            sides[side] += 1
            for part, rows in (("labels", image.masks), ("predictions", image.predicted)):
                if part == "labels" or rows:
                    text = "".join(yolo_line(row, numbers[row.label], image) for row in rows if row.label in numbers)
                    _write_text(folder / part / side / f"{Path(image.name).stem}.txt", text)
    train = "images/train" if sides["train"] else "images/val"
    val = "images/val" if sides["val"] else train
    names = "".join(f"  {number}: {json.dumps(label)}\n" for label, number in numbers.items())
    text = f"path: {json.dumps(str(folder.resolve()))}\ntrain: {train}\nval: {val}\nnames:\n{names}"
    _write_text(folder / "data.yaml", text)
    return folder / "data.yaml"


def write_pngs(lines: Iterable[TaskLine], folder: Path, labels: Sequence[str], kind: PngKind) -> Path:
    """``masks/NAME.png``, as large as the images, the smaller region on top, and a JSON that says what the numbers are."""
    numbers = {label: number for number, label in enumerate(labels, start=1)}
    instances: dict[str, dict[int, str]] = {}
    for line in lines:
        for image in line.images:
            name = f"{Path(image.name).stem}.png"
            instances[name] = _write_png(folder / "masks" / name, image, image.masks, numbers, kind)
            if image.predicted:
                _write_png(folder / "predictions" / name, image, image.predicted, numbers, kind)
    if kind is PngKind.INSTANCE:
        _write_text(folder / "instances.json", json.dumps(instances, indent=1))
    _write_text(folder / "labels.json", json.dumps(numbers, indent=1))
    return folder / "masks"


def _write_png(path: Path, image: ImageRow, rows: Sequence[MaskRow], numbers: dict[str, int], kind: PngKind) -> dict[int, str]:
    """One picture; says which label the number of each region is."""
    ordered = sorted((row for row in rows if row.label in numbers), key=lambda row: (-row.area, row.score))
    values = range(1, len(ordered) + 1) if kind is PngKind.INSTANCE else [numbers[row.label] for row in ordered]
    most = len(ordered) if kind is PngKind.INSTANCE else len(numbers)
    canvas = paint(((row.mask(image.size), value) for row, value in zip(ordered, values, strict=True)), image, most)
    picture = PillowImage.fromarray(canvas)
    if kind is PngKind.PALETTE and canvas.dtype == np.uint8:
        picture.putpalette(colours())
    with disk_at(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.new")
        picture.save(partial, "PNG")
        partial.replace(path)
    return dict(zip(values, (row.label for row in ordered), strict=True)) if kind is PngKind.INSTANCE else {}


def paint(masks: Iterable[tuple[NDArray[np.bool_], int]], image: ImageRow, most: int) -> Numbers:
    """Masks as numbers ``(H, W)``, later ones over earlier ones; 16 bits where a number may be larger than 255."""
    canvas: Numbers = np.zeros((image.height, image.width), np.uint8 if most < 256 else np.uint16)
    for mask, value in masks:
        canvas[mask] = value
    return canvas


def colours() -> list[int]:
    """A palette: black, then the colours of overlays over and over."""
    return [0, 0, 0, *(channel for row in range(255) for channel in PALETTE[row % len(PALETTE)])]


def _write_text(path: Path, text: str) -> None:
    with disk_at(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as out:
            out.write(text)
