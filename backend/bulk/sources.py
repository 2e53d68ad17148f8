"""Where the items of a run come from: the images of a folder, or the tasks of a Label Studio project."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from backend.labelstudio.api import LabelStudio, ListedTask
from backend.labelstudio.config import read_config
from backend.stores.ledger import Item
from backend.values.errors import SetupError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class Source(Protocol):
    """A list of items; ``name`` tells a person, and the ledger, which."""

    @property
    def name(self) -> str: ...

    def items(self) -> Iterator[Item]:
        """Every item, once, in an order that does not change."""
        ...


@dataclass(frozen=True, slots=True)
class FolderSource:
    """The images in a folder and below it, by name; hidden ones are left out, and those that a run itself has ``made``."""

    root: Path
    label_config: str
    made: Path | None = None

    @property
    def name(self) -> str:
        return str(self.root)

    def items(self) -> Iterator[Item]:
        """Raises SetupError when there is no such folder, or no image in it."""
        if not self.root.is_dir():
            raise SetupError(f"there is no folder {self.root}; name a folder of images, or the number of a project")
        paths = sorted(path for path in self.root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and self._is_shown(path))
        if not paths:
            raise SetupError(f"there are no images in {self.root} ({', '.join(sorted(IMAGE_SUFFIXES))})")
        data_key = read_config(self.label_config).images[0].data_key
        for path in paths:
            key = path.relative_to(self.root).as_posix()
            yield Item(key, {"id": key, "data": {data_key: str(path)}}, path.as_uri())

    def _is_shown(self, path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(self.root).parts)
        own = self.made is not None and self.root in self.made.parents and path.is_relative_to(self.made)
        return not hidden and not own and path.is_file()


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tasks of a project: those of a Data Manager view, and of them those without annotations or predictions."""

    view: int | None = None
    unlabelled: bool = False
    only_missing: bool = False
    tasks: frozenset[int] | None = None

    def takes(self, task: ListedTask) -> bool:
        """Whether a task of the view is meant."""
        return (
            not (self.unlabelled and task.annotations)
            and not (self.only_missing and task.predictions)
            and (self.tasks is None or task.id in self.tasks)
        )


@dataclass(frozen=True, slots=True)
class StudioSource:
    """The tasks of a project."""

    label_studio: LabelStudio
    project_id: int
    selection: Selection = Selection()

    @property
    def name(self) -> str:
        return f"project {self.project_id} of {self.label_studio.url}"

    def items(self) -> Iterator[Item]:
        """Raises RemoteError when Label Studio does not list them."""
        listed: Iterable[ListedTask] = self.label_studio.list_tasks(self.project_id, self.selection.view)
        for task in listed:
            if self.selection.takes(task):
                link = f"{self.label_studio.url}/projects/{self.project_id}/data?task={task.id}"
                yield Item(str(task.id), {"id": task.id, "data": dict(task.data)}, link, answered=task.predictions > 0)
