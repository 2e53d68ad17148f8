"""Measure an engine on the photos that were never trained on: ``python -m bench.quality --data DIR --out DIR``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import PIL.Image
import typer

from backend.demo import DEFAULT_LABELS
from backend.demo.filling import find_examples
from backend.values.masks import MaskSet
from bench.quality import report, tasks, unasked
from bench.quality.asking import Annotator
from bench.quality.cases import names_of, objects_of, sets_of, shots_of, strangers_of
from bench.quality.tasks import Outcome
from prompts.kinds import Image
from train.data import Photo, closed_vocabularies, load, read_rows
from train.held_out import asked_by, is_reported

TASKS = ("text", "strangers", "everything", "box", "clicks", "reference", "references", "video")
FRAMES_FOR_LIMIT = 10
SHOTS = 5


def main(
    data: Path = typer.Option(..., help="The folder that holds one folder per source, each with an index.jsonl."),
    out: Path = typer.Option(..., help="Where table.md, figures.json and report.html go."),
    engine: str = typer.Option("embedded", help="The engine's name; see `maskloom parts`."),
    limit: int = typer.Option(1_000_000, help="Objects, photos and pairs for each task; spread evenly over the sources."),
    grabcut: bool = typer.Option(True, help="Whether GrabCut is asked for boxes and clicks too; it takes most of the time."),
    only: list[str] = typer.Option(list(TASKS), help=f"Which tasks: {', '.join(TASKS)}."),
) -> None:
    """Ask by text, box, clicks, reference and video, held-out names and sources first; one table and one page."""
    rows = read_rows(data)
    vocabularies = closed_vocabularies(rows)
    annotator = Annotator(engine)
    images = [np.asarray(PIL.Image.open(photo).convert("RGB")) for photo in find_examples()]
    examples = [(image, annotator.name(image, DEFAULT_LABELS)) for image in images]
    outcomes = []
    for where, chosen in sets_of(rows).items():
        photos = load(chosen, vocabularies)
        for name, run in _tasks(annotator, where, photos, limit, grabcut).items():
            if name in only:
                began = time.monotonic()
                outcomes.append(run())
                outcomes[-1].task = f"{outcomes[-1].task}, {where}"
                print(f"{outcomes[-1].task}: {outcomes[-1].asked} asked in {time.monotonic() - began:.0f} s", flush=True)
                _write(
                    out,
                    outcomes,
                    f"Engine {annotator.version}; at most {limit} for each task and set, spread over the sources.",
                    examples,
                )
    print(report.table(outcomes))


def _tasks(
    annotator: Annotator, where: str, photos: list[Photo], limit: int, grabcut: bool
) -> dict[str, Callable[[], Outcome]]:
    """What to ask of a set of photos; of photos with held-out names those names alone, as they were trained on otherwise."""
    if where == "held-out names":
        asked = [asked_by(photo, is_reported) for photo in photos]
        return {
            "text": lambda: tasks.text(annotator, names_of(asked, limit)),
            "reference": lambda: tasks.reference(annotator, "one", shots_of(asked, limit)),
            "references": lambda: tasks.reference(annotator, "five", shots_of(asked, limit, SHOTS)),
        }
    frames = FRAMES_FOR_LIMIT if limit < 200 else 1_000
    return {
        "strangers": lambda: unasked.strangers(annotator, strangers_of(photos, limit)),
        "everything": lambda: unasked.everything(annotator, objects_of(photos, limit)),
        "box": lambda: tasks.boxes(annotator, objects_of(photos, limit), grabcut),
        "clicks": lambda: tasks.clicks(annotator, objects_of(photos, limit), grabcut),
        "text": lambda: tasks.text(annotator, names_of(photos, limit)),
        "reference": lambda: tasks.reference(annotator, "one", shots_of(photos, limit)),
        "references": lambda: tasks.reference(annotator, "five", shots_of(photos, limit, SHOTS)),
        "video": lambda: tasks.video(annotator, photos, frames),
    }


def _write(out: Path, outcomes: list[Outcome], heading: str, examples: Sequence[tuple[Image, MaskSet]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    out.joinpath("table.md").write_text(heading + "\n\n" + report.table(outcomes))
    out.joinpath("report.html").write_text(report.page(outcomes, heading, examples))
    figures = [{key: value for key, value in _plain(outcome).items() if key != "cases"} for outcome in outcomes]
    out.joinpath("figures.json").write_text(json.dumps(figures, indent=1))


def _plain(outcome: Outcome) -> dict[str, object]:
    return asdict(Outcome(outcome.task, outcome.asked, outcome.rows, [], outcome.scores, outcome.groups))


if __name__ == "__main__":
    typer.run(main)
