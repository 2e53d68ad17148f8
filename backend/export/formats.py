"""Exports in one file: COCO instances with their results file, and Label Studio's own JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from backend.export.lines import TaskLine, disk_at
from backend.export.rows import ImageRow, MaskRow
from prompts.geometry import Size

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
