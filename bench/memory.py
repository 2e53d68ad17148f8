"""What a large memory costs: bytes in the database, milliseconds for each request, and the page.

Run as ``python -m bench.memory --regions 50000``. The regions are blobs of 20 labels on images of 640 x 480 in one project.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from backend.stores.balance import Balance
from backend.stores.curation import Curation
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from backend.stores.snapshots import Snapshots
from backend.values.masks import RunLengths
from backend.values.session import Example, Submission, Verdict

LABELS = [f"label {number}" for number in range(20)]
PROJECT = "1.1795211212@1"
FEW = 100
PER_TASK = 5
REPEATS = 15


def blob(lot: np.random.Generator) -> RunLengths:
    """A region with an uneven outline, about a twentieth of the image."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    reach = 60 + np.cumsum(lot.normal(0, 6, 40)).clip(-30, 60)
    centre = lot.uniform((100, 100), (540, 380))
    points = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * reach[:, None]
    canvas = np.zeros((480, 640), np.uint8)
    cv2.fillPoly(canvas, [points.round().astype(np.int32)], 1)
    return RunLengths.of(canvas > 0)


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


def measured(work: Callable[[], object]) -> str:
    """The median time of some tries, and of the processor alone, which a busy machine changes little; the first is left out."""
    work()
    times, spent = [], []
    for _ in range(REPEATS):
        started, before = time.perf_counter(), time.process_time()
        work()
        times.append(1000 * (time.perf_counter() - started))
        spent.append(1000 * (time.process_time() - before))
    return f"{statistics.median(times):8.2f} ms (processor {statistics.median(spent):.2f})"


def tell(database: Database) -> None:
    """What a request and the page ask of a memory, and how long that takes."""
    bank, curation = MemoryBank(database), Curation(database)

    def everything() -> None:
        for label in LABELS:
            bank.recall(PROJECT, label, 64)
            bank.rejected(PROJECT, label, 64)

    print("  a request, nothing has changed:      ", measured(lambda: bank.changes(PROJECT)))
    print("  one label's examples, 64 at most:    ", measured(lambda: bank.recall(PROJECT, LABELS[0], 64)))
    print("  20 labels, 128 regions each at most: ", measured(everything))
    print("  the page: labels and verdicts:       ", measured(lambda: curation.counts(PROJECT)))
    print("  the page: 48 regions:                ", measured(lambda: curation.regions(PROJECT, LABELS[0], 0, 48)))
    print("  the page: the balance:               ", measured(lambda: Balance(database).rows(PROJECT)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--regions", type=int, default=50_000)
    tasks = parser.parse_args().regions // PER_TASK
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/store.sqlite")
        bank = MemoryBank(database)
        fill(bank, range(FEW))
        print(f"{FEW * PER_TASK:,} regions:")
        tell(database)
        seconds = fill(bank, range(FEW, tasks))
        size = (Path(folder) / "store.sqlite").stat().st_size  # what is in its log as well is a few MiB at most
        print(f"{tasks * PER_TASK:,} regions, {size / (1 << 20):.1f} MiB; each annotation took {1000 * seconds:.1f} ms:")
        tell(database)
        started = time.perf_counter()
        Snapshots(database).freeze(PROJECT)
        print(f"  freezing a version:                  {1000 * (time.perf_counter() - started):8.2f} ms")


if __name__ == "__main__":
    main()
