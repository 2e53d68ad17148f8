"""What a person orders, and the source, the sink and the recipe that it comes down to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from backend.bulk.recipe import Form, Recipe, config_for, read_labels, read_wanted
from backend.bulk.sinks import Sink
from backend.bulk.sinks.files import png_folder, yolo_folder
from backend.bulk.sinks.lines import coco_file, import_file
from backend.bulk.sinks.studio import StudioSink
from backend.bulk.sources import FolderSource, Selection, Source, StudioSource
from backend.bulk.values import Target
from backend.labelstudio.api import LabelStudio
from backend.labelstudio.config import read_config
from backend.options import Wanted
from backend.stores.ledger import Item, RunIdentity
from backend.values.errors import RequestError

_DEFAULT_NAMES = {
    Target.IMPORT: "import.json",
    Target.COCO: "coco.json",
    Target.YOLO: "yolo-labels",
    Target.PNG: "png-masks",
}


@dataclass(frozen=True, slots=True)
class Order:
    """An order in the words of the command line: ``source`` is a folder or the number of a project; ``params`` are extra
    parameters as JSON, in place of those of the project. Whoever knows already what the project wants says it as ``wanted``.
    """

    source: str
    target: Target | None = None
    out: Path | None = None
    labels: str = ""
    config: Path | None = None
    min_score: str = ""
    params: str = ""
    wanted: Wanted | None = None
    url_prefix: str | None = None
    selection: Selection = field(default_factory=Selection)


@dataclass(frozen=True, slots=True)
class Filled:
    """An order with everything found that it names."""

    source: Source
    sink: Sink
    recipe: Recipe
    identity: RunIdentity


def fill(order: Order, version: str, studio: Callable[[], LabelStudio], stop: threading.Event) -> Filled:
    """The parts of an order. ``studio`` is called when the order speaks of a project.

    Raises RequestError or ConfigError for an order that contradicts itself, RemoteError when Label Studio refuses.
    """
    if order.source.isdecimal():
        source, recipe, sink = _of_project(order, version, studio(), stop)
    else:
        source, recipe, sink = _of_folder(order, version)
    recipe.check()
    identity = RunIdentity(source.name, sink.name, version, recipe.digest(source.name, sink.name, version))
    return Filled(source, sink, recipe, identity)


def _of_project(order: Order, version: str, studio: LabelStudio, stop: threading.Event) -> tuple[Source, Recipe, Sink]:
    project = studio.project(int(order.source))
    if order.config is not None:
        raise RequestError("a project brings its own labelling config; leave --config out")
    target = order.target or Target.PREDICTIONS
    wanted = order.wanted or read_wanted(_extra_params(studio, project.id), order.params, order.min_score)
    recipe = _recipe(order, (project.label_config, str(project.id)), wanted, target)
    source = StudioSource(studio, project.id, order.selection)
    if target is Target.PREDICTIONS:
        return source, recipe, StudioSink(studio, project.id, version, stop)

    def name_of(item: Item) -> str:
        return recipe.request(item).image_url

    words = _Words(name_of, lambda item: dict(item.task["data"]), recipe.digest(source.name, version))
    return source, recipe, _file_sink(target, _path(order, target), recipe, words)


def _of_folder(order: Order, version: str) -> tuple[Source, Recipe, Sink]:
    root = Path(order.source).expanduser().resolve()
    target = order.target or Target.COCO
    if target is Target.PREDICTIONS:
        raise RequestError(
            f"predictions go to a project's tasks, and {root} is a folder; choose --to import, coco, yolo or png"
        )
    if order.selection != Selection():
        raise RequestError("--view, --unlabelled and --only-missing choose tasks of a project; a folder has none")
    if order.config is None and not order.labels:
        raise RequestError("say what to look for: --labels 'cat=kitten|tabby, dog' or --config config.xml")
    config = _read_file(order.config) if order.config else config_for(read_labels(order.labels))
    recipe = _recipe(order, (config, ""), read_wanted(None, order.params, order.min_score), target)
    prefix = order.url_prefix if order.url_prefix is not None else f"/data/local-files/?d={quote(root.name)}/"
    data_key = read_config(config).images[0].data_key

    def data_of(item: Item) -> dict[str, Any]:
        return {data_key: prefix + quote(item.key)}

    path = _path(order, target)
    if target is Target.PNG and path == root:
        raise RequestError(f"the masks would lie among the images of {root} and be taken for some; choose another --out")
    words = _Words(lambda item: item.key, data_of, recipe.digest(str(root), version, prefix))
    return FolderSource(root, config, made=path), recipe, _file_sink(target, path, recipe, words)


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"the labelling config {path} cannot be read: {error}; name another file with --config") from error


def _extra_params(studio: LabelStudio, project_id: int) -> Any:
    """Those of the project's first backend, which is the one that Label Studio itself asks for predictions."""
    return next((backend.extra_params for backend in studio.backends(project_id)), None)


def _recipe(order: Order, config_and_project: tuple[str, str], wanted: Wanted, target: Target) -> Recipe:
    form = Form.PREDICTION if target in (Target.PREDICTIONS, Target.IMPORT) else Form.MASKS
    return Recipe(*config_and_project, read_labels(order.labels), wanted, form)


def _path(order: Order, target: Target) -> Path:
    return (order.out or Path(_DEFAULT_NAMES[target])).expanduser().resolve()


@dataclass(frozen=True, slots=True)
class _Words:
    """What a file says of an item: its ``file_name``, its ``data``; and a hash of all that the file depends on."""

    name_of: Callable[[Item], str]
    data_of: Callable[[Item], dict[str, Any]]
    digest: str


def _file_sink(target: Target, path: Path, recipe: Recipe, words: _Words) -> Sink:
    labels = [entry.label for entry in recipe.labels]
    match target:
        case Target.COCO:
            return coco_file(path, labels, words.name_of, words.digest[:8])
        case Target.YOLO:
            return yolo_folder(path, labels)
        case Target.PNG:
            return png_folder(path, labels)
        case _:
            return import_file(path, words.data_of, words.digest[:8])
