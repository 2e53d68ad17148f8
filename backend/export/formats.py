"""What an export writes: COCO instances with their results file, Label Studio's own JSON, YOLO's labels, and PNGs of numbers.

YOLO's outlines run along the edges of pixels: one closed ring for a mask of whatever parts and holes, which fills to it. Rings
are joined by bridges that run there and back, as Ultralytics joins the parts of a COCO object: a bridge has no area.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image as PillowImage
from shapely.geometry.base import BaseGeometry

from backend.export.lines import ImageRow, MaskRow, TaskLine, disk_at
from backend.pictures import PALETTE
from backend.values.masks import RunLengths
from prompts.geometry import BoolArray, FloatArray, Size

COMPARED_AT_ONCE = 4_000_000
"""Pairs of corners; of more corners every so-manieth is looked at to find a short bridge."""


def outline(mask: BoolArray) -> FloatArray:
    """The ring ``(N, 2)`` in pixels around a mask ``(H, W)``, empty for an empty one. Filled by the even-odd rule over pixel
    centres it gives the mask back.
    """
    area = shapely.simplify(_area(mask), 0)
    rings = [np.asarray(ring.coords)[:-1] for part in _parts(area) for ring in (part.exterior, *part.interiors)]
    return _joined(rings) if rings else np.zeros((0, 2))


def _area(mask: BoolArray) -> BaseGeometry:
    """The union of the boxes of all runs; ``simplify(0)`` later drops the corners on straight lines."""
    runs = RunLengths.of(mask)
    if not len(runs.edges):
        return shapely.Polygon()
    (rows, columns), window = runs.window()
    padded = np.zeros((window.shape[0], window.shape[1] + 2), np.int8)
    padded[:, 1:-1] = window
    turns = np.diff(padded, axis=1)
    (top, left), (_, right) = np.nonzero(turns == 1), np.nonzero(turns == -1)
    boxes = shapely.box(left + columns.start, top + rows.start, right + columns.start, top + rows.start + 1)
    return shapely.union_all(boxes)


def _parts(area: BaseGeometry) -> list[shapely.Polygon]:
    parts = area.geoms if isinstance(area, shapely.MultiPolygon) else [area]
    return sorted((part for part in parts if isinstance(part, shapely.Polygon)), key=lambda part: -part.area)


def _joined(rings: Sequence[FloatArray]) -> FloatArray:
    """Rings as one, each reached from the nearest corner of those before it and left by the same way: along edges of pixels, as
    a slanting way would lead over the centres of some.
    """
    whole = rings[0]
    for ring in rings[1:]:
        here, there = _nearest(whole, ring)
        turned = np.roll(ring, -there, axis=0)
        bend = np.array([[turned[0, 0], whole[here, 1]]])
        way = bend[: int((turned[0] != whole[here]).all())]
        whole = np.concatenate([whole[: here + 1], way, turned, turned[:1], way, whole[here:]])
    return whole


def _nearest(ring: FloatArray, other: FloatArray) -> tuple[int, int]:
    """Two corners, one of each ring, that are close to each other."""
    step = max(1, int(np.ceil(np.sqrt(len(ring) * len(other) / COMPARED_AT_ONCE))))
    some, others = ring[::step], other[::step]
    distance = ((some[:, None] - others[None]) ** 2).sum(axis=2)
    here, there = np.unravel_index(int(distance.argmin()), distance.shape)
    return int(here) * step, int(there) * step


Json = dict[str, Any]


def coco_annotation(row: MaskRow, category: int, size: Size, crowd: int = 0) -> Json:
    """A mask in COCO's words (https://cocodataset.org/#format-data), with holes and parts as run lengths."""
    return {
        "category_id": category,
        "segmentation": {"size": [size.height, size.width], "counts": row.counts},
        "bbox": list(row.box),
        "area": row.area,
        "iscrowd": crowd,
    }


