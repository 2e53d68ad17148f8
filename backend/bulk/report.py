"""The report page of a run: what was found, how sure the engine was, what failed, and pictures of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend import pages
from backend.stores.album import Album, Picture
from backend.stores.ledger import DONE, FAILED, Entry, Ledger, RunRow

MOST_FAILURES = 200
STEPS = 20


@dataclass(slots=True)
class Tally:
    """What adds up over the items of a run."""

    labels: Counter[str] = field(default_factory=Counter)
    scores: list[int] = field(default_factory=lambda: [0] * STEPS)
    per_item: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, items: Iterable[Sequence[Sequence[Any]]]) -> Tally:
        """Add up the regions ``[label, score, pixels]`` of items."""
        tally = cls()
        for regions in items:
            tally.per_item[min(len(regions), 10)] += 1
            for label, score, _ in regions:
                tally.labels[label] += 1
                tally.scores[min(int(score * STEPS), STEPS - 1)] += 1
        return tally


def run_page(ledger: Ledger, album: Album, run: RunRow) -> str:
    """The page of a run as it stands, as HTML."""
    counts = ledger.counts(run.id)
    tally = Tally.of(entry.regions for entry in ledger.entries(run.id, DONE))
    subtitle = f"{run.source} → {run.target}, engine {run.version}, {time.strftime('%Y-%m-%d %H:%M')}"
    facts = [
        ("state", run.state + (f": {run.note}" if run.note else "")),
        ("items at the target", counts[DONE]),
        ("items that failed", counts[FAILED]),
        ("items that are left", counts.total() - counts[DONE] - counts[FAILED] - counts["parked"]),
        ("regions", tally.labels.total()),
    ]
    return pages.page(
        f"Maskloom run {run.id}",
        subtitle,
        [
            pages.table(["", ""], [[name, value if isinstance(value, str) else f"{value:,}"] for name, value in facts]),
            _found(tally),
            _pictures("A sample", album.pictures(run.id, "sample")),
            _pictures("Least certain", album.pictures(run.id, "unsure"), "Their least certain region has the lowest score."),
            _failures(ledger.entries(run.id, FAILED), counts[FAILED]),
        ],
    )


def preview_page(title: str, subtitle: str, pictures: Sequence[Picture], regions: Sequence[Sequence[Sequence[Any]]]) -> str:
    """The page of a sample that was written nowhere, as HTML."""
    return pages.page(title, subtitle, [_found(Tally.of(regions)), _pictures("The sample", pictures)])


def _found(tally: Tally) -> str:
    if not tally.labels:
        return pages.section("What was found", pages.note("Nothing was found. Other labels or aliases may help."))
    most = dict(tally.labels.most_common(30))
    numbers = {("10 or more" if number == 10 else str(number)): tally.per_item[number] for number in sorted(tally.per_item)}
    return pages.section(
        "What was found",
        pages.charts(
            pages.bars("Regions by label", most),
            pages.histogram("Scores of regions", tally.scores),
            pages.bars("Images by number of regions", numbers),
        ),
    )


def _pictures(title: str, pictures: Sequence[Picture], explanation: str = "") -> str:
    if not pictures:
        return ""
    rows = ((picture.jpeg, pages.link(picture.key, picture.link), picture.caption) for picture in pictures)
    return pages.section(title, pages.note(explanation) if explanation else "", pages.sheet(rows))


def _failures(entries: Iterable[Entry], count: int) -> str:
    if not count:
        return ""
    rows = [[pages.link(entry.key, entry.link), entry.reason] for _, entry in zip(range(MOST_FAILURES), entries, strict=False)]
    more = pages.note(f"{count - MOST_FAILURES:,} more") if count > MOST_FAILURES else ""
    return pages.section("Failures", pages.table(["item", "reason"], rows), more)
