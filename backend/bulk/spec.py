"""How what is typed becomes a run: its items (of a folder or a project), what is asked about them, where the answers go."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from backend.bulk.reader import (
    Aliases,
    BulkJob,
    FolderReader,
    ItemReader,
    TaskReader,
    check_labels,
    config_for,
    labels_to_find,
    video_config_for,
)
from backend.bulk.to_files import coco_file, import_file, png_folder, yolo_folder
from backend.bulk.values import Form, Sink, Source, StudioSink, Target
from backend.images.limits import SUFFIXES
from backend.labelstudio.api import LabelStudio, ListedTask, Project
from backend.labelstudio.project_options import ANY_LABEL, PreannotationOptions, read_extra_params
from backend.serving.versions import CHOSEN, NONE, Memories
from backend.stores.ledger import Item, RunIdentity
from backend.stores.snapshots import FrozenMemory
from backend.values.errors import RequestError, SetupError
from backend.video.film import SUFFIXES as FILM_SUFFIXES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderSource:
    """The images in a folder and below it, or its films, by name and by their ``suffixes``; hidden ones are left out, and those
    that a run itself has ``made``.
    """

    root: Path
    made: Path | None = None
    made_at: float = 0.0
    suffixes: frozenset[str] = SUFFIXES

    @property
    def name(self) -> str:
        return str(self.root)

    def items(self) -> Iterator[Item]:
        """Raises SetupError when there is no such folder, or no image in it."""
        if not self.root.is_dir():
            raise SetupError(f"there is no folder {self.root}; name a folder of images, or the number of a project")
        shown = [path for path in self.root.rglob("*") if self._is_shown(path)]
        paths = sorted(path for path in shown if _kind(path) in self.suffixes)
        if not paths:
            both = ", ".join(sorted(SUFFIXES | FILM_SUFFIXES))
            raise SetupError(f"there are no images and no films in {self.root} ({both})")
        if others := Counter(_kind(path) or path.name for path in shown if _kind(path) not in self.suffixes):
            told = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(8))
            log.warning("%d files in %s are left out: %s", others.total(), self.root, told)
        for path in paths:
            yield Item(self._key(path), {}, path.as_uri())

    def shares_stem(self, key: str) -> bool:
        """Whether another image of the folder has the same name but for its ending."""
        return self._stems[str(PurePosixPath(key).with_suffix(""))] > 1

    @cached_property
    def _stems(self) -> Counter[str]:
        """How many images there are by their names without endings, looked at once."""
        paths = (path for path in self.root.rglob("*") if _kind(path) in self.suffixes and self._is_shown(path))
        return Counter(str(PurePosixPath(self._key(path)).with_suffix("")) for path in paths)

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _is_shown(self, path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(self.root).parts)
        own = self.made is not None and self.root in self.made.parents and path.is_relative_to(self.made)
        return not hidden and not own and path.is_file()


def _kind(path: Path) -> str:
    """The ending of a file; a name that is no UTF-8 cannot be stored, and so is of no kind."""
    is_text = str(path).encode(errors="replace").decode() == str(path)
    return path.suffix.lower() if is_text else "with a name that is no UTF-8"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tasks of a project: those of a Data Manager view, or some by their numbers; of them those without annotations
    or without any predicted region. Of some by their numbers also those that are ``unanswered_by`` a model version.
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
    made_at: float = 0.0

    @property
    def name(self) -> str:
        return f"project {self.project_id} of {self.label_studio.url}"

    def items(self) -> Iterator[Item]:
        """Raises RemoteError when Label Studio does not list them."""
        answered, empty = self._perhaps_answered(), self._empty()
        for task in self._listed():
            missing = replace(task, predictions=0) if task.id in empty else task
            if self.selection.takes(missing) and not (task.id in answered and self._is_answered(task)):
                link = f"{self.label_studio.url}/projects/{self.project_id}/data?task={task.id}"
                yield Item(str(task.id), {"id": task.id, "data": dict(task.data)}, link, answered=task.predictions > 0)

    def _listed(self) -> Iterable[ListedTask]:
        """The tasks that may be meant: a few among many are asked for by their numbers."""
        chosen = self.selection
        if chosen.tasks is None or chosen.view is not None:
            return self.label_studio.list_tasks(self.project_id, chosen.view)
        return self.label_studio.find_tasks(self.project_id, sorted(chosen.tasks))

    def _empty(self) -> frozenset[int]:
        """The tasks whose predictions show nothing, which count as missing ones."""
        return frozenset(self.label_studio.tasks_without_regions(self.project_id) if self.selection.only_missing else ())

    def _perhaps_answered(self) -> frozenset[int]:
        """The chosen tasks with a prediction of the version, or of another one whose name contains it."""
        version, tasks = self.selection.unanswered_by, sorted(self.selection.tasks or ())
        found = self.label_studio.find_tasks(self.project_id, tasks, version) if version else ()
        return frozenset(task.id for task in found)

    def _is_answered(self, task: ListedTask) -> bool:
        return bool(self.label_studio.prediction_ids(task.id, self.selection.unanswered_by))


_DEFAULT_NAMES = {
    Target.IMPORT: "import.json",
    Target.COCO: "coco.json",
    Target.YOLO: "yolo-labels",
    Target.PNG: "png-masks",
}


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job in the words of the command line: ``source`` is a folder or the number of a project; ``params`` are extra
    parameters as JSON, in place of those of the project. Whoever knows already what the project wants says it as ``options``.
    ``again`` does anew what was done already; ``limit`` is the most items to work on this time. ``memory`` is the version of
    the project's memory to use: a number, newest or none, and empty for the one that was chosen for bulk runs.
    """

    source: str
    target: Target | None = None
    out: Path | None = None
    labels: str = ""
    config: Path | None = None
    min_score: str = ""
    params: str = ""
    options: PreannotationOptions | None = None
    url_prefix: str | None = None
    selection: Selection = field(default_factory=Selection)
    limit: int | None = None
    again: bool = False
    memory: str = CHOSEN

    @property
    def folder(self) -> Path | None:
        """The folder of images; None where the source is a project."""
        return None if self.source.isdecimal() else Path(self.source).expanduser().resolve()


