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

from backend.assemble import bulk_images, bulk_settings, engine_handle, film_shelf, teacher
from backend.bulk.reader import BulkJob, ItemReader
from backend.bulk.values import ItemResult
from backend.bulk.work import PipelineLimits, Worker, process
from backend.stores.ledger import Item, in_batches
from backend.values.errors import MaskloomError, SetupError, missing_extra
from backend.values.settings import Settings

WAVE = 20_000
"""Items that are sent out as one data set; the actors of the next wave load the model anew."""
SENT_AT_ONCE = 16

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the work is done: by so many ``workers``, at the ``address`` of a cluster or on this machine, until they are told
    to ``stop``.
    """

    address: str | None
    workers: int
    stop: threading.Event


class RayPipeline:
    """Segments items on Ray."""

    def __init__(self, settings: Settings, root: Path | None, job: BulkJob, limits: PipelineLimits, cluster: Cluster) -> None:
        self._cluster = cluster
        what = {"reader": job.reader, "version": job.identity.version}
        self._config: Row = {"settings": _portable(settings), "root": root, "limits": limits, **what}

    def __call__(self, items: Iterable[Item]) -> Iterator[ItemResult]:
        """The results, in the order in which they become ready; after a stop those that are ready now are the last.

        Raises SetupError when Ray is missing or does not answer.
        """
        data = _start(self._cluster.address, self._cluster.workers)
        for wave in in_batches(items, WAVE):
            yield from self._process(data, wave)

    def _process(self, data: Any, wave: list[Item]) -> Iterator[ItemResult]:
        rows = [{"item": json.dumps(asdict(item))} for item in wave]
        blocks = max(1, min(len(rows) // SENT_AT_ONCE, 2_000))
        outgoing = data.from_items(rows, override_num_blocks=blocks)
        incoming = outgoing.map_batches(
            Actor,
            fn_constructor_kwargs={"pickled": pickle.dumps(self._config)},
            batch_size=SENT_AT_ONCE,
            batch_format="numpy",
            **_resources(self._cluster.workers),
        )
        for row in incoming.iter_rows():
            found: ItemResult | MaskloomError = pickle.loads(row["result"])
            if isinstance(found, MaskloomError):
                raise found
            yield found
            if self._cluster.stop.is_set():
                return


class Actor:
    """One model, and the overlapping pipeline over every batch of items that Ray hands it."""

    def __init__(self, pickled: bytes) -> None:
        config: Row = pickle.loads(pickled)
        settings = bulk_settings(Settings(**config["settings"]))
        engine = engine_handle(settings)
        images = bulk_images(settings, config["root"], threading.Event())
        self._limits: PipelineLimits = config["limits"]
        self._version: str = config["version"]
        reader: ItemReader = config["reader"]
        self._worker = Worker(images, engine.segmenter, reader, teacher(settings, images)(reader.memory), film_shelf(settings))

    def __call__(self, batch: Row) -> Row:
        items = [Item(**json.loads(text)) for text in batch["item"]]
        found = process(self._worker, items, self._version, self._limits)
        try:
            return {"result": [pickle.dumps(result) for result in found]}
        except MaskloomError as error:  # the driver ends the run with it; raised here it would come wrapped in Ray's own
            return {"result": [pickle.dumps(error)]}


def _start(address: str | None, workers: int) -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise missing_extra("ray", "--workers and --ray need Ray", error) from error
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
