"""What a person asks of a run, in the words of the command line, and the job that it comes down to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from backend.bulk.recipe import Aliases, FolderRecipe, Recipe, TaskRecipe, check_labels, config_for, labels_to_find
from backend.bulk.sinks.files import png_folder, yolo_folder
from backend.bulk.sinks.lines import coco_file, import_file
from backend.bulk.sinks.studio import StudioSink
from backend.bulk.sources import FolderSource, Selection, Source, StudioSource
from backend.bulk.values import Form, Sink, Target
from backend.labelstudio.api import LabelStudio
from backend.labelstudio.project_options import ANY_LABEL, PreannotationOptions, read_extra_params
from backend.stores.ledger import RunIdentity
from backend.values.errors import RequestError

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
    ``again`` does anew what was done already; ``limit`` is the most items to work on this time.
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

    @property
    def folder(self) -> Path | None:
        """The folder of images; None where the source is a project."""
        return None if self.source.isdecimal() else Path(self.source).expanduser().resolve()


@dataclass(frozen=True, slots=True)
class BulkJob:
    """A job with everything found that its spec names."""

    source: Source
    sink: Sink
    recipe: Recipe
    identity: RunIdentity
    limit: int | None = None
    again: bool = False


def resolve(spec: JobSpec, version: str, studio: Callable[[], LabelStudio], stop: threading.Event) -> BulkJob:
    """The job of a spec. ``studio`` is called when it speaks of a project.

    Raises RequestError or ConfigError for a spec that contradicts itself, RemoteError when Label Studio refuses.
    """
    if spec.folder is None:
        source, recipe, sink = _of_project(spec, version, studio(), stop)
    else:
        source, recipe, sink = _of_folder(spec, version, spec.folder)
    identity = RunIdentity(source.name, sink.name, version, recipe.digest(source.name, sink.name, version))
    return BulkJob(source, sink, recipe, identity, spec.limit, spec.again)


def _of_project(spec: JobSpec, version: str, studio: LabelStudio, stop: threading.Event) -> tuple[Source, Recipe, Sink]:
    project = studio.project(int(spec.source))
    if spec.config is not None:
        raise RequestError("a project brings its own labelling config; leave --config out")
    target = spec.target or Target.PREDICTIONS
    options = spec.options or read_options(_extra_params(studio, project.id), spec.params, spec.min_score)
    recipe = TaskRecipe(project.label_config, str(project.id), read_labels(spec.labels), options, _form(target))
    check_labels(project.label_config, recipe.labels)
    source = StudioSource(studio, project.id, spec.selection)
    if target is Target.PREDICTIONS:
        return source, recipe, StudioSink(studio, project.id, version, stop)
    sink = _file_sink(target, _path(spec, target), recipe, recipe.digest(source.name, version), lambda key: False)
    return source, recipe, sink


def _of_folder(spec: JobSpec, version: str, root: Path) -> tuple[Source, Recipe, Sink]:
    target = spec.target or Target.COCO
    if target is Target.PREDICTIONS:
        raise RequestError(
            f"predictions go to a project's tasks, and {root} is a folder; choose --to import, coco, yolo or png"
        )
    if spec.selection != Selection():
        raise RequestError("--view, --unlabelled and --only-missing choose tasks of a project; a folder has none")
    if spec.config is None and not spec.labels:
        raise RequestError("say what to look for: --labels 'cat=kitten|tabby, dog' or --config config.xml")
    recipe = _folder_recipe(spec, target, root)
    path = _path(spec, target)
    if target is Target.PNG and path == root:
        raise RequestError(f"the masks would lie among the images of {root} and be taken for some; choose another --out")
    source = FolderSource(root, made=path)
    return source, recipe, _file_sink(target, path, recipe, recipe.digest(str(root), version), source.shares_stem)


def _folder_recipe(spec: JobSpec, target: Target, root: Path) -> FolderRecipe:
    aliases = read_labels(spec.labels)
    config = _read_file(spec.config) if spec.config else config_for(aliases)
    labels = labels_to_find(config, aliases)
    check_labels(config, labels)
    prefix = spec.url_prefix if spec.url_prefix is not None else f"/data/local-files/?d={quote(root.name)}/"
    return FolderRecipe(root, labels, read_options(None, spec.params, spec.min_score), _form(target), config, prefix)


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


def _file_sink(target: Target, path: Path, recipe: Recipe, digest: str, shares_stem: Callable[[str], bool]) -> Sink:
    """The files of a target; ``digest`` is a hash of all that their content depends on, ``shares_stem`` tells of a key whether
    another item's name is the same but for its ending.
    """
    labels = [entry.label for entry in recipe.labels]
    match target:
        case Target.COCO:
            return coco_file(path, labels, recipe.file_name, digest[:8])
        case Target.YOLO:
            return yolo_folder(path, labels, shares_stem)
        case Target.PNG:
            return png_folder(path, labels)
        case _:
            return import_file(path, recipe.task_data, digest[:8])


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
