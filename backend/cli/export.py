"""``maskloom export``: submitted annotations of a project as files for training and for other tools."""

from __future__ import annotations

import threading
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer

from backend.bulk.run import Progress
from backend.cli.bulk import shown, stops_on_ctrl_c
from backend.cli.terminal import STOPPED, read_settings, say
from backend.export.gather import AnnotationFilter, Pick, Review, Scope
from backend.export.run import Export, Format, Plan, Report
from backend.labelstudio.api import LabelStudio
from backend.values.errors import RequestError

SHOWN_REASONS = 8


def export(
    project: Annotated[int, typer.Argument(help="The number of a Label Studio project.")],
    to: Annotated[Format, typer.Option(help="What the files are for.")] = Format.COCO,
    out: Annotated[Path | None, typer.Option(help="The folder to write, by default export-PROJECT-FORMAT.")] = None,
    annotations: Annotated[Pick, typer.Option(help="Which one of a task that has several.")] = Pick.NEWEST,
    agreement: Annotated[float, typer.Option(min=0, max=1, help="For 'agreed': how well annotators must agree.")] = 0.7,
    view: Annotated[int | None, typer.Option(help="Only the tasks of this Data Manager view.")] = None,
    since: Annotated[str, typer.Option(help="Only annotations changed on this day or later: 2026-11-28.")] = "",
    until: Annotated[str, typer.Option(help="Only annotations changed before this day.")] = "",
    annotator: Annotated[list[str] | None, typer.Option(help="Only annotations of this person, by address or number.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only regions with this label.")] = None,
    review: Annotated[list[Review] | None, typer.Option(help="Only annotations in this review state.")] = None,
    predictions: Annotated[
        str | None, typer.Option(help="Predictions beside, of this model version; '*' takes each task's newest.")
    ] = None,
    val: Annotated[float, typer.Option(min=0, max=1, help="YOLO: the share of images for validation.")] = 0.2,
    crowd: Annotated[list[str] | None, typer.Option(help="COCO: regions of this label are groups (iscrowd).")] = None,
    images: Annotated[bool, typer.Option("--images", help="Store the images beside, which YOLO always has.")] = False,
    url: Annotated[str | None, typer.Option(help="Label Studio's address, or MASKLOOM_LABEL_STUDIO_URL.")] = None,
    token: Annotated[str | None, typer.Option(help="Its token, or MASKLOOM_LABEL_STUDIO_TOKEN.")] = None,
) -> None:
    """Export what people submitted; the same command goes on where it stopped."""
    from backend.assemble import bulk_images, label_studio

    settings, stop = read_settings(url, token), threading.Event()
    with label_studio(settings) as studio:
        filters = AnnotationFilter(_day(since), _day(until), _annotators(studio, annotator), frozenset(review or ()))
        scope = Scope(view, annotations, agreement, filters, frozenset(label or ()), predictions or "")
        folder = (out or Path(f"export-{project}-{to}")).expanduser().resolve()
        plan = Plan(project, to, folder, scope, val, frozenset(crowd or ()), images)
        media = bulk_images(settings, None, stop)
        try:
            report = _run(Export(plan, studio, media, stop=stop))
        finally:
            media.close()
    if report is None:
        say("stopped; the same command goes on from here")
        raise typer.Exit(STOPPED)
    _tell(report, folder)


def _run(job: Export) -> Report | None:
    started = time.monotonic()
    with stops_on_ctrl_c(job.stop), shown(str) as watch:
        job.watch = lambda done, total: watch(Progress(total, done, 0, done, 0, time.monotonic() - started))
        return job.run()


def _tell(report: Report, folder: Path) -> None:
    say(f"{report.exported:,} of {report.tasks:,} tasks, {report.images:,} images, {report.regions.total():,} regions")
    for label, count in report.regions.most_common():
        say(f"  {count:7,} {label}")
    for note in report.notes:
        say(f"note: {note}")
    if report.left_out:
        say(f"left out, {len(report.left_out):,} times:")
        for reason, count in report.reasons.most_common(SHOWN_REASONS):
            say(f"  {count:7,} {reason}")
    say(f"result: {report.path}\nreport: {folder / 'report.json'}")


def _day(text: str) -> datetime | None:
    try:
        return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC) if text else None
    except ValueError as error:
        raise RequestError(f"expected a day like 2026-11-28, got {text!r}") from error


def _annotators(studio: LabelStudio, asked: list[str] | None) -> frozenset[int] | None:
    """The numbers of people. Raises RequestError for an address that nobody has."""
    if not asked:
        return None
    if all(each.isdecimal() for each in asked):
        return frozenset(map(int, asked))
    known = studio.annotators()
    if strange := [each for each in asked if not each.isdecimal() and each.lower() not in known]:
        raise RequestError(f"nobody here has the address {', '.join(strange)}; there are {', '.join(sorted(known))}")
    return frozenset(int(each) if each.isdecimal() else known[each.lower()] for each in asked)
