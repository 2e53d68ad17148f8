"""A Label Studio project with photos and their masks: what is missing is made, what is there is kept."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from backend.demo.photos import lay_out
from backend.demo.recommended import recommended_config
from backend.demo.steps import Steps
from backend.labelstudio.api import LabelStudio, Project, Task
from backend.values.errors import ImageError, SetupError


@dataclass(frozen=True, slots=True)
class ProjectSpec:
    """What a project shall hold: photos of one folder, laid out below ``document_root``, labels, and a backend."""

    name: str
    root: Path
    photos: Sequence[Path]
    labels: Sequence[str]
    document_root: Path
    backend_url: str

    @property
    def key(self) -> str:
        """Another folder or other labels make another project."""
        return hashlib.sha256("\0".join((str(self.root), *self.labels)).encode()).hexdigest()[:12]

    @property
    def served(self) -> Path:
        """The folder that Label Studio shows to the people of this project."""
        return self.document_root / self.key


@dataclass(frozen=True, slots=True)
class FilledProject:
    """A project with its photos: the masks by label, and how many photos have none or got no answer."""

    project: Project
    photos: int
    masks: Counter[str]
    without_masks: int
    unanswered: int


class Filling:
    """Brings one project to the wanted state."""

    def __init__(self, label_studio: LabelStudio, wanted: ProjectSpec, steps: Steps) -> None:
        self._studio = label_studio
        self._wanted = wanted
        self._steps = steps

    def fill(self) -> FilledProject:
        """Project, backend, photos and masks; nothing of it is made twice."""
        images = self._lay_out()
        with self._steps.step("Project"):
            project = self._project()
            self._studio.serve_folder(project.id, self._wanted.served)
            version = self._attach(project)
            self._import(project, images)
        return self._predict(project, version)

    def _project(self) -> Project:
        wanted = self._wanted
        for project in self._studio.projects():
            if wanted.key in project.description:
                return project
        title = f"{wanted.name}: {', '.join(wanted.labels)}"[:50]
        description = f"Photos of {wanted.root}, made by Maskloom ({wanted.key})"
        return self._studio.create_project(title, recommended_config(wanted.labels), description)

    def _attach(self, project: Project) -> str:
        """Attach the backend and return its model version; a backend at another port, of an earlier run, goes."""
        url = self._wanted.backend_url
        for backend in self._studio.backends(project.id):
            if backend.url.rstrip("/") == url:
                return backend.model_version
            self._studio.detach_backend(project.id, backend)
        return self._studio.attach_backend(project.id, url, "Maskloom").model_version

    def _lay_out(self) -> list[str]:
        wanted, images = self._wanted, []
        with self._steps.bar("Photos", len(wanted.photos)) as advance:
            for photo in wanted.photos:
                try:
                    place = lay_out(photo, wanted.served / photo.relative_to(wanted.root))
                    images.append(f"/data/local-files/?d={quote(str(place.relative_to(wanted.served.parent)))}")
                except ImageError as error:
                    self._steps.warn(f"left out: {error}")
                advance(1)
        if not images:
            raise SetupError(f"none of the {len(wanted.photos)} photos in {wanted.root} can be read")
        return images

    def _import(self, project: Project, images: Sequence[str]) -> None:
        known = {task.data.get("image") for task in self._studio.tasks(project.id)}
        missing = [{"image": image} for image in images if image not in known]
        if missing:
            self._studio.import_tasks(project.id, missing)

    def _predict(self, project: Project, version: str) -> FilledProject:
        waiting = [task.id for task in self._studio.tasks_with_predictions(project.id) if not _answered(task, version)]
        with self._steps.bar("Masks", len(waiting)) as advance:
            for task in waiting:  # one by one: on a slow machine Label Studio's limit of 100 s is for one photo then
                self._studio.retrieve_predictions(project.id, [task])
                advance(1)
        tasks = list(self._studio.tasks_with_predictions(project.id))
        unanswered = sum(not _answered(each, version) for each in tasks)
        empty = sum(not count_masks([each], version) for each in tasks)
        return FilledProject(project, len(tasks), count_masks(tasks, version), empty, unanswered)


def count_masks(tasks: Sequence[Task], version: str) -> Counter[str]:
    """How many brush masks of which label a model version gave to these tasks; of an answer stored twice, one counts."""
    answers = ([each for each in task.predictions if each.model_version == version][-1:] for task in tasks)
    return Counter(
        label
        for answer in answers
        for prediction in answer
        for region in prediction.result
        for label in region["value"].get("brushlabels", ())
    )


def _answered(task: Task, version: str) -> bool:
    return any(prediction.model_version == version for prediction in task.predictions)
