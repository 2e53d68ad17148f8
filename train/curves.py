"""The log of every stage as curves on one page, written anew whenever a stage saves its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from backend import pictures

POINTS = 60
"""Each curve shows so many means of equally many logged steps."""


def draw(folder: Path) -> None:
    """``curves.html`` of a training folder from the ``*.jsonl`` logs that lie in it."""
    sections = [_section(log) for log in sorted(folder.glob("*.jsonl"))]
    folder.joinpath("curves.html").write_text(pictures.page("Training", "The parts of each loss over the steps", sections))


def _section(log: Path) -> str:
    rows = [row for line in log.read_text().splitlines() if (row := _row(line))]
    parts = dict.fromkeys(key for row in rows for key in row if key not in ("step", "s"))
    drawn = [_curve(part, [(row["step"], row[part]) for row in rows if part in row]) for part in parts]
    last = f"{rows[-1]['step']:,} steps, {rows[-1]['s'] / 60:.0f} minutes" if rows else "nothing logged yet"
    return pictures.section(log.stem, pictures.note(last), pictures.charts(*drawn))


def _row(line: str) -> dict[str, float] | None:
    """A line of the log; None for one whose writing was interrupted."""
    try:
        row: dict[str, float] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row


def _curve(part: str, points: Sequence[tuple[float, float]]) -> str:
    means = smooth(points)
    most = float(f"{max(max(y for _, y in means) * 1.05, 1e-6):.2g}")
    return pictures.curves(part, {part: means}, (float(means[-1][0]), most))


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most 60 points, each the mean of as many that follow each other; the last may have fewer."""
    size = -(-len(points) // POINTS)
    groups = [points[k : k + size] for k in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
