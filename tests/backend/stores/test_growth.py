"""What is written with a click costs no more the more there is: steps of SQLite are counted, which no load changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from backend.stores import answers as answers_module
from backend.stores.answers import Answers, GivenAnswer, Kind
from backend.stores.database import Database
from backend.stores.memory import MemoryBank, examples
from backend.stores.rows import row_of
from backend.values.masks import RunLengths
from backend.values.session import Example, Submission
from tests.backend.pictures import disc

CAT = Example("1", "7", "70", "r", "/a.png", "Cat", RunLengths.of(disc(40, 60, 30, 20, 12)))
FEW, MANY, TOLERANCE = 50, 2_000, 100


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 'store.sqlite'}")


@contextmanager
def counted_steps() -> Iterator[list[int]]:
    """Counts the steps of all statements meanwhile."""
    steps = [0]

    def step() -> None:
        steps[0] += 1

    def listen(connection: Any, *_: Any) -> None:
        connection.connection.dbapi_connection.set_progress_handler(step, 1)

    sql.event.listen(sql.Engine, "before_cursor_execute", listen)
    try:
        yield steps
    finally:
        sql.event.remove(sql.Engine, "before_cursor_execute", listen)


def test_an_answer_is_kept_as_quickly_after_many(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "MOST_WITH_CONTENT", 10)
    monkeypatch.setattr(answers_module, "PASSED_OVER", 10)
    answers = Answers(database)
    given = GivenAnswer("a", "1", "7", Kind.INTERACTION, "Cat", 0.0, {"result": [], "model_version": "colour-1"})

    def steps_after(number: int) -> int:
        row = {"answer": "a", "project": "1", "task": "8", "kind": "interaction", "label": "", "engine": "", "made_at": 0.0}
        with database.writing() as connection:
            connection.execute(sql.insert(answers_module._answers), [row] * number)
        with counted_steps() as steps:
            answers.keep(given)
        return steps[0]

    few = steps_after(FEW)
    assert steps_after(MANY) <= few + TOLERANCE


def test_an_annotation_is_remembered_as_quickly_after_many(database: Database) -> None:
    bank = MemoryBank(database)

    def steps_after(number: int, annotation: str) -> int:
        with database.writing() as connection:
            connection.execute(sql.insert(examples), [row_of(replace(CAT, annotation="other"))] * number)
        shown = (replace(CAT, annotation=annotation),)
        with counted_steps() as steps:
            bank.submit(Submission("1", "7", annotation, shown))
        return steps[0]

    few = steps_after(FEW, "70")
    assert steps_after(MANY, "71") <= few + TOLERANCE
