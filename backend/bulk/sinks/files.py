"""Answers as one file for each image: YOLO's polygons, or PNGs of label numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from backend.bulk.recipe import Form
from backend.bulk.sinks.lines import disk_at, make_last
from backend.bulk.values import Answer, decode_mask
from backend.labelstudio.shapes import polygon
from backend.pictures import PALETTE


@dataclass(frozen=True, slots=True)
class FilesSink:
    """A folder with a file for each image, ``place`` says where; ``save`` writes one, ``describe`` what they all share."""

    folder: Path
    kind: str
    place: Callable[[str], str]
    save: Callable[[Answer, Path], None]
    describe: Callable[[Path], None]

    @property
    def name(self) -> str:
        return f"{self.kind} in {self.folder}"

    @property
    def form(self) -> Form:
        return Form.MASKS

    def arrived(self, keys: Sequence[str]) -> set[str]:
        return {key for key in keys if self._path(key).exists()}

    def remove(self, keys: Sequence[str]) -> None:
        """Nothing to do: files are written over."""

    def write(self, answers: Sequence[Answer]) -> Mapping[str, str]:
        for answer in answers:
            path = self._path(answer.item.key)
            with disk_at(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                self.save(answer, _partial(path))
        for path in {self._path(answer.item.key) for answer in answers}:
            with disk_at(path):
                make_last(_partial(path))
                _partial(path).replace(path)
        return {}

    def finish(self) -> str:
        with disk_at(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.describe(self.folder)
        return str(self.folder)

    def _path(self, key: str) -> Path:
        return self.folder / self.place(key)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def yolo_folder(folder: Path, labels: Sequence[str]) -> FilesSink:
    """YOLO's segmentation labels (https://docs.ultralytics.com/datasets/segment/): a line for every polygon, the number of its
    label and its points in 0..1. A mask of several parts gives several lines; a hole is opened by a slit. ``cats/a.jpg`` has
    its lines in ``cats/a.txt``, as YOLO looks for them.
    """
    numbers = {label: number for number, label in enumerate(labels)}

    def save(answer: Answer, path: Path) -> None:
        lines = []
        for region in answer.regions:
            if answer.size is not None and region.label in numbers:
                for shape in polygon.write(decode_mask(region.rle, answer.size)):
                    points = np.asarray(shape.value["points"], np.float64).ravel() / 100
                    lines.append(f"{numbers[region.label]} {' '.join(f'{value:.6f}' for value in points)}\n")
        path.write_text("".join(lines), encoding="ascii")

    def describe(target: Path) -> None:
        names = "".join(f"  {number}: {json.dumps(label)}\n" for label, number in numbers.items())
        (target / "data.yaml").write_text(f"names:\n{names}", encoding="utf-8")

    return FilesSink(folder, "YOLO labels", lambda key: str(PurePosixPath(key).with_suffix(".txt")), save, describe)


def png_folder(folder: Path, labels: Sequence[str]) -> FilesSink:
    """PNGs as large as the images: 0 is no label, otherwise the label's number from 1; the better score lies on top.
    ``cats/a.jpg`` has its PNG at ``cats/a.jpg.png``.
    """
    numbers = {label: number for number, label in enumerate(labels, start=1)}
    kind = np.uint8 if len(labels) < 256 else np.uint16

    def save(answer: Answer, path: Path) -> None:
        if answer.size is None:
            return
        canvas: NDArray[np.uint8 | np.uint16] = np.zeros((answer.size.height, answer.size.width), kind)
        for region in sorted(answer.regions, key=lambda region: region.score):
            if region.label in numbers:
                canvas[decode_mask(region.rle, answer.size)] = numbers[region.label]
        picture = PillowImage.fromarray(canvas)
        if kind is np.uint8:
            picture.putpalette([0, 0, 0, *(channel for row in range(255) for channel in PALETTE[row % len(PALETTE)])])
        picture.save(path, "PNG")

    def describe(target: Path) -> None:
        (target / "labels.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")

    return FilesSink(folder, "PNG masks", lambda key: f"{key}.png", save, describe)
