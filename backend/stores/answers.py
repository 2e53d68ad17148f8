"""The answers that were given, by their id: with what a submitted annotation is compared, and how often people prompted."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sql

from backend.stores.database import Database, all_tables

MOST_ANSWERS = 50_000
"""Answers that are known, the newest."""
MOST_WITH_CONTENT = 5_000
"""Of so many, the newest, is known what they said."""
PASSED_OVER = 100
"""Numbers that a database may leave out in a row: so far back it is looked for content that is too old, not through all."""
LARGEST_CONTENT = 256 << 10
MOST_COMPARED = 20
"""Answers about one task that are looked at, the newest."""
WEEK_S = 7 * 86_400.0
FIRST_MONDAY_S = 4 * 86_400.0
"""1970-01-05."""

_answers = sql.Table(
    "answers",
    all_tables,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("answer", sql.String(20), nullable=False),
    sql.Column("project", sql.String(300), nullable=False),
    sql.Column("task", sql.String(50), nullable=False),
    sql.Column("kind", sql.String(20), nullable=False),
    sql.Column("label", sql.String(300), nullable=False),
    sql.Column("engine", sql.String(200), nullable=False),
    sql.Column("made_at", sql.Float, nullable=False),
    sql.Column("content", sql.LargeBinary, nullable=True),
    sql.Index("answers_by_task", "project", "task"),
)


def week_number(moment: sql.ColumnElement[float]) -> sql.ColumnElement[float]:
    """Which week since the first Monday of 1970, in universal time, a moment in seconds since 1970 lies in."""
    return sql.func.floor((moment - FIRST_MONDAY_S) / WEEK_S)


class Kind(StrEnum):
    """What an answer was to."""

    PREANNOTATION = "preannotation"
    INTERACTION = "interaction"


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """An answer to Label Studio: ``prediction`` is what was written, in its words; ``label`` the class of an interaction."""

    answer: str
    project: str
    task: str
    kind: Kind
    label: str
    made_at: float
    prediction: Mapping[str, Any]


class Answers:
    """Answers by project and task. Every method may raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create(all_tables)

    def keep(self, given: GivenAnswer) -> None:
        """Keep that an answer was given and, of a pre-annotation that is not too large, what it said."""
        content = zlib.compress(json.dumps(given.prediction).encode(), 1) if given.kind is Kind.PREANNOTATION else b""
        facts = {name: getattr(given, name) for name in ("answer", "project", "task", "label", "made_at")}
        row = {**facts, "kind": str(given.kind), "engine": str(given.prediction.get("model_version") or "")[:200]}
        row["content"] = content if 0 < len(content) <= LARGEST_CONTENT else None
        with self._database.writing() as connection:
            number = connection.execute(sql.insert(_answers), row).inserted_primary_key
            newest = number[0] if number else 0
            connection.execute(sql.delete(_answers).where(_answers.c.id <= newest - MOST_ANSWERS))
            old = _answers.c.id.between(newest - MOST_WITH_CONTENT - PASSED_OVER, newest - MOST_WITH_CONTENT)
            connection.execute(sql.update(_answers).where(old, _answers.c.content.is_not(None)).values(content=None))

    def about(self, project: str, task: str) -> list[dict[str, Any]]:
        """What pre-annotations of a task said, as predictions of Label Studio without a number; the newest first."""
        here = (_answers.c.project == project) & (_answers.c.task == task) & _answers.c.content.is_not(None)
        query = sql.select(_answers.c.content).where(here).order_by(_answers.c.id.desc()).limit(MOST_COMPARED)
        with self._database.reading() as connection:
            return [json.loads(zlib.decompress(content)) for content in connection.scalars(query)]

    def interactions(self, project: str) -> list[tuple[str, float, int]]:
        """How many prompts of each label were answered in each week, by its number."""
        here, week = (_answers.c.project == project) & (_answers.c.kind == Kind.INTERACTION), week_number(_answers.c.made_at)
        query = sql.select(_answers.c.label, week.label("week"), sql.func.count().label("number")).where(here)
        with self._database.reading() as connection:
            return [tuple(row) for row in connection.execute(query.group_by(_answers.c.label, sql.text("week")))]

    def forget(self, project: str, tasks: list[str] | None = None) -> None:
        """Forget the answers about tasks or, without any, about the whole project."""
        here = _answers.c.project == project
        with self._database.writing() as connection:
            chosen = here if tasks is None else here & _answers.c.task.in_(tasks)
            connection.execute(sql.delete(_answers).where(chosen))
