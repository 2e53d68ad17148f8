"""How an order is carried out at the terminal: dry, as a sample, or as a run that Ctrl-C stops cleanly."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import typer

from backend.assemble import BulkParts, bulk_parts
from backend.bulk.answers import Answer
from backend.bulk.order import Filled, Order, fill
from backend.bulk.pipeline import Flow, answers
from backend.bulk.report import preview_page, run_page
from backend.bulk.run import Answering, Plan, Progress, Run, picture_of
from backend.bulk.work import Worker
from backend.cli.progress import shown
from backend.cli.terminal import say, say_error, write_text
from backend.options import Wanted
from backend.stores.ledger import DONE, FAILED, Item
from backend.values.errors import MaskloomError, RequestError
from backend.values.settings import Settings

STOPPED = 130
"""The exit code after Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Way:
    """How to carry out an order (see the options of ``maskloom prelabel``)."""

    url: str | None
    token: str | None
    limit: int | None
    dry_run: bool
    sample: int
    resume: bool
    force: bool
    batch: int
    workers: int
    ray: str | None
    report: Path


def run_order(order: Order, way: Way) -> None:
    """Carry out an order; exits with 1 when items failed and with 130 after Ctrl-C."""
    if way.resume and way.force:
        raise RequestError("--resume goes on, --force begins anew; choose one")
    stop = threading.Event()
    folder = None if order.source.isdecimal() else Path(order.source).expanduser().resolve()
    parts = bulk_parts(settings_of(way.url, way.token), folder, stop)
    with closing(parts):
        filled = fill(order, parts.engine.version, parts.studio, stop)
        if way.dry_run:
            _tell(parts, filled, way)
        elif way.sample:
            _try_sample(parts, filled, way)
        else:
            _run(parts, filled, way, stop)


def settings_of(url: str | None, token: str | None) -> Settings:
    """The settings with what the command line says of Label Studio in their place."""
    given = {"label_studio_url": url, "label_studio_token": token}
    return Settings(**{name: value for name, value in given.items() if value})  # type: ignore[arg-type]


def _tell(parts: BulkParts, filled: Filled, way: Way) -> None:
    """What a run would do; the first image is opened, so that a wrong address is known before."""
    items = list(filled.source.items())
    known = parts.ledger.find(filled.identity.digest)
    done = parts.ledger.counts(known.id) if known else {}
    print(f"source   {filled.source.name}: {len(items):,} images")
    print(f"target   {filled.sink.name}: {done.get(DONE, 0):,} there already, {done.get(FAILED, 0):,} failed before")
    print(f"engine   {parts.engine.version}")
    print(f"mode     {filled.recipe.wanted.mode}{_limits(filled.recipe.wanted)}")
    for entry in filled.recipe.labels:
        print(f"label    {entry.label}: {', '.join(entry.phrases)}")
    if items:
        first = Worker(parts.images, parts.engine.segmenter, filled.recipe).load(items[0])
        print(f"image    {items[0].key}: {first.failure if isinstance(first, Answer) else 'can be read'}")
    print("nothing was written")


def _limits(wanted: Wanted) -> str:
    """What else is asked for, in words; empty when nothing is."""
    scores = ", ".join(f"{label} {score:g}" for label, score in wanted.thresholds.items())
    return f"; least score: {scores}" if scores else ""


def _try_sample(parts: BulkParts, filled: Filled, way: Way) -> None:
    items = list(filled.source.items())
    if not items:
        raise RequestError(f"there is nothing to try: {filled.source.name} has no image that this command asks for")
    step = max(1, len(items) // way.sample)
    started = time.monotonic()
    tried = list(_answering(parts, filled, way, threading.Event())(items[::step][: way.sample]))
    seconds = time.monotonic() - started
    good = [answer for answer in tried if not answer.failure]
    subtitle = f"{len(good)} of {len(items):,} images of {filled.source.name}, engine {parts.engine.version}"
    regions = [[[region.label, region.score, region.pixels] for region in answer.regions] for answer in good]
    page = preview_page("Maskloom preview", subtitle, [picture_of(answer, 0.0) for answer in good], regions)
    write_text(way.report, page, "--report")
    for answer in tried:
        if answer.failure:
            say(f"{answer.item.key}: {answer.failure}")
    rate = len(tried) / seconds
    say(f"{rate:.2f} images/s; all {len(items):,} would take {len(items) / rate / 3600:.1f} h. Nothing else was written.")
    say(f"preview: {way.report}")


def _run(parts: BulkParts, filled: Filled, way: Way, stop: threading.Event) -> None:
    if way.resume and parts.ledger.find(filled.identity.digest) is None:
        raise RequestError(
            f"there is no earlier run of this command (from {filled.source.name} to {filled.sink.name}, engine "
            f"{parts.engine.version}, these labels); leave --resume out to begin one"
        )
    plan = Plan(filled.source, filled.sink, filled.identity, way.limit, way.force)
    run = Run(parts.ledger, parts.album, plan, stop=stop)
    try:
        with _stops_on_ctrl_c(stop), shown(parts.gpu) as watch:
            run.watch = watch
            progress = run.work(_answering(parts, filled, way, stop))
    except Exception:
        _report_anyway(parts, run, way.report)
        raise
    _report(parts, run, way.report)
    where = filled.sink.finish()
    _summarize(progress, stop.is_set(), where, way.report)


def _summarize(progress: Progress, stopped: bool, where: str, report: Path) -> None:
    say(
        f"{progress.done:,} of {progress.total:,} images done, {progress.failed:,} failed, {progress.regions:,} regions; "
        f"{progress.worked:,} now in {progress.seconds:.1f} s ({progress.rate:.2f} images/s)"
    )
    say(f"result: {where}\nreport: {report}")
    if stopped:
        say("stopped; the same command goes on from here")
        raise typer.Exit(STOPPED)
    if progress.failed:
        say("the report lists the failures; the same command tries them again")
        raise typer.Exit(1)


def _answering(parts: BulkParts, filled: Filled, way: Way, stop: threading.Event) -> Answering:
    """Threads of this process, or Ray, which must be told to stop: it has taken many items already."""
    flow = Flow(batch=way.batch)
    if way.workers or way.ray:
        from backend.bulk.cluster import Crew, RayAnswering

        return RayAnswering(parts.settings, parts.root, filled.recipe, flow, Crew(way.ray, way.workers, stop))
    worker = Worker(parts.images, parts.engine.segmenter, filled.recipe)

    def here(items: Iterable[Item]) -> Iterator[Answer]:
        return answers(worker, items, parts.engine.version, flow)

    return here


def _report_anyway(parts: BulkParts, run: Run, path: Path) -> None:
    """The page of a run that broke off; why it did is told last, and must not be lost because the page cannot be written."""
    try:
        _report(parts, run, path)
    except MaskloomError as error:
        say_error(error)


def _report(parts: BulkParts, run: Run, path: Path) -> None:
    row = parts.ledger.run(run.id)
    if row is not None:
        write_text(path, run_page(parts.ledger, parts.album, row), "--report")


@contextmanager
def _stops_on_ctrl_c(stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) lets what is under way end; the second one ends at once."""

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        say("stopping after what is under way; once more to end at once")
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