def resolve(
    spec: JobSpec, version: str, studio: Callable[[], LabelStudio], stop: threading.Event, memories: Memories | None = None
) -> BulkJob:
    """The job of a spec. ``studio`` is called when it speaks of a project. The version of what it makes is that of the engine,
    and of the memory where one is used.

    Raises RequestError or ConfigError for a spec that contradicts itself, RemoteError when Label Studio refuses.
    """
    if spec.folder is None:
        label_studio = studio()
        project = label_studio.project(int(spec.source))
        memory = memories.find(spec.memory, memories.key_of(project)) if memories is not None else None
        version = f"{version}+{memory.name}" if memory is not None else version
        source, reader, sink = _of_project(spec, project, memory, StudioSink(label_studio, project.id, version, stop))
    else:
        if spec.memory not in (CHOSEN, NONE):
            raise RequestError(f"--memory {spec.memory}: a folder has no memory, only projects of Label Studio have")
        source, reader, sink = _of_folder(spec, version, spec.folder)
    digest = reader.digest(source.name, sink.name, version)
    identity = RunIdentity(source.name, sink.name, version, digest, source.made_at)
    return BulkJob(source, sink, reader, identity, spec.limit, spec.again)


def _of_project(
    spec: JobSpec, project: Project, memory: FrozenMemory | None, predictions: StudioSink
) -> tuple[Source, ItemReader, Sink]:
    """``predictions`` is where they go unless files are written."""
    studio, version = predictions.label_studio, predictions.version
    if spec.config is not None:
        raise RequestError("a project brings its own labelling config; leave --config out")
    target = spec.target or Target.PREDICTIONS
    options = spec.options or read_options(_extra_params(studio, project.id), spec.params, spec.min_score)
    reader = TaskReader(project.label_config, str(project.id), read_labels(spec.labels), options, _form(target), memory)
    check_labels(project.label_config, reader.labels)
    source = StudioSource(studio, project.id, spec.selection, project.made_at)
    if target is Target.PREDICTIONS:
        return source, reader, predictions
    sink = _file_sink(target, _path(spec, target), reader, reader.digest(source.name, version), lambda key: False)
    return source, reader, sink


def _of_folder(spec: JobSpec, version: str, root: Path) -> tuple[Source, ItemReader, Sink]:
    suffixes = _suffixes_in(root)
    target = spec.target or (Target.IMPORT if suffixes is FILM_SUFFIXES else Target.COCO)
    if target is not Target.IMPORT and suffixes is FILM_SUFFIXES:
        raise RequestError(f"{root} is a folder of films, which go to --to import; `maskloom track` writes masks of one")
    if target is Target.PREDICTIONS:
        raise RequestError(
            f"predictions go to a project's tasks, and {root} is a folder; choose --to import, coco, yolo or png"
        )
    if spec.selection != Selection():
        raise RequestError("--view, --unlabelled and --only-missing choose tasks of a project; a folder has none")
    if spec.config is None and not spec.labels:
        raise RequestError("say what to look for: --labels 'cat=kitten|tabby, dog' or --config config.xml")
    reader = _folder_reader(spec, target, root)
    path = _path(spec, target)
    if target is Target.PNG and path == root:
        raise RequestError(f"the masks would lie among the images of {root} and be taken for some; choose another --out")
    source = FolderSource(root, made=path, suffixes=suffixes)
    return source, reader, _file_sink(target, path, reader, reader.digest(str(root), version), source.shares_stem)


