"""The same path on many machines: Ray Data actors with a model each; the only module that imports Ray.

The driver lists the items, sends them out, writes what comes back and keeps the ledger: an actor that dies costs the time of
the images it had, which Ray gives to another one, and never a prediction that is there twice.
"""

from __future__ import annotations

import json
import math
import pickle
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.assemble import EngineHandle, bulk_images
from backend.bulk.recipe import Recipe
from backend.bulk.values import Answer
from backend.bulk.work import Flow, Worker, answers
from backend.engines.catalogue import find_engine
from backend.stores.ledger import Item, pages
from backend.values.errors import MaskloomError, SetupError
from backend.values.settings import Settings

WAVE = 20_000
"""Items that are sent out as one data set; the actors of the next wave load the model anew."""
SENT_AT_ONCE = 16

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Crew:
    """Who works: ``workers`` processes, at the ``address`` of a cluster or on this machine, until they are told to ``stop``."""

    address: str | None
    workers: int
    stop: threading.Event


class RayAnswering:
    """Answers items on Ray."""

    def __init__(self, settings: Settings, root: Path | None, recipe: Recipe, flow: Flow, crew: Crew) -> None:
        self._crew = crew
        self._config: Row = {"settings": _portable(settings), "root": root, "recipe": recipe, "flow": flow}

    def __call__(self, items: Iterable[Item]) -> Iterator[Answer]:
        """The answers, in the order in which they become ready; after a stop those that are ready now are the last.

        Raises SetupError when Ray is missing or does not answer.
        """
        data = _start(self._crew.address, self._crew.workers)
        for wave in pages(items, WAVE):
            yield from self._answer(data, wave)

    def _answer(self, data: Any, wave: list[Item]) -> Iterator[Answer]:
        rows = [{"item": json.dumps(asdict(item))} for item in wave]
        blocks = max(1, min(len(rows) // SENT_AT_ONCE, 2_000))
        outgoing = data.from_items(rows, override_num_blocks=blocks)
        incoming = outgoing.map_batches(
            Actor,
            fn_constructor_kwargs={"config": pickle.dumps(self._config)},
            batch_size=SENT_AT_ONCE,
            batch_format="numpy",
            **_resources(self._crew.workers),
        )
        for row in incoming.iter_rows():
            found: Answer | MaskloomError = pickle.loads(row["answer"])
            if isinstance(found, MaskloomError):
                raise found
            yield found
            if self._crew.stop.is_set():
                return


class Actor:
    """One model, and the overlapping pipeline over every batch of items that Ray hands it."""

    def __init__(self, config: bytes) -> None:
        wanted: Row = pickle.loads(config)
        settings = Settings(**wanted["settings"])
        engine = EngineHandle(find_engine(settings.engine), settings)
        images = bulk_images(settings, wanted["root"], threading.Event())
        self._flow: Flow = wanted["flow"]
        self._version = engine.version
        self._worker = Worker(images, engine.segmenter, wanted["recipe"])

    def __call__(self, batch: Row) -> Row:
        items = [Item(**json.loads(text)) for text in batch["item"]]
        found = answers(self._worker, items, self._version, self._flow)
        try:
            return {"answer": [pickle.dumps(answer) for answer in found]}
        except MaskloomError as error:  # the driver ends the run with it; raised here it would come wrapped in Ray's own
            return {"answer": [pickle.dumps(error)]}


def _start(address: str | None, workers: int) -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise SetupError("--workers and --ray need Ray: pip install 'maskloom[ray]'") from error
    try:
        if not ray.is_initialized():
            ray.init(address, **({} if address else {"num_cpus": max(1, workers), "include_dashboard": False}))
    except Exception as error:  # Ray raises a plain Exception when a node of its own does not start in time
        where = f"does not answer at {address}; start it with 'ray start --head'" if address else "does not start"
        raise SetupError(f"Ray {where}: {error}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    return ray.data


def _resources(workers: int) -> Row:
    """As many actors as were asked for, several to a GPU if need be; else one for each GPU, or for each four cores."""
    import ray

    have = ray.cluster_resources()
    if gpus := int(have.get("GPU", 0)):
        return {"num_gpus": 1 / math.ceil(max(workers, 1) / gpus), "concurrency": workers or gpus}
    return {"num_cpus": 1, "concurrency": workers or max(1, int(have.get("CPU", 1)) // 4)}


def _portable(settings: Settings) -> Row:
    """The settings as plain values that make the same settings on another machine, whatever its environment says."""
    return {name: getattr(settings, name) for name in Settings.model_fields}
