"""The balance adds up what was accepted, edited, deleted and missed, by label and week, on a real database file."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from backend.stores import answers as answers_module
from backend.stores.answers import Answers, GivenAnswer, Kind
from backend.stores.balance import Balance, week_of, wilson
from backend.stores.curation import Curation
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from backend.values.session import Submission, Verdict
from tests.backend.stores.test_memory import CAT

MONDAY = datetime(2026, 11, 23, tzinfo=UTC).timestamp()
DAY = 86_400.0


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 'store.sqlite'}")


def submit(database: Database, annotation: str, when: float, seconds: float | None, *verdicts: Verdict, **more: Any) -> None:
    ious = {Verdict.ACCEPTED: 1.0, Verdict.CORRECTED: 0.7, Verdict.REJECTED: 0.0}
    facts = {"annotation": annotation, "made_at": when, **more}
    regions = tuple(
        replace(CAT, region=str(row), verdict=verdict, iou=ious.get(verdict), **facts) for row, verdict in enumerate(verdicts)
    )
    MemoryBank(database).submit(Submission("1", "7", annotation, regions, "ann", "e", when, seconds))


def given(task: str, kind: Kind, label: str, when: float, **prediction: Any) -> GivenAnswer:
    return GivenAnswer("a1", "1", task, kind, label, when, {"result": [], "model_version": "e", **prediction})


def test_what_became_of_suggestions_is_added_up_by_label_and_week(database: Database) -> None:
    submit(database, "70", MONDAY, 12.0, Verdict.ACCEPTED, Verdict.CORRECTED, Verdict.MISSED, Verdict.REJECTED)
    submit(database, "71", MONDAY + 6.9 * DAY, 2.0, Verdict.ACCEPTED)
    submit(database, "72", MONDAY + 7 * DAY, None, Verdict.DRAWN)
    submit(database, "73", MONDAY, 3.0, Verdict.REJECTED, label="Dog")
    later, dog, cat = sorted(Balance(database).rows("1"), key=lambda row: (-row.week.toordinal(), row.label != "Dog"))
    assert (later.week, later.drawn, later.suggested, later.accepted_share, later.seconds) == (
        date(2026, 11, 30),
        1,
        0,
        None,
        None,
    )
    assert (dog.label, dog.rejected, dog.iou, dog.seconds) == ("Dog", 1, None, None)
    assert (cat.accepted, cat.corrected, cat.rejected, cat.missed, cat.suggested) == (2, 1, 1, 1, 4)
    assert cat.iou == pytest.approx((1 + 0.7 + 1) / 3)
    assert cat.seconds == pytest.approx((4 + 4 + 4 + 2) / 4), "an annotation's time is shared by what it shows"
    assert cat.accepted_share is not None
    assert cat.accepted_share[0] == 0.5


def test_answers_to_prompts_are_counted_under_their_label(database: Database) -> None:
    answers = Answers(database)
    for when in (MONDAY, MONDAY + DAY, MONDAY + 8 * DAY):
        answers.keep(given("7", Kind.INTERACTION, "Cat", when))
    answers.keep(given("7", Kind.PREANNOTATION, "", MONDAY))
    assert [(row.week.day, row.label, row.prompts) for row in Balance(database).rows("1")] == [(30, "Cat", 1), (23, "Cat", 2)]
    assert Balance(database).rows("2") == []


def test_damaged_suggestions_are_counted_as_the_annotation_stands_and_nowhere_else(database: Database) -> None:
    bank, told = MemoryBank(database), Submission("1", "7", "70", (), "ann", "e", MONDAY, None)
    for noticed in ((("Cat", False), ("Cat", True), ("Dog", True)), (("Cat", True), ("Dog", True))):
        bank.submit(replace(told, noticed=noticed))
    rows = Balance(database).rows("1")
    assert [(row.label, row.noticed, row.overlooked, row.suggested) for row in rows] == [("Cat", 1, 0, 0), ("Dog", 1, 0, 0)]
    assert Balance(database).rows("2") == []
    Curation(database).switch_off("1")
    assert Balance(database).rows("1") == []


def test_the_interval_of_a_share_is_the_one_of_the_literature() -> None:
    """Brown, Cai and DasGupta 2001: 15 of 50."""
    low, high = wilson(15, 50)
    assert (round(low, 4), round(high, 4)) == (0.1910, 0.4375)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0


def test_a_week_begins_on_monday() -> None:
    assert week_of(MONDAY) == week_of(MONDAY + 7 * DAY - 1) == date(2026, 11, 23)
    assert week_of(MONDAY - 1) == date(2026, 11, 16)


def test_what_pre_annotations_said_is_known_the_newest_first_and_only_of_so_many(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "MOST_WITH_CONTENT", 3)
    monkeypatch.setattr(answers_module, "LARGEST_CONTENT", 200)
    answers = Answers(database)
    for row in range(5):
        answers.keep(given("7", Kind.PREANNOTATION, "", MONDAY, row=row))
    assert [each["row"] for each in answers.about("1", "7")] == [4, 3, 2]
    answers.keep(given("8", Kind.PREANNOTATION, "", MONDAY, noise=[hash(str(k)) for k in range(500)]))
    assert answers.about("1", "8") == [], "too large to be kept"
    assert [each["row"] for each in answers.about("1", "7")] == [4, 3]
    answers.forget("1", ["7"])
    assert answers.about("1", "7") == []
