"""What the tests of bulk runs share: a folder of drawn pictures and the colour engine over it."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from backend.assemble import bulk_context
from backend.bulk.reader import BulkJob
from backend.bulk.run import BulkContext, Pipeline, Run
from backend.bulk.spec import JobSpec, resolve
from backend.bulk.work import PipelineLimits, Worker, process
from backend.values.settings import Settings
from tests.backend.pictures import BLUE, RED, Picture, disc, paint, square


def drawn(number: int) -> Picture:
    """A red disc and a blue square, 64 x 48, somewhere else for every number."""
    return paint(
        {
            "red": (disc(48, 64, 12 + number % 9, 14 + number % 17, 8), RED),
            "blue": (square(48, 64, 36 + number % 7, 6 + number % 23, 12), BLUE),
        }
    )


def picture_folder(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(drawn(number).image).save(folder / f"{number:04d}.png")
    return folder


def context_for(root: Path | None, home: Path) -> BulkContext:
    return bulk_context(Settings(engine="colour", home=home), root, threading.Event())


def job_of(context: BulkContext, spec: JobSpec) -> BulkJob:
    return resolve(spec, context.engine.version, context.studio, threading.Event(), context.memories)


def pipeline(context: BulkContext, job: BulkJob) -> Pipeline:
    worker = Worker(context.images, context.engine.segmenter, job.reader, context.teacher(job.reader.memory))
    return partial(process, worker, version=job.identity.version, limits=PipelineLimits())


def run_of(context: BulkContext, job: BulkJob, limit: int | None = None, again: bool = False) -> Run:
    return Run(context, replace(job, limit=limit, again=again))


def same(mask: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.array_equal(mask, other))
