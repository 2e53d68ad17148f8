"""`maskloom prelabel` and what every bulk command shows."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from backend.assemble import BulkParts, bulk_parts
from backend.bulk.order import Filled, Order, fill
from backend.bulk.report import preview_page, run_page
from backend.bulk.run import Answering, Plan, Progress, Run, picture_of
from backend.bulk.values import Answer, Target
from backend.bulk.work import Flow, Worker, answers
from backend.cli.terminal import console, say, say_error, write_text
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


def prelabel(
    source: Annotated[str, typer.Argument(help="A folder of images, or the number of a Label Studio project.")],
    to: Annotated[
        Target | None, typer.Option(help="Where the masks go; for a project its predictions, for a folder COCO.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file or the folder to write.")] = None,
    labels: Annotated[str, typer.Option(help="What to find, with aliases: 'cat=kitten|tabby, dog'.")] = "",
    config: Annotated[Path | None, typer.Option(help="A labelling config with the labels, for a folder.")] = None,
    min_score: Annotated[str, typer.Option(help="Least scores: '0.3' or '0.3, cat=0.6'.")] = "",
    params: Annotated[
        str, typer.Option(help='What the masks become, \'{"mode": "semantic"}\'; by default the project\'s extra parameters.')
    ] = "",
    url: Annotated[str | None, typer.Option(help="Label Studio's address, or MASKLOOM_LABEL_STUDIO_URL.")] = None,
    token: Annotated[str | None, typer.Option(help="Its token, or MASKLOOM_LABEL_STUDIO_TOKEN.")] = None,
    view: Annotated[int | None, typer.Option(help="Only the tasks of this Data Manager view.")] = None,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Only tasks without annotations.")] = False,
    only_missing: Annotated[bool, typer.Option("--only-missing", help="Only tasks without any prediction.")] = False,
    url_prefix: Annotated[str | None, typer.Option(help="What stands before a file's name in an import file.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Work on this many images at most.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    sample: Annotated[int, typer.Option(min=0, help="Try this many images and write the preview page alone.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an earlier run, never begin one.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Do anew what is done, and replace it.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images that the model gets at once.")] = 4,
    workers: Annotated[int, typer.Option(min=0, help="Processes with a model each on this machine (needs Ray).")] = 0,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster, such as ray://head:10001 or auto.")] = None,
    report: Annotated[Path, typer.Option(help="The report page.")] = Path("maskloom-run.html"),
) -> None:
    """Segment all images of a folder or a project, on one machine or many; the same command goes on where it stopped."""
    from backend.bulk.order import Order
    from backend.bulk.sources import Selection
    from backend.cli.bulk import Way, run_order

    selection = Selection(view, unlabelled, only_missing)
    order = Order(source, to, out, labels, config, min_score, params, url_prefix=url_prefix, selection=selection)
    way = Way(
        url=url, token=token, limit=limit, dry_run=dry_run, sample=sample, resume=resume, force=force, batch=batch,
        workers=workers, ray=ray, report=report,
    )  # fmt: skip
    run_order(order, way)


LINE_EVERY_S = 10.0


@contextmanager
def shown(gpu: Callable[[], str]) -> Iterator[Callable[[Progress], None]]:
    """What is yielded takes how a run stands; ``gpu`` says how busy the GPU is, nothing where there is none."""
    if not console.is_terminal:
        yield _lines(gpu)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with ProgressBar(*columns, console=console) as bar:
        task = bar.add_task("")

        def watch(stand: Progress) -> None:
            bar.update(task, total=stand.total, completed=stand.done + stand.failed, description=_words(stand, gpu()))

        yield watch


def _lines(gpu: Callable[[], str]) -> Callable[[Progress], None]:
    last = time.monotonic()

    def watch(stand: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            left = f", {stand.left_s / 60:.0f} min left" if stand.left_s is not None else ""
            say(f"{stand.done + stand.failed:,} of {stand.total:,}{left}, {_words(stand, gpu())}")

    return watch


def _words(stand: Progress, gpu: str) -> str:
    return f"{stand.rate:.2f} images/s, {stand.failed:,} failed{', ' + gpu if gpu else ''}"
