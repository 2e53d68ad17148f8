"""The balance of a project: how much of what was suggested people used, by label and week, and what it cost them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime

import sqlalchemy as sql

from backend.stores.answers import Answers
from backend.stores.database import Database
from backend.stores.memory import examples, metadata, submissions
from backend.values.session import Verdict

WEEK_S = 7 * 86_400.0
FIRST_MONDAY_S = 4 * 86_400.0
"""1970-01-05."""
Z = 1.96
"""Standard normal deviations on either side that hold 95 %."""


@dataclass(frozen=True, slots=True)
class BalanceRow:
    """What became of the suggestions of a label in the week that begins on Monday ``week``.

    ``suggested`` is the sum of the accepted, corrected and rejected; ``iou`` the mean over those that were not rejected;
    ``seconds`` what an annotation took, divided by its regions, on average; ``prompts`` the answers to clicks, boxes and words.
    """

    label: str
    week: date
    accepted: int = 0
    corrected: int = 0
    rejected: int = 0
    missed: int = 0
    drawn: int = 0
    iou: float | None = None
    seconds: float | None = None
    prompts: int = 0

    @property
    def suggested(self) -> int:
        return self.accepted + self.corrected + self.rejected

    @property
    def accepted_share(self) -> tuple[float, float, float] | None:
        """Which share of what was suggested was accepted as it was, and the ends of its 95 % interval; None of nothing."""
        return (self.accepted / self.suggested, *wilson(self.accepted, self.suggested)) if self.suggested else None


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927, "Probable Inference, the Law of Succession")."""
    share, weight = successes / trials, Z * Z / trials
    middle = (share + weight / 2) / (1 + weight)
    reach = Z / (1 + weight) * math.sqrt(share * (1 - share) / trials + weight / (4 * trials))
    return max(0.0, middle - reach), min(1.0, middle + reach)


class Balance:
    """Reads the balance of projects. Every method may raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._answers = Answers(database)
        database.create(metadata)

    def rows(self, project: str) -> list[BalanceRow]:
        """By label and week, the newest week first."""
        verdicts: dict[tuple[str, date], Counter[str]] = defaultdict(Counter)
        ious: dict[tuple[str, date], list[float]] = defaultdict(list)
        seconds: dict[tuple[str, date], list[float]] = defaultdict(list)
        for label, made_at, verdict, iou, share in self._regions(project):
            key = (label, week_of(made_at))
            verdicts[key][verdict] += 1
            if verdict != Verdict.REJECTED:
                ious[key].extend([] if iou is None else [iou])
                seconds[key].extend([] if share is None else [share])
        prompts = Counter((label, week_of(made_at)) for label, made_at in self._answers.interactions(project))
        keys = sorted({*verdicts, *prompts}, key=lambda key: (-key[1].toordinal(), key[0]))
        return [BalanceRow(*key, *_counts(verdicts[key]), _mean(ious[key]), _mean(seconds[key]), prompts[key]) for key in keys]

    def _regions(self, project: str) -> list[tuple[str, float, str, float | None, float | None]]:
        """Label, time, verdict, IoU and seconds of every region; what an annotation took is shared by what it shows."""
        here = (examples.c.project == project) & examples.c.is_current & examples.c.label.is_not(None)
        columns = (examples.c.annotation, examples.c.label, examples.c.made_at, examples.c.verdict, examples.c.iou)
        times = sql.select(submissions.c.annotation, submissions.c.seconds).where(submissions.c.project == project)
        with self._database.reading() as connection:
            rows = list(connection.execute(sql.select(*columns).where(here)))
            taken = {row.annotation: row.seconds for row in connection.execute(times)}
        shown = Counter(row.annotation for row in rows if row.verdict != Verdict.REJECTED)

        def share(annotation: str) -> float | None:
            spent = taken.get(annotation)
            return spent / shown[annotation] if spent is not None and shown[annotation] else None

        return [(row.label, row.made_at, row.verdict, row.iou, share(row.annotation)) for row in rows]


def week_of(moment: float) -> date:
    """The Monday, in universal time, of the week of a moment in seconds since 1970."""
    monday = FIRST_MONDAY_S + WEEK_S * math.floor((moment - FIRST_MONDAY_S) / WEEK_S)
    return datetime.fromtimestamp(monday, UTC).date()


def _counts(verdicts: Counter[str]) -> tuple[int, int, int, int, int]:
    """In the order of BalanceRow."""
    order = (Verdict.ACCEPTED, Verdict.CORRECTED, Verdict.REJECTED, Verdict.MISSED, Verdict.DRAWN)
    accepted, corrected, rejected, missed, drawn = (verdicts[verdict] for verdict in order)
    return accepted, corrected, rejected, missed, drawn


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