def write_coco(lines: Iterable[TaskLine], folder: Path, labels: Sequence[str], crowds: frozenset[str]) -> Path:
    """``annotations.json``, and ``predictions.json`` in COCO's format of results when there are any; categories are numbered
    from 1 in the order of the labels. One task is in memory at a time.
    """
    numbers = {label: number for number, label in enumerate(labels, start=1)}
    path, beside = folder / "annotations.json", folder / "predictions.json"
    with disk_at(path), Rows(folder, "images") as images, Rows(folder, "masks") as masks, Rows(folder, "results") as results:
        for line in lines:
            for image in line.images:
                number = images.add(_image(image, images.count + 1))
                for row in image.masks:
                    head = {"id": masks.count + 1, "image_id": number}
                    masks.add(head | coco_annotation(row, numbers[row.label], image.size, int(row.label in crowds)))
                for row in image.predicted:
                    if row.label in numbers:
                        results.add(_result(row, numbers[row.label], image.size, number))
        categories = [{"id": number, "name": label} for label, number in numbers.items()]
        with whole(path) as out:
            out.write(f'{{"info": {{"description": "made by Maskloom"}}, "categories": {json.dumps(categories)},\n"images": ')
            images.copy_to(out)
            out.write(',\n"annotations": ')
            masks.copy_to(out)
            out.write("}\n")
        if results.count:
            with whole(beside) as out:
                results.copy_to(out)
    return path


def _image(image: ImageRow, number: int) -> Json:
    head = {"id": number, "file_name": image.name, "height": image.height, "width": image.width}
    return {**head, "coco_url": image.url if len(image.url) < 2000 else "", "task_id": image.task}


def _result(row: MaskRow, category: int, size: Size, image: int) -> Json:
    told = coco_annotation(row, category, size)
    return {"image_id": image, **{key: told[key] for key in ("category_id", "segmentation", "bbox")}, "score": row.score}


def write_tasks(lines: Iterable[TaskLine], folder: Path) -> Path:
    """``tasks.json``, a list of tasks with annotations as Label Studio exports and imports it."""
    path = folder / "tasks.json"
    with disk_at(path), Rows(folder, "tasks") as tasks:
        for line in lines:
            if line.source:
                tasks.add(line.source)
        with whole(path) as out:
            tasks.copy_to(out)
    return path


class Rows:
    """Rows of JSON that wait in a file until they are copied into a list."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f".{name}.rows"
        self.count = 0

    def __enter__(self) -> Rows:
        self._file = self._path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def add(self, row: Json) -> int:
        """How many there are with this one."""
        self._file.write(json.dumps(row) + "\n")
        self.count += 1
        return self.count

    def copy_to(self, out: IO[str]) -> None:
        """Write all as a JSON list."""
        self._file.flush()
        out.write("[")
        with self._path.open(encoding="utf-8") as rows:
            for place, row in enumerate(rows):
                out.write((",\n" if place else "\n") + row.rstrip("\n"))
        out.write("\n]")


@contextmanager
def whole(path: Path) -> Iterator[IO[str]]:
    """A text file that takes its place only when it has been written to the end."""
    partial = path.with_name(f".{path.name}.new")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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


def yolo_line(row: MaskRow, number: int, size: Size) -> str:
    """A mask in YOLO's format (https://docs.ultralytics.com/datasets/segment/): its label's number and a ring in 0..1."""
    ring = outline(row.mask(size)) / (size.width, size.height)
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
                    text = "".join(yolo_line(row, numbers[row.label], image.size) for row in rows if row.label in numbers)
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
    canvas = paint(((row.mask(image.size), value) for row, value in zip(ordered, values, strict=True)), image.size, most)
    picture = PillowImage.fromarray(canvas)
    if kind is PngKind.PALETTE and canvas.dtype == np.uint8:
        picture.putpalette(colours())
    with disk_at(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.new")
        picture.save(partial, "PNG")
        partial.replace(path)
    return dict(zip(values, (row.label for row in ordered), strict=True)) if kind is PngKind.INSTANCE else {}


def paint(masks: Iterable[tuple[NDArray[np.bool_], int]], size: Size, most: int) -> Numbers:
    """Masks as numbers ``(H, W)``, later ones over earlier ones; 16 bits where a number may be larger than 255."""
    canvas: Numbers = np.zeros((size.height, size.width), np.uint8 if most < 256 else np.uint16)
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
