"""`maskloom prelabel` and what every bulk command shows."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from backend.bulk.reader import BulkJob
from backend.bulk.run import BulkContext, Pipeline, Progress, Run, picture_of, preview_page, run_page
from backend.bulk.spec import JobSpec, Selection, resolve
from backend.bulk.values import ItemResult, Target
from backend.bulk.work import PipelineLimits, Worker, process
from backend.cli.terminal import STOPPED, console, read_settings, say, say_error, say_progress, write_text
from backend.labelstudio.project_options import PreannotationOptions
from backend.stores.ledger import DONE, FAILED
from backend.values.errors import MaskloomError, RequestError
from backend.values.settings import Settings

TURN_S = 0.0005
"""So long a thread of a bulk run may keep the interpreter: the model's, which asks for it often, waits that long each time."""


def open_context(settings: Settings, root: Path | None, stop: threading.Event | None = None) -> BulkContext:
    """What the runs of this process share; put together only when a command runs, so that others start at once."""
    from backend.assemble import bulk_context

    return bulk_context(settings, root, stop or threading.Event())


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to carry out a job (see the options of ``maskloom prelabel``)."""

    dry_run: bool
    sample: int
    resume: bool
    batch: int
    workers: int
    ray: str | None
    report: Path


@dataclass(frozen=True, slots=True)
class _Command:
    """A command with everything found that it needs."""

    settings: Settings
    context: BulkContext
    job: BulkJob
    root: Path | None
    options: RunOptions

    @property
    def version(self) -> str:
        return self.job.identity.version

    def worker(self) -> Worker:
        teach = self.context.teacher(self.job.reader.memory)
        return Worker(self.context.images, self.context.engine.segmenter, self.job.reader, teach, self.context.shelf)

    def pipeline(self, stop: threading.Event) -> Pipeline:
        """Threads of this process, or Ray, which must be told to stop: it has taken many items already."""
        limits = PipelineLimits(batch=self.options.batch)
        if self.options.workers or self.options.ray:
            from backend.bulk.cluster import Cluster, RayPipeline

            cluster = Cluster(self.options.ray, self.options.workers, stop)
            return RayPipeline(self.settings, self.root, self.job, limits, cluster)
        return partial(process, self.worker(), version=self.version, limits=limits)


def run_job(spec: JobSpec, options: RunOptions, settings: Settings) -> None:
    """Carry out a job; exits with 1 when items failed and with 130 after Ctrl-C."""
    if options.resume and spec.again:
        raise RequestError("--resume goes on, --force begins anew; choose one")
    stop = threading.Event()
    sys.setswitchinterval(TURN_S)
    context = open_context(settings, spec.folder, stop)
    with closing(context.images):
        memories = context.memories.only_frozen() if options.dry_run and context.memories else context.memories
        job = resolve(spec, context.engine.version, context.studio, stop, memories)
        command = _Command(settings, context, job, spec.folder, options)
        if options.dry_run:
            _tell(command)
        elif options.sample:
            _try_sample(command)
        else:
            _run(command, stop)


def _tell(command: _Command) -> None:
    """What a run would do; the first image is opened, so that a wrong address is known before."""
    job, ledger = command.job, command.context.ledger
    items = list(job.source.items())
    known = ledger.find(job.identity)
    done = ledger.counts(known.id) if known else {}
    print(f"source   {job.source.name}: {len(items):,} images")
    print(f"target   {job.sink.name}: {done.get(DONE, 0):,} there already, {done.get(FAILED, 0):,} failed before")
    print(f"engine   {command.version}")
    print(f"mode     {job.reader.options.mode}{_limits(job.reader.options)}")
    for entry in job.reader.labels:
        print(f"label    {entry.label}: {', '.join(entry.phrases)}")
    if items:
        first = command.worker().load(items[0])
        print(f"image    {items[0].key}: {first.failure if isinstance(first, ItemResult) else 'can be read'}")
    print("nothing was written")


def _limits(options: PreannotationOptions) -> str:
    """What else is asked for, in words; empty when nothing is."""
    scores = ", ".join(f"{label} {score:g}" for label, score in options.thresholds.items())
    return f"; least score: {scores}" if scores else ""


def _try_sample(command: _Command) -> None:
    source, report, most = command.job.source, command.options.report, command.options.sample
    items = list(source.items())
    if not items:
        raise RequestError(f"there is nothing to try: {source.name} has no image that this command asks for")
    step = max(1, len(items) // most)
    started = time.monotonic()
    tried = list(command.pipeline(threading.Event())(items[::step][:most]))
    seconds = time.monotonic() - started
    good = [result for result in tried if not result.failure]
    subtitle = f"{len(good)} of {len(items):,} images of {source.name}, engine {command.version}"
    regions = [[[region.label, region.score, region.pixels] for region in result.regions] for result in good]
    page = preview_page("Maskloom preview", subtitle, [picture_of(result, 0.0) for result in good], regions)
    write_text(report, page, "--report")
    for result in tried:
        if result.failure:
            say(f"{result.item.key}: {result.failure}")
    rate = len(tried) / seconds
    say(f"{rate:.2f} images/s; all {len(items):,} would take {len(items) / rate / 3600:.1f} h. Nothing else was written.")
    say(f"preview: {report}")


def _run(command: _Command, stop: threading.Event) -> None:
    context, job, report = command.context, command.job, command.options.report
    if command.options.resume and context.ledger.find(job.identity) is None:
        raise RequestError(
            f"there is no earlier run of this command (from {job.source.name} to {job.sink.name}, engine "
            f"{command.version}, these labels); leave --resume out to begin one"
        )
    run = Run(context, job, stop=stop)
    try:
        with stops_on_ctrl_c(stop), shown(GpuWatch()) as watch:
            run.watch = watch
            progress = run.work(command.pipeline(stop))
    except Exception:
        _report_anyway(run, report)
        raise
    _report(run, report)
    where = job.sink.finish()
    _summarize(progress, stop.is_set(), where, report)


def _summarize(progress: Progress, stopped: bool, where: str, report: Path) -> None:
    say(
        f"{progress.done:,} of {progress.total:,} images done, {progress.failed:,} failed; {progress.worked:,} now in "
        f"{progress.seconds:.1f} s ({progress.rate:.2f} images/s), {progress.regions:,} regions on these"
    )
    say(f"result: {where}\nreport: {report}")
    if stopped:
        say("stopped; the same command goes on from here")
        raise typer.Exit(STOPPED)
    if progress.failed:
        say("the report lists the failures; the same command tries them again")
        raise typer.Exit(1)


def _report_anyway(run: Run, path: Path) -> None:
    """The page of a run that broke off; why it did is told last, and must not be lost because the page cannot be written."""
    try:
        _report(run, path)
    except MaskloomError as error:
        say_error(error)


def _report(run: Run, path: Path) -> None:
    row = run.context.ledger.run(run.id)
    if row is not None:
        write_text(path, run_page(run.context.ledger, run.context.album, row), "--report")


@contextmanager
def stops_on_ctrl_c(stop: threading.Event) -> Iterator[None]:
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
    only_missing: Annotated[bool, typer.Option("--only-missing", help="Only tasks without any predicted region.")] = False,
    url_prefix: Annotated[str | None, typer.Option(help="What stands before a file's name in an import file.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Work on this many images at most.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    sample: Annotated[int, typer.Option(min=0, help="Try this many images and write the preview page alone.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an earlier run, never begin one.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Do anew what is done, and replace it.")] = False,
    memory: Annotated[
        str,
        typer.Option(help="What annotations have taught: a version's number, newest or none; by default the chosen one."),
    ] = "",
    batch: Annotated[int, typer.Option(min=1, help="Images that the model gets at once.")] = 4,
    workers: Annotated[int, typer.Option(min=0, help="Processes with a model each on this machine (needs Ray).")] = 0,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster, such as ray://head:10001 or auto.")] = None,
    report: Annotated[Path, typer.Option(help="The report page.")] = Path("maskloom-run.html"),
) -> None:
    """Segment all images of a folder or a project, on one machine or many; the same command goes on where it stopped."""
    spec = JobSpec(
        source, to, out, labels, config, min_score, params, url_prefix=url_prefix,
        selection=Selection(view, unlabelled, only_missing), limit=limit, again=force, memory=memory,
    )  # fmt: skip
    say_progress()
    run_job(spec, RunOptions(dry_run, sample, resume, batch, workers, ray, report), read_settings(url, token))


ASKED_EVERY_S = 5.0
_QUERY = ("--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits")


class GpuWatch:
    """Asks ``nvidia-smi`` now and then; says nothing where there is none."""

    def __init__(self) -> None:
        self._program = shutil.which("nvidia-smi")
        self._asked_at = float("-inf")
        self._told = ""

    def __call__(self) -> str:
        """For example ``GPU 87 % 4.1 GiB``, one for each GPU; empty without a GPU."""
        if self._program and time.monotonic() - self._asked_at > ASKED_EVERY_S:
            self._asked_at = time.monotonic()
            self._told = self._ask(self._program)
        return self._told

    def _ask(self, program: str) -> str:
        try:
            done = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=3, check=True)
        except (OSError, subprocess.SubprocessError):
            return ""
        return read_gpus(done.stdout)


def read_gpus(lines: str) -> str:
    """The lines ``utilization, MiB`` of all GPUs in words; a line that cannot be read is left out."""
    told = []
    for line in lines.splitlines():
        busy, _, used = line.partition(",")
        if busy.strip().isdecimal() and used.strip().isdecimal():
            told.append(f"GPU {int(busy)} % {int(used) / 1024:.1f} GiB")
    return ", ".join(told)


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