def _suffixes_in(root: Path) -> frozenset[str]:
    """Those of images, or, in a folder without a single one, those of films."""
    endings = {path.suffix.lower() for path in root.rglob("*")} if root.is_dir() else set()
    return FILM_SUFFIXES if endings & FILM_SUFFIXES and not endings & SUFFIXES else SUFFIXES


def _folder_reader(spec: JobSpec, target: Target, root: Path) -> FolderReader:
    aliases = read_labels(spec.labels)
    made = video_config_for if _suffixes_in(root) is FILM_SUFFIXES else config_for
    config = _read_file(spec.config) if spec.config else made(aliases)
    labels = labels_to_find(config, aliases)
    check_labels(config, labels)
    prefix = spec.url_prefix if spec.url_prefix is not None else f"/data/local-files/?d={quote(root.name)}/"
    return FolderReader(root, labels, read_options(None, spec.params, spec.min_score), _form(target), config, prefix)


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"the labelling config {path} cannot be read: {error}; name another file with --config") from error


def _extra_params(studio: LabelStudio, project_id: int) -> Any:
    """Those of the project's first backend, which is the one that Label Studio itself asks for predictions."""
    return next((backend.extra_params for backend in studio.backends(project_id)), None)


def _form(target: Target) -> Form:
    return Form.PREDICTION if target in (Target.PREDICTIONS, Target.IMPORT) else Form.MASKS


def _path(spec: JobSpec, target: Target) -> Path:
    return (spec.out or Path(_DEFAULT_NAMES[target])).expanduser().resolve()


def _file_sink(target: Target, path: Path, reader: ItemReader, digest: str, shares_stem: Callable[[str], bool]) -> Sink:
    """The files of a target; ``digest`` is a hash of all that their content depends on, ``shares_stem`` tells of a key whether
    another item's name is the same but for its ending.
    """
    labels = [entry.label for entry in reader.labels]
    match target:
        case Target.COCO:
            return coco_file(path, labels, reader.file_name, digest[:8])
        case Target.YOLO:
            return yolo_folder(path, labels, shares_stem)
        case Target.PNG:
            return png_folder(path, labels)
        case _:
            return import_file(path, reader.task_data, digest[:8])


def read_labels(text: str) -> Aliases:
    """Labels as typed, ``cat=kitten|tabby, dog``: each with its aliases. Raises RequestError for an alias of nothing."""
    found: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        label, _, aliases = part.partition("=")
        if not label.strip():
            raise RequestError(f"expected labels like 'cat=kitten|tabby, dog', got {part!r}")
        found[label.strip()] = tuple(filter(None, (alias.strip() for alias in aliases.split("|"))))
    return tuple(found.items())


def read_min_scores(text: str) -> dict[str, float]:
    """Least scores by label as typed, ``0.3, cat=0.6``, the first under ANY_LABEL. Raises RequestError for what is none."""
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        label, _, number = part.rpartition("=")
        try:
            score = float(number)
        except ValueError:
            score = -1.0
        if not 0 <= score <= 1:
            raise RequestError(f"expected a score in 0..1 like '0.3' or 'cat=0.6', got {part!r}")
        found[label.strip() or ANY_LABEL] = score
    return found


def read_options(extra_params: Any, params: str, min_score: str) -> PreannotationOptions:
    """What a project's extra parameters ask for, or those typed in their place (``{"mode": "semantic"}``), with the least
    scores that were typed. Raises RequestError or ConfigError for what cannot be meant.
    """
    if params:
        try:
            extra_params = json.loads(params)
        except ValueError:
            extra_params = None
        if not isinstance(extra_params, dict):
            raise RequestError(
                f'expected a JSON object of extra parameters like \'{{"mode": "semantic"}}\', got {params[:60]!r}'
            )
    options = read_extra_params(extra_params)
    return replace(options, thresholds={**options.thresholds, **read_min_scores(min_score)})
