"""Warming: every image of a project is encoded onto disk before annotators come, so that nobody's first click waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from backend.caches import DiskCache
from backend.export.regions import images_of
from backend.images.limits import ImageSource, LargeImage
from backend.labelstudio.api import LabelStudio, ListedTask, Project
from backend.segmenter import Segmenter
from backend.values.errors import MaskloomError
from backend.values.features import ImageFeatures


@dataclass(slots=True)
class Warmed:
    """What a warm-up did: images encoded now, there already, too many for the disk's bound, and failed with their reasons by
    task. ``image_bytes`` is what one takes on disk.
    """

    tasks: int
    encoded: int = 0
    known: int = 0
    beyond_bound: int = 0
    in_windows: int = 0
    image_bytes: int = 0
    failures: dict[int, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Warmer:
    """Encodes what is not on the disk yet, up to ``most_bytes`` in all; ``watch`` hears of every task, ``stop`` ends it."""

    images: ImageSource
    segmenter: Segmenter
    disk: DiskCache[ImageFeatures]
    most_bytes: int
    watch: Callable[[Warmed, int], None] = lambda done, tasks: None
    stop: threading.Event = field(default_factory=threading.Event)

    def warm(self, studio: LabelStudio, project: Project, view: int | None = None) -> Warmed:
        """Every image of every task, in the order of the project or the view. What fails costs its task."""
        tasks = list(studio.list_tasks(project.id, view))
        done = Warmed(len(tasks))
        for place, task in enumerate(tasks):
            if self.stop.is_set():
                break
            try:
                for url in self._addresses(project, task):
                    self._encode(url, project, task, done)
            except MaskloomError as error:
                done.failures[task.id] = str(error)
            self.watch(done, place + 1)
        return done

    def _addresses(self, project: Project, task: ListedTask) -> Iterator[str]:
        yield from (image.url for image in images_of(project.label_config, task.id, task.data))

    def _encode(self, url: str, project: Project, task: ListedTask, done: Warmed) -> None:
        image = self.images.load(url, str(project.id), str(task.id))
        if isinstance(image, LargeImage):
            done.in_windows += 1  # which ones are looked at is known with the first click alone
        elif image.key in self.disk:
            done.known += 1
        elif (done.encoded + done.known + 1) * done.image_bytes > self.most_bytes:
            done.beyond_bound += 1
        else:
            self.segmenter.look_at(image)
            done.encoded += 1
            path = self.disk.path(image.key)
            done.image_bytes = max(done.image_bytes, path.stat().st_size if path.exists() else 0)
