"""Results as one file for each image: YOLO's polygons, or PNGs of label numbers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from backend.bulk.recipe import Form, ItemResult, decode_mask
from backend.bulk.sinks.lines import disk_at, make_last
from backend.labelstudio.shapes import outlined
from backend.pictures import PALETTE
from backend.values.masks import RunLengths

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FilesSink:
    """A folder with a file for each image, ``place`` says where; ``save`` writes one, ``describe`` what they all share."""

    folder: Path
    kind: str
    place: Callable[[str], str]
    save: Callable[[ItemResult, Path], None]
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

    def write(self, results: Sequence[ItemResult]) -> Mapping[str, str]:
        paths = {self._path(result.item.key): result for result in results}
        for path, result in paths.items():
            with disk_at(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                self.save(result, _partial(path))
        for path in paths:
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


def yolo_folder(folder: Path, labels: Sequence[str], shares_stem: Callable[[str], bool]) -> FilesSink:
    """YOLO's segmentation labels (https://docs.ultralytics.com/datasets/segment/): a line for every polygon, the number of its
    label and its points in 0..1. A mask of several parts gives several lines; a hole is opened by a slit. ``cats/a.jpg`` has
    its lines in ``cats/a.txt``, as YOLO looks for them; one that ``shares_stem`` with another image, which YOLO would take for
    the same, in ``cats/a.jpg.txt``.
    """
    numbers = {label: number for number, label in enumerate(labels)}

    def save(result: ItemResult, path: Path) -> None:
        lines = []
        for region in result.regions:
            if result.size is not None and region.label in numbers:
                for shape in outlined.write_polygon(RunLengths.of(decode_mask(region.rle, result.size))):
                    points = np.asarray(shape.value["points"], np.float64).ravel() / 100
                    lines.append(f"{numbers[region.label]} {' '.join(f'{value:.6f}' for value in points)}\n")
        path.write_text("".join(lines), encoding="ascii")

    def describe(target: Path) -> None:
        names = "".join(f"  {number}: {json.dumps(label)}\n" for label, number in numbers.items())
        (target / "data.yaml").write_text(f"names:\n{names}", encoding="utf-8")

    def place(key: str) -> str:
        if not shares_stem(key):
            return str(PurePosixPath(key).with_suffix(".txt"))
        log.warning("%s has its lines in %s.txt: YOLO cannot tell it from an image with another ending; rename one", key, key)
        return f"{key}.txt"

    return FilesSink(folder, "YOLO labels", place, save, describe)


def png_folder(folder: Path, labels: Sequence[str]) -> FilesSink:
    """PNGs as large as the images: 0 is no label, otherwise the label's number from 1; the better score lies on top.
    ``cats/a.jpg`` has its PNG at ``cats/a.jpg.png``.
    """
    numbers = {label: number for number, label in enumerate(labels, start=1)}
    kind = np.uint8 if len(labels) < 256 else np.uint16

    def save(result: ItemResult, path: Path) -> None:
        if result.size is None:
            return
        canvas: NDArray[np.uint8 | np.uint16] = np.zeros((result.size.height, result.size.width), kind)
        for region in sorted(result.regions, key=lambda region: region.score):
            if region.label in numbers:
                canvas[decode_mask(region.rle, result.size)] = numbers[region.label]
        picture = PillowImage.fromarray(canvas)
        if kind is np.uint8:
            picture.putpalette([0, 0, 0, *(channel for row in range(255) for channel in PALETTE[row % len(PALETTE)])])
        picture.save(path, "PNG")

    def describe(target: Path) -> None:
        (target / "labels.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")

    return FilesSink(folder, "PNG masks", lambda key: f"{key}.png", save, describe)
