"""People pin and remove regions, opt out, and take copies of a memory; on a real database file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.stores.answers import Answers
from backend.stores.curation import Curation
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from backend.stores.projects import ProjectTable
from backend.stores.rows import PINNED, REMOVED
from backend.stores.snapshots import Snapshots
from backend.values.errors import RequestError
from backend.values.session import Verdict
from prompts.phrases import Vocabulary
from tests.backend.stores.test_balance import Kind, given
from tests.backend.stores.test_memory import CAT, regions, told

OTHER, HEAD, BROKEN = '{"format": "other"}', '{"format": "maskloom memory 1"}', '{"annotation": 5}'


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path / 'store.sqlite'}")
    bank = MemoryBank(database)
    for number in range(4):
        bank.submit(told(str(number), number + 1.0, replace(CAT, region=f"r{number}")))
    bank.submit(told("9", 9.0, replace(CAT, region="no", verdict=Verdict.REJECTED)))
    return database


def test_a_pinned_region_is_used_first_and_a_removed_one_never(database: Database) -> None:
    curation, bank = Curation(database), MemoryBank(database)
    numbers = {each.example.region: each.id for each in curation.regions("1", "Cat", 0, 9)}
    before = bank.changes("1", ["Cat"])["Cat"]
    curation.mark("1", numbers["r0"], PINNED)
    curation.mark("1", numbers["r2"], REMOVED)
    assert regions(bank.recall("1", "Cat", 9)) == ["r0", "r3", "r1"]
    assert bank.changes("1", ["Cat"])["Cat"] > before
    assert [each.example.region for each in curation.regions("1", "Cat", 0, 9)] == ["r0", "r3", "r1", "no", "r2"]
    assert [each.example.region for each in curation.regions("1", "Cat", 1, 2)] == ["r3", "r1"]
    assert curation.counts("1") == {"Cat": {"drawn": 3, "rejected": 1, "removed": 1}}


def test_a_removed_region_stays_removed_when_its_annotation_is_submitted_again(database: Database) -> None:
    curation, bank = Curation(database), MemoryBank(database)
    first = next(each for each in curation.regions("1", "Cat", 0, 9) if each.example.region == "r2")
    curation.mark("1", first.id, REMOVED)
    bank.submit(told("2", 20.0, replace(CAT, region="r2")))
    assert "r2" not in regions(bank.recall("1", "Cat", 9))


def test_a_version_is_not_changed_by_what_is_pinned_or_removed_later(database: Database) -> None:
    curation, bank = Curation(database), MemoryBank(database)
    Snapshots(database).freeze("1")
    before = regions(bank.recall("1", "Cat", 9, snapshot=1))
    for each, mark in zip(curation.regions("1", "Cat", 0, 9), (REMOVED, PINNED, PINNED), strict=False):
        curation.mark("1", each.id, mark)
    assert regions(bank.recall("1", "Cat", 9, snapshot=1)) == before


def test_a_project_that_opts_out_is_forgotten_and_not_remembered_until_it_opts_in(database: Database) -> None:
    curation, bank = Curation(database), MemoryBank(database)
    Snapshots(database).freeze("1")
    Answers(database).keep(given("7", Kind.PREANNOTATION, "", 1.0))
    bank.submit(replace(told("70", 1.0, replace(CAT, project="2")), project="2"))
    table, words = ProjectTable(database), Vocabulary.from_names(["Cat"])
    table.put_vocabulary("1", words)
    curation.switch_off("1")
    table.put_vocabulary("1", words)
    assert not len(table.vocabulary("1"))
    assert curation.is_off("1")
    assert not bank.submit(told("50", 50.0, CAT))
    assert (bank.recall("1", "Cat", 9), bank.recall("1", "Cat", 9, snapshot=1), Snapshots(database).all("1")) == ([], [], [])
    assert Answers(database).about("1", "7") == []
    assert curation.projects() == {"1": 0, "2": 1}
    curation.switch_on("1")
    assert bank.submit(told("50", 50.0, CAT))


def test_a_copy_of_a_memory_makes_the_same_memory_elsewhere(database: Database, tmp_path: Path) -> None:
    pinned = Curation(database).regions("1", "Cat", 2, 1)[0]
    Curation(database).mark("1", pinned.id, PINNED)
    lines = list(Curation(database).export("1"))
    elsewhere = Database(f"sqlite:///{tmp_path / 'other.sqlite'}")
    assert Curation(elsewhere).read_export("5", lines) == 5
    mine, copied = (MemoryBank(where).recall(project, "Cat", 9) for where, project in ((database, "1"), (elsewhere, "5")))
    assert regions(mine) == regions(copied)
    assert all(np.array_equal(one.mask, other.mask) for one, other in zip(mine, copied, strict=True))
    assert [replace(each, project="1", runs=CAT.runs).made_at for each in copied] == [each.made_at for each in mine]
    assert Curation(elsewhere).read_export("5", lines) == 5, "twice is once"
    assert len(MemoryBank(elsewhere).recall("5", "Cat", 9)) == 4


@pytest.mark.parametrize(
    "lines", [[], ["[]"], ["{"], ['{"format": "other"}'], ['{"format": "maskloom memory 1"}', '{"annotation": 5}']]
)
def test_a_file_that_is_no_copy_is_refused(database: Database, lines: list[str]) -> None:
    with pytest.raises(RequestError, match="no file of `maskloom memory export`"):
        Curation(database).read_export("1", lines)


def test_a_region_that_is_gone_cannot_be_marked(database: Database) -> None:
    with pytest.raises(RequestError, match="not remembered any more"):
        Curation(database).mark("2", 1, PINNED)
