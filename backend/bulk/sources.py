"""Where the items of a run come from: the images of a folder, or the tasks of a Label Studio project."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

from backend.images import SUFFIXES
from backend.labelstudio.api import LabelStudio, ListedTask
from backend.stores.ledger import Item
from backend.values.errors import SetupError

log = logging.getLogger(__name__)


class Source(Protocol):
    """A list of items; ``name`` tells a person, and the ledger, which."""

    @property
    def name(self) -> str: ...

    def items(self) -> Iterator[Item]:
        """Every item, once, in an order that does not change."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """The images in a folder and below it, by name; hidden ones are left out, and those that a run itself has ``made``."""

    root: Path
    made: Path | None = None

    @property
    def name(self) -> str:
        return str(self.root)

    def items(self) -> Iterator[Item]:
        """Raises SetupError when there is no such folder, or no image in it."""
        if not self.root.is_dir():
            raise SetupError(f"there is no folder {self.root}; name a folder of images, or the number of a project")
        shown = [path for path in self.root.rglob("*") if self._is_shown(path)]
        paths = sorted(path for path in shown if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise SetupError(f"there are no images in {self.root} ({', '.join(sorted(SUFFIXES))})")
        if others := Counter(path.suffix.lower() or path.name for path in shown if path.suffix.lower() not in SUFFIXES):
            told = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(8))
            log.warning("%d files in %s are no images that are read: %s", others.total(), self.root, told)
        for path in paths:
            yield Item(self._key(path), {}, path.as_uri())

    def shares_stem(self, key: str) -> bool:
        """Whether another image of the folder has the same name but for its ending."""
        return self._stems[str(PurePosixPath(key).with_suffix(""))] > 1

    @cached_property
    def _stems(self) -> Counter[str]:
        """How many images there are by their names without endings, looked at once."""
        paths = (path for path in self.root.rglob("*") if path.suffix.lower() in SUFFIXES and self._is_shown(path))
        return Counter(str(PurePosixPath(self._key(path)).with_suffix("")) for path in paths)

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _is_shown(self, path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(self.root).parts)
        own = self.made is not None and self.root in self.made.parents and path.is_relative_to(self.made)
        return not hidden and not own and path.is_file()


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tasks of a project: those of a Data Manager view, or some by their numbers; of them those without annotations
    or without any prediction. Of some by their numbers also those that are ``unanswered_by`` a model version.
    """

    view: int | None = None
    unlabelled: bool = False
    only_missing: bool = False
    tasks: frozenset[int] | None = None
    unanswered_by: str = ""

    def takes(self, task: ListedTask) -> bool:
        """Whether a task that was listed is meant, but for what the list does not tell."""
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
        answered = self._perhaps_answered()
        for task in self._listed():
            if self.selection.takes(task) and not (task.id in answered and self._is_answered(task)):
                link = f"{self.label_studio.url}/projects/{self.project_id}/data?task={task.id}"
                yield Item(str(task.id), {"id": task.id, "data": dict(task.data)}, link, answered=task.predictions > 0)

    def _listed(self) -> Iterable[ListedTask]:
        """The tasks that may be meant: a few among many are asked for by their numbers."""
        chosen = self.selection
        if chosen.tasks is None or chosen.view is not None:
            return self.label_studio.list_tasks(self.project_id, chosen.view)
        return self.label_studio.find_tasks(self.project_id, sorted(chosen.tasks))

    def _perhaps_answered(self) -> frozenset[int]:
        """The chosen tasks with a prediction of the version, or of another one whose name contains it."""
        version, tasks = self.selection.unanswered_by, sorted(self.selection.tasks or ())
        found = self.label_studio.find_tasks(self.project_id, tasks, version) if version else ()
        return frozenset(task.id for task in found)

    def _is_answered(self, task: ListedTask) -> bool:
        return bool(self.label_studio.prediction_ids(task.id, self.selection.unanswered_by))
