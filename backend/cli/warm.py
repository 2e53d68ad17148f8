"""``maskloom warm``: the images of a project are encoded before its annotators come."""

from __future__ import annotations

import json
import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from backend.bulk.run import Progress
from backend.bulk.warm import Warmed
from backend.cli.bulk import STOPPED, shown, stops_on_ctrl_c
from backend.cli.terminal import read_settings, say, write_text

SHOWN_FAILURES = 5


def warm(
    project: Annotated[int, typer.Argument(help="The number of a Label Studio project.")],
    view: Annotated[int | None, typer.Option(help="Only the tasks of this Data Manager view.")] = None,
    report: Annotated[Path | None, typer.Option(help="A file for what was done and what failed, as JSON.")] = None,
    url: Annotated[str | None, typer.Option(help="Label Studio's address, or MASKLOOM_LABEL_STUDIO_URL.")] = None,
    token: Annotated[str | None, typer.Option(help="Its token, or MASKLOOM_LABEL_STUDIO_TOKEN.")] = None,
) -> None:
    """Encode every image of a project onto disk, where a server with the same settings finds them; what is there is kept."""
    from backend.assemble import label_studio, warmer

    settings, stop, started = read_settings(url, token), threading.Event(), time.monotonic()
    with label_studio(settings) as studio, stops_on_ctrl_c(stop), shown(str) as watch:

        def told(done: Warmed, tasks: int) -> None:
            failed = len(done.failures)
            watch(Progress(done.tasks, tasks - failed, failed, tasks, 0, time.monotonic() - started))

        worker = replace(warmer(settings, stop), watch=told)
        try:
            done = worker.warm(studio, studio.project(project), view)
        finally:
            worker.images.close()
    if report is not None:
        write_text(report, json.dumps(done.to_json(), indent=1), "--report")
    _tell(done, time.monotonic() - started)
    if stop.is_set():
        say("stopped; the same command goes on from here")
        raise typer.Exit(STOPPED)
    if done.failures:
        raise typer.Exit(1)


def _tell(done: Warmed, seconds: float) -> None:
    say(
        f"{done.encoded:,} images encoded in {seconds:.1f} s, {done.known:,} were there already; "
        f"about {done.image_bytes / 1024:,.0f} KiB each"
    )
    if done.beyond_bound:
        more = math.ceil(done.beyond_bound * done.image_bytes / (1 << 20))
        say(f"{done.beyond_bound:,} images had no room on disk: raise MASKLOOM_FEATURE_SPILL_MIB by {more:,}")
    if done.in_windows:
        say(f"{done.in_windows:,} images are too large to be encoded whole; their windows are, with the first click")
    for task, reason in list(done.failures.items())[:SHOWN_FAILURES]:
        say(f"task {task}: {reason}")
    if len(done.failures) > SHOWN_FAILURES:
        say(f"and {len(done.failures) - SHOWN_FAILURES:,} more failed; --report FILE names them all")
