"""An export from beginning to end: tasks are listed, read one by one, and put together in the format that was asked for."""

from __future__ import annotations

import io
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from PIL import ExifTags
from PIL import Image as PillowImage

from backend.caches import write_whole
from backend.export.formats import YOLO_SUFFIXES, PngKind, side_of, whole, write_coco, write_pngs, write_tasks, write_yolo
from backend.export.gather import Scope, TaskReader
from backend.export.lines import FileNames, LeftOut, Lines, TaskLine, digest_of, disk_at
from backend.export.regions import images_of
from backend.images.decode import FORMATS
from backend.images.limits import ImageSource
from backend.labelstudio.api import LabelStudio, ListedTask, Project
from backend.labelstudio.config import read_config
from backend.values.errors import ImageError, MaskloomError, RequestError
from prompts.geometry import Size

NOBODY = "nobody has submitted an annotation"
AT_ONCE = 20
"""So many tasks are asked for in one request, and are in memory."""


class Format(StrEnum):
    """What an export is for."""

    COCO = "coco"
    YOLO = "yolo"
    SEMANTIC = "semantic"
    PALETTE = "palette"
    INSTANCE = "instance"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to export of a project, how, and into which folder. ``val_share`` of the images are for validation (YOLO); labels of
    ``crowds`` are groups and no single things (COCO).
    """

    project: int
    format: Format
    folder: Path
    scope: Scope = field(default_factory=Scope)
    val_share: float = 0.2
    crowds: frozenset[str] = frozenset()
    keeps_images: bool = False

    @property
    def wants_files(self) -> bool:
        """Whether the images themselves belong to the export."""
        return self.keeps_images or self.format is Format.YOLO


@dataclass(slots=True)
class Report:
    """What was exported and what was not, with reasons."""

    project: int
    title: str
    tasks: int = 0
    exported: int = 0
    images: int = 0
    regions: Counter[str] = field(default_factory=Counter)
    left_out: list[LeftOut] = field(default_factory=list)
    agreement: dict[int, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    path: str = ""

    def add(self, line: TaskLine) -> None:
        self.exported += bool(line.images)
        self.images += len(line.images)
        self.regions.update(row.label for image in line.images for row in image.masks)
        self.left_out += line.left_out
        if line.agreement is not None:
            self.agreement[line.task] = round(line.agreement, 4)

    @property
    def reasons(self) -> Counter[str]:
        """How often each reason was given."""
        return Counter(each.reason for each in self.left_out)

    def to_json(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in ("project", "title", "tasks", "exported", "images", "notes", "agreement")}
        left_out = [asdict(each) for each in self.left_out]
        return told | {"regions": dict(self.regions), "reasons": dict(self.reasons), "left_out": left_out}


@dataclass(slots=True)
class Export:
    """Carries out a plan; ``watch`` hears how many of how many tasks are read, ``stop`` ends it after the task at hand."""

    plan: Plan
    studio: LabelStudio
    images: ImageSource
    watch: Callable[[int, int], None] = lambda done, total: None
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Report | None:
        """Read what was not read before, then write; None when it was stopped: the same command goes on.

        Raises RequestError for a project without a task, RemoteError when Label Studio refuses, WriteError when the disk does.
        """
        project = self.studio.project(self.plan.project)
        tasks = list(self.studio.list_tasks(project.id, self.plan.scope.view))
        if not tasks:
            which = "" if self.plan.scope.view is None else f" in view {self.plan.scope.view}"
            raise RequestError(f"project {project.id} ({project.title}) has no tasks{which}; there is nothing to export")
        report = Report(project.id, project.title, len(tasks))
        submitted = [task for task in tasks if task.annotations]
        report.left_out += [LeftOut(task.id, 0, "", NOBODY) for task in tasks if not task.annotations]
        lines = Lines(self.plan.folder, digest_of(self.plan, project.label_config, self.studio.url))
        lines.open()
        if not self._gather(project, submitted, lines, report):
            return None
        self._write(project, [task.id for task in submitted], lines, report)
        lines.remove()
        return report

    def _gather(self, project: Project, tasks: Sequence[ListedTask], lines: Lines, report: Report) -> bool:
        """Read every task that is not in the lines; False when there was a stop."""
        reader = self._reader(project, tasks, report)
        left = [task for task in tasks if not lines.has(task.id, task.updated)]
        for start in range(0, len(left), AT_ONCE):
            if self.stop.is_set():
                return False
            part = {task.id: task for task in left[start : start + AT_ONCE]}
            for details in self.studio.detailed_tasks(project.id, list(part)):
                lines.add(reader.read(details), part.pop(details.id).updated)
            for gone in part.values():
                lines.add(TaskLine(gone.id, left_out=(LeftOut(gone.id, 0, "", "it was deleted meanwhile"),)), gone.updated)
            self.watch(len(tasks) - len(left) + min(start + AT_ONCE, len(left)), len(tasks))
        return True

    def _reader(self, project: Project, tasks: Sequence[ListedTask], report: Report) -> TaskReader:
        urls = dict(self._addresses(project, tasks))
        by_url = defaultdict(list)
        for key, url in urls.items():
            by_url[url].append(key)
        twins = [keys for keys in by_url.values() if len(keys) > 1]
        report.notes += [f"tasks {', '.join(keys)} show the same image; each is exported" for keys in twins]
        names = FileNames.over(urls.values())
        needs_source = self.plan.format is Format.JSON
        return TaskReader(project, self.plan.scope, names, self._measure, self._keep, needs_source)

    def _addresses(self, project: Project, tasks: Sequence[ListedTask]) -> Iterator[tuple[str, str]]:
        """The addresses of all images, by task and place."""
        for task in tasks:
            try:
                found = images_of(project.label_config, task.id, task.data)
            except MaskloomError:
                continue
            for place, image in enumerate(found):
                yield f"{task.id}{f'-{place}' if place else ''}", image.url

    def _measure(self, url: str, task: int) -> Size:
        return self.images.load(url, str(self.plan.project), str(task)).size

    def _keep(self, url: str, name: str, task: int, size: Size | None) -> str:
        """Store an image's file, as PNG where YOLO does not read its format; the name that it has."""
        if not self.plan.wants_files:
            return name
        body = self.images.read(url, str(self.plan.project), str(task))
        if size is not None and (now := size_of_file(body)) not in (None, size):
            raise ImageError(f"its regions were drawn on {size}, but its image has {now} now; was it replaced?")
        if self.plan.format is Format.YOLO and Path(name).suffix not in YOLO_SUFFIXES:
            out = io.BytesIO()
            PillowImage.fromarray(self.images.load(url, str(self.plan.project), str(task)).pixels).save(out, "PNG")
            name, body = f"{Path(name).stem}.png", out.getvalue()
        side = side_of(url, self.plan.val_share) if self.plan.format is Format.YOLO else ""
        path = self.plan.folder / "images" / side / name
        with disk_at(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, body)
        return name

    def _write(self, project: Project, tasks: Sequence[int], lines: Lines, report: Report) -> None:
        for line in lines.read(tasks):
            report.add(line)
        known = [label for label in read_config(project.label_config).vocabulary.labels if self._wants(label)]
        strange = sorted(set(report.regions) - set(known))
        if strange:
            report.notes.append(f"today's labelling config has no label {', '.join(strange)}; they are numbered after its own")
        report.path = str(self._assemble(lines.read(tasks), [*known, *strange]))
        path = self.plan.folder / "report.json"
        with disk_at(path), whole(path) as out:
            json.dump(report.to_json(), out, indent=1)

    def _wants(self, label: str) -> bool:
        return not self.plan.scope.labels or label in self.plan.scope.labels

    def _assemble(self, lines: Iterator[TaskLine], labels: Sequence[str]) -> Path:
        plan = self.plan
        match plan.format:
            case Format.COCO:
                return write_coco(lines, plan.folder, labels, plan.crowds)
            case Format.YOLO:
                return write_yolo(lines, plan.folder, labels, plan.val_share)
            case Format.JSON:
                return write_tasks(lines, plan.folder)
            case _:
                return write_pngs(lines, plan.folder, labels, PngKind(plan.format.value))


def size_of_file(body: bytes) -> Size | None:
    """The size of an image file's upright picture by its head alone; None when Pillow does not know the format."""
    try:
        with PillowImage.open(io.BytesIO(body), formats=FORMATS) as image:
            is_on_its_side = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            width, height = image.size
    except Exception:  # whatever a broken file does to a decoder
        return None
    return Size(width, height) if is_on_its_side else Size(height, width)
