"""What a large memory costs: bytes in the database, milliseconds for each request, and the page.

Run as ``python -m bench.memory --regions 50000``. The regions are blobs of 20 labels on images of 640 x 480 in one project. An
engine that sees noise, vectors as long as the embedded engine's, stands for one that encodes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import torch

from backend.caches import DiskCache
from backend.engines.base import Engine
from backend.engines.colour import ColourDecoder, ColourTextEncoder
from backend.engines.embedded.network import DIM
from backend.segmenter import Segmenter
from backend.serving.learning import Learning
from backend.serving.learnt import PLACES
from backend.stores.balance import Balance
from backend.stores.curation import Curation
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from backend.stores.snapshots import Snapshots
from backend.values.features import FeatureCache, ImageFeatures
from backend.values.masks import RunLengths
from backend.values.session import Example, Submission, Verdict
from prompts.geometry import size_of
from prompts.kinds import Image, KeyedImage
from prompts.phrases import Vocabulary
from prompts.space import JointSpace

LABELS = [f"label {number}" for number in range(20)]
PROJECT = "1.1795211212@1"
FEW = 100
PER_TASK = 5
REPEATS = 15


class NoiseDecoder(ColourDecoder):
    """Sees unit vectors of noise, ``(128, 48, 64)``, whatever an image shows."""

    def encode_images(self, images: Sequence[Image]) -> list[ImageFeatures]:
        grids = [torch.nn.functional.normalize(torch.randn(DIM, 48, 64), dim=0) for _ in images]
        return [ImageFeatures(size_of(image), grid) for image, grid in zip(images, grids, strict=True)]


class GreyImages:
    """Grey images of 640 x 480, whatever is asked for."""

    def load(self, url: str, project: str, task_id: str | None) -> KeyedImage:
        return KeyedImage(np.full((480, 640, 3), 128, np.uint8), url)


def blob(lot: np.random.Generator) -> RunLengths:
    """A region with an uneven outline, about a twentieth of the image."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    reach = 60 + np.cumsum(lot.normal(0, 6, 40)).clip(-30, 60)
    centre = lot.uniform((100, 100), (540, 380))
    points = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * reach[:, None]
    canvas = np.zeros((480, 640), np.uint8)
    cv2.fillPoly(canvas, [points.round().astype(np.int32)], 1)
    return RunLengths.of(canvas > 0)


FIRST_SHAPE = blob(np.random.default_rng(0))


def fill(bank: MemoryBank, tasks: range) -> float:
    """Submit an annotation of five regions for each of these tasks; the seconds for each."""
    lot, verdicts = np.random.default_rng(tasks.start), [Verdict.ACCEPTED, Verdict.CORRECTED, Verdict.MISSED, Verdict.REJECTED]
    shapes = [blob(lot) for _ in range(200)]
    started = time.perf_counter()
    for task in tasks:
        blank = Example(PROJECT, str(task), str(task), "", f"/data/upload/1/{task}.png", None, shapes[0], annotator="3")
        blank = replace(blank, made_at=1_795_000_000.0 + task, engine="embedded-7", iou=1.0)
        chosen = [(int(lot.integers(20)), int(lot.integers(4)), int(lot.integers(200))) for _ in range(PER_TASK)]
        shown = tuple(
            replace(blank, region=f"mk_{task:08x}_{k}", label=LABELS[label], verdict=verdicts[verdict], runs=shapes[shape])
            for k, (label, verdict, shape) in enumerate(chosen)
        )
        bank.submit(Submission(PROJECT, str(task), str(task), shown, "3", "", blank.made_at, 12.0))
    return (time.perf_counter() - started) / len(tasks)


def fill_one(bank: MemoryBank, task: int, label: str) -> None:
    """Submit an annotation of one accepted region."""
    made_at = 1_797_000_000.0 + task
    region = Example(PROJECT, str(task), str(task), f"mk_{task}", f"/data/upload/1/{task % 40}.png", label, FIRST_SHAPE)
    region = replace(region, verdict=Verdict.ACCEPTED, made_at=made_at, engine="embedded-7", iou=1.0)
    bank.submit(Submission(PROJECT, str(task), str(task), (region,), "3", "", made_at, 12.0))


def measured(work: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> str:
    """The median time of some tries, each prepared outside of it, and of the processor alone, which a busy machine changes
    little; the first is left out.
    """
    work()
    times, spent = [], []
    for _ in range(REPEATS):
        prepare()
        started, before = time.perf_counter(), time.process_time()
        work()
        times.append(1000 * (time.perf_counter() - started))
        spent.append(1000 * (time.process_time() - before))
    return f"{statistics.median(times):8.2f} ms (processor {statistics.median(spent):.2f})"


def tell(database: Database, folder: Path) -> None:
    """What a request and the page ask of a memory, and how long that takes."""
    bank, curation, numbers = MemoryBank(database), Curation(database), count(10_000_000)
    learning = Learning(bank, GreyImages(), DiskCache(folder / "places", "1", 1 << 30, PLACES))
    space = JointSpace("noise", ColourTextEncoder())
    segmenter = Segmenter(Engine("noise", "noise-1", space, NoiseDecoder()), FeatureCache(1 << 20))

    def ask(labels: Sequence[str]) -> None:
        learning.learnt(PROJECT, Vocabulary.from_names(labels), segmenter, 600.0).besides("0")

    def change(prepare: Sequence[str] = ()) -> None:
        """One more annotation of one label, and what the background makes of it before anybody asks."""
        fill_one(bank, next(numbers), LABELS[0])
        if prepare:
            ask(prepare)

    for asked in (LABELS[:1], LABELS):
        name = f"{len(asked):2} labels"
        print(f"  a request for {name}, nothing has changed:", measured(partial(ask, asked)))
        print("  the first one after a change:             ", measured(partial(ask, asked), change))
        print("  the same when it was learnt before:       ", measured(partial(ask, asked), partial(change, asked)))
    print("  the page: labels and verdicts:            ", measured(lambda: curation.counts(PROJECT)))
    print("  the page: 48 regions:                     ", measured(lambda: curation.regions(PROJECT, LABELS[0], 0, 48)))
    print("  the page: the balance:                    ", measured(lambda: Balance(database).rows(PROJECT)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--regions", type=int, default=50_000)
    tasks = parser.parse_args().regions // PER_TASK
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/store.sqlite")
        bank = MemoryBank(database)
        fill(bank, range(FEW))
        print(f"{FEW * PER_TASK:,} regions:")
        tell(database, Path(folder))
        seconds = fill(bank, range(FEW, tasks))
        size = (Path(folder) / "store.sqlite").stat().st_size  # what is in its log as well is a few MiB at most
        print(f"{tasks * PER_TASK:,} regions, {size / (1 << 20):.1f} MiB; each annotation took {1000 * seconds:.1f} ms:")
        tell(database, Path(folder))
        started = time.perf_counter()
        Snapshots(database).freeze(PROJECT)
        print(f"  freezing a version:                  {1000 * (time.perf_counter() - started):8.2f} ms")


if __name__ == "__main__":
    main()
