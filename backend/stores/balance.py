"""The balance of a project: how much of what was suggested people used, by label and week, and what it cost them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sql

from backend.stores.answers import FIRST_MONDAY_S, WEEK_S, Answers, week_number
from backend.stores.canaries import canaries
from backend.stores.database import Database, all_tables
from backend.stores.memory import examples, submissions
from backend.values.session import Verdict

Z = 1.96
"""Standard normal deviations on either side that hold 95 %."""


@dataclass(frozen=True, slots=True)
class BalanceRow:
    """What became of the suggestions of a label in the week that begins on Monday ``week``.

    ``suggested`` is the sum of the accepted, corrected and rejected; ``iou`` the mean over those that were not rejected;
    ``seconds`` what an annotation took, divided by its regions, on average; ``prompts`` the answers to clicks, boxes and words.
    Of suggestions that were damaged on purpose, none of which counts above, ``noticed`` were put right or deleted and
    ``overlooked`` were submitted as they were.
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
    noticed: int = 0
    overlooked: int = 0

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
        database.create(all_tables)

    def rows(self, project: str) -> list[BalanceRow]:
        """By label and week, the newest week first. The database adds up, so that the cost hardly grows with the memory."""
        with self._database.reading() as connection:
            regions = {(row.label, _monday(row.week)): row for row in connection.execute(_sums(project))}
            seen = {(row.label, _monday(row.week)): row for row in connection.execute(_canaries(project))}
        prompts: Counter[tuple[str, date]] = Counter()
        for label, week, number in self._answers.interactions(project):
            prompts[label, _monday(week)] += number
        keys = sorted({*regions, *prompts, *seen}, key=lambda key: (-key[1].toordinal(), key[0]))
        return [_row(key, regions.get(key), prompts[key], seen.get(key)) for key in keys]


def _sums(project: str) -> sql.Select[Any]:
    """How many regions of each label and week have which verdict, and the means over those that were not rejected; what an
    annotation took is shared by what it shows.
    """
    here = (examples.c.project == project) & examples.c.is_current & examples.c.label.is_not(None)
    is_shown = examples.c.verdict != Verdict.REJECTED
    shares = sql.select(examples.c.annotation, (submissions.c.seconds / sql.func.count()).label("share")).where(here, is_shown)
    same = (submissions.c.project == project) & (submissions.c.annotation == examples.c.annotation)
    share = shares.join(submissions, same).group_by(examples.c.annotation, submissions.c.seconds).subquery()
    counts = [sql.func.sum(sql.case((examples.c.verdict == each, 1), else_=0)).label(each.value) for each in Verdict]
    iou = sql.func.avg(sql.case((is_shown, examples.c.iou))).label("iou")
    seconds = sql.func.avg(sql.case((is_shown, share.c.share))).label("seconds")
    week = week_number(examples.c.made_at).label("week")
    found = sql.select(examples.c.label, week, *counts, iou, seconds).where(here)
    return found.outerjoin(share, share.c.annotation == examples.c.annotation).group_by(examples.c.label, sql.text("week"))


def _canaries(project: str) -> sql.Select[Any]:
    """How many canaries of each label and week were noticed and overlooked in annotations that are still there."""
    there = (submissions.c.project == canaries.c.project) & (submissions.c.annotation == canaries.c.annotation)
    week = week_number(canaries.c.made_at).label("week")
    counts = [
        sql.func.sum(sql.case((canaries.c.was_noticed == is_seen, 1), else_=0)).label(name)
        for name, is_seen in (("noticed", True), ("overlooked", False))
    ]
    found = sql.select(canaries.c.label, week, *counts).join(submissions, there).where(canaries.c.project == project)
    return found.group_by(canaries.c.label, sql.text("week"))


def _row(key: tuple[str, date], sums: Any, prompts: int, seen: Any) -> BalanceRow:
    noticed, overlooked = (seen.noticed, seen.overlooked) if seen is not None else (0, 0)
    if sums is None:
        return BalanceRow(*key, prompts=prompts, noticed=noticed, overlooked=overlooked)
    counts = (sums.accepted, sums.corrected, sums.rejected, sums.missed, sums.drawn)
    return BalanceRow(*key, *counts, sums.iou, sums.seconds, prompts, noticed, overlooked)


def week_of(moment: float) -> date:
    """The Monday, in universal time, of the week of a moment in seconds since 1970."""
    return _monday(math.floor((moment - FIRST_MONDAY_S) / WEEK_S))


def _monday(week: float) -> date:
    return datetime.fromtimestamp(FIRST_MONDAY_S + WEEK_S * week, UTC).date()
