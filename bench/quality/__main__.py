"""Measure an engine on the photos that were never trained on: ``python -m bench.quality --data DIR --out DIR``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import typer

from bench.quality import report, tasks
from bench.quality.asking import Annotator
from bench.quality.cases import names_of, objects_of, pairs_of
from bench.quality.tasks import Outcome
from train.data import Photo, closed_vocabularies, load, read_rows

TASKS = ("box", "clicks", "text", "reference", "video")
FRAMES_FOR_LIMIT = 10


def main(
    data: Path = typer.Option(..., help="The folder that holds one folder per source, each with an index.jsonl."),
    out: Path = typer.Option(..., help="Where table.md, figures.json and report.html go."),
    engine: str = typer.Option("embedded", help="The engine's name; see `maskloom parts`."),
    limit: int = typer.Option(1_000_000, help="Objects, photos and pairs for each task; spread evenly over the sources."),
    grabcut: bool = typer.Option(True, help="Whether GrabCut is asked for boxes and clicks too; it takes most of the time."),
    only: list[str] = typer.Option(list(TASKS), help=f"Which tasks: {', '.join(TASKS)}."),
) -> None:
    """Ask for every held-out object by box, clicks, text, reference and video, and write one table and one page."""
    rows = read_rows(data)
    photos = load([row for row in rows if row.split == "val"], closed_vocabularies(rows))
    annotator = Annotator(engine)
    outcomes = []
    for name, run in _tasks(annotator, photos, limit, grabcut).items():
        if name in only:
            began = time.monotonic()
            outcomes.append(run())
            print(f"{name}: {outcomes[-1].asked} asked in {time.monotonic() - began:.0f} s", flush=True)
            _write(out, outcomes, f"Engine {annotator.version}; at most {limit} for each task, spread evenly over the sources.")
    print(report.table(outcomes))


def _tasks(annotator: Annotator, photos: list[Photo], limit: int, grabcut: bool) -> dict[str, Callable[[], Outcome]]:
    frames = FRAMES_FOR_LIMIT if limit < 200 else 1_000
    return {
        "box": lambda: tasks.boxes(annotator, objects_of(photos, limit), grabcut),
        "clicks": lambda: tasks.clicks(annotator, objects_of(photos, limit), grabcut),
        "text": lambda: tasks.text(annotator, names_of(photos, limit)),
        "reference": lambda: tasks.reference(annotator, pairs_of(photos, limit)),
        "video": lambda: tasks.video(annotator, photos, frames),
    }


def _write(out: Path, outcomes: list[Outcome], heading: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    out.joinpath("table.md").write_text(heading + "\n\n" + report.table(outcomes))
    out.joinpath("report.html").write_text(report.page(outcomes, heading))
    figures = [{key: value for key, value in _plain(outcome).items() if key != "cases"} for outcome in outcomes]
    out.joinpath("figures.json").write_text(json.dumps(figures, indent=1))


def _plain(outcome: Outcome) -> dict[str, object]:
    return asdict(Outcome(outcome.task, outcome.asked, outcome.rows, [], outcome.scores, outcome.groups))


if __name__ == "__main__":
    typer.run(main)
