"""Results as files: gathered in one (COCO, JSON for an import), or one for each image (YOLO's polygons, PNGs of label numbers).

What is gathered is appended line by line, each of which lasts, and the lines become the file at the end.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from PIL import Image as PillowImage

from backend.bulk.values import Form, FoundRegion, ItemResult, decode_mask
from backend.export.formats import coco_annotation, colours, paint, yolo_line
from backend.export.lines import MaskRow, disk_at
from backend.stores.ledger import Item

Json = dict[str, Any]


def make_last(path: Path) -> None:
    """Have the disk write a file, so that a loss of power does not take it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@dataclass(frozen=True, slots=True)
class LinesSink:
    """A file made of lines: ``line`` turns a result into one, ``assemble`` turns the last line of every key into the file.

    ``mark`` tells the lines of one command from those of another one that makes the same file.
    """

    path: Path
    kind: str
    form: Form
    line: Callable[[ItemResult], Json]
    assemble: Callable[[Iterator[tuple[str, Json]], IO[str]], None]
    mark: str

    @property
    def name(self) -> str:
        return f"{self.kind} file {self.path}, gathered in {self.parts.name}"

    @property
    def parts(self) -> Path:
        """The lines so far; the next run of the same command adds to them, and no other command does: its labels may have
        other numbers.
        """
        return self.path.with_name(f"{self.path.name}.{self.mark}.parts")

    def arrived(self, keys: Sequence[str]) -> set[str]:
        return set(keys) & {key for key, _ in self._lines()}

    def remove(self, keys: Sequence[str]) -> None:
        """Nothing to do: the last line of a key counts."""

    def write(self, results: Sequence[ItemResult]) -> Mapping[str, str]:
        lines = "".join(json.dumps([result.item.key, self.line(result)]) + "\n" for result in results).encode()
        with disk_at(self.parts):
            self.parts.parent.mkdir(parents=True, exist_ok=True)
            with self.parts.open("ab") as file:
                if file.seekable() and file.tell() and not _ends_with_newline(self.parts):
                    file.write(b"\n")
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        return {}

    def finish(self) -> str:
        partial = self.path.with_name(f"{self.path.name}.new")
        with disk_at(self.path):
            if not self.parts.exists():
                self.write([])
            with partial.open("w", encoding="utf-8") as out:
                self.assemble(self._last_lines(), out)
            partial.replace(self.path)
        return str(self.path)

    def _lines(self) -> Iterator[tuple[str, int]]:
        """The key and the offset of every whole line; one that a crash cut short is left out."""
        if not self.parts.exists():
            return
        with self.parts.open("rb") as file:
            offset = 0
            for line in file:
                try:
                    key = json.loads(line)[0]
                except (ValueError, IndexError, TypeError):
                    key = None
                if isinstance(key, str):
                    yield key, offset
                offset += len(line)

    def _last_lines(self) -> Iterator[tuple[str, Json]]:
        """Every key with its last line, by key: memory holds the keys, never the masks."""
        last = dict(self._lines())
        if not last:
            return
        with self.parts.open("rb") as file:
            for key in sorted(last):
                file.seek(last[key])
                yield key, json.loads(file.readline())[1]


def import_file(path: Path, data_of: Callable[[Item], Json], mark: str) -> LinesSink:
    """Tasks with predictions as Label Studio imports them; ``data_of`` says what an item's ``data`` shall be there."""

    def line(result: ItemResult) -> Json:
        return {"data": data_of(result.item), "predictions": [dict(result.prediction)]}

    def assemble(lines: Iterator[tuple[str, Json]], out: IO[str]) -> None:
        _write_list(out, (task for _, task in lines))
        out.write("\n")

    return LinesSink(path, "import", Form.PREDICTION, line, assemble, mark)


def coco_file(path: Path, labels: Sequence[str], name_of: Callable[[Item], str], mark: str) -> LinesSink:
    """COCO instances with scores (https://cocodataset.org/#format-data); masks are compressed run lengths, holes and parts
    included. Categories are numbered from 1 in the order of the labels; ``name_of`` gives an image's ``file_name``.
    """
    numbers = {label: number for number, label in enumerate(labels, start=1)}

    def line(result: ItemResult) -> Json:
        if result.size is None:
            raise ValueError(f"expected a result with a size, got none for {result.item.key}")
        size = [result.size.height, result.size.width]
        annotations = [
            {**coco_annotation(_row(region), numbers[region.label], result.size), "score": region.score}
            for region in result.regions
            if region.label in numbers
        ]
        return {"file_name": name_of(result.item), "size": size, "annotations": annotations}

    def assemble(lines: Iterator[tuple[str, Json]], out: IO[str]) -> None:
        found = list(_image_rows(lines, path.with_name(f"{path.name}.annotations")))
        categories = [{"id": number, "name": label} for label, number in numbers.items()]
        out.write(f'{{"info": {{"description": "made by Maskloom"}}, "categories": {json.dumps(categories)},\n"images": ')
        _write_list(out, iter(found))
        out.write(',\n"annotations": ')
        with path.with_name(f"{path.name}.annotations").open(encoding="utf-8") as annotations:
            _write_list(out, map(json.loads, annotations))
        out.write("}\n")
        path.with_name(f"{path.name}.annotations").unlink()

    return LinesSink(path, "COCO", Form.MASKS, line, assemble, mark)


def _image_rows(lines: Iterator[tuple[str, Json]], annotations: Path) -> Iterator[Json]:
    """COCO's image rows; the annotations go to a file on the way, one in a line, numbered from 1."""
    number = 0
    with annotations.open("w", encoding="utf-8") as out:
        for image, (_, row) in enumerate(lines, start=1):
            for annotation in row["annotations"]:
                number += 1
                out.write(json.dumps({"id": number, "image_id": image, **annotation}) + "\n")
            yield {"id": image, "file_name": row["file_name"], "height": row["size"][0], "width": row["size"][1]}


def _write_list(out: IO[str], rows: Iterator[Json]) -> None:
    out.write("[")
    for place, row in enumerate(rows):
        out.write((",\n" if place else "\n") + json.dumps(row))
    out.write("\n]")


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


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


def _row(region: FoundRegion) -> MaskRow:
    """A region as exports write it."""
    return MaskRow(region.label, region.score, region.pixels, region.box, region.rle)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def yolo_folder(folder: Path, labels: Sequence[str], shares_stem: Callable[[str], bool]) -> FilesSink:
    """YOLO's segmentation labels: a line for every mask, as exports have it. ``cats/a.jpg`` has its lines in ``cats/a.txt``, as
    YOLO looks for them; one that ``shares_stem`` with another image, which YOLO would take for the same, in
    ``cats/a.jpg.txt``.
    """
    numbers = {label: number for number, label in enumerate(labels)}

    def save(result: ItemResult, path: Path) -> None:
        known = [region for region in result.regions if region.label in numbers]
        lines = [yolo_line(_row(region), numbers[region.label], result.size) for region in known if result.size is not None]
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

    def save(result: ItemResult, path: Path) -> None:
        if result.size is None:
            return
        ordered = sorted((each for each in result.regions if each.label in numbers), key=lambda region: region.score)
        masks = ((decode_mask(region.rle, result.size), numbers[region.label]) for region in ordered)
        picture = PillowImage.fromarray(paint(masks, result.size, len(labels)))
        if picture.mode == "L":
            picture.putpalette(colours())
        picture.save(path, "PNG")

    def describe(target: Path) -> None:
        (target / "labels.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")

    return FilesSink(folder, "PNG masks", lambda key: f"{key}.png", save, describe)
