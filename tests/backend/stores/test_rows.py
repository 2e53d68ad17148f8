"""Examples that were read a while ago are not read again, and are never those of another row."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.stores import rows
from backend.stores.curation import Curation
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from backend.values.masks import RunLengths
from tests.backend.pictures import disc
from tests.backend.stores.test_memory import CAT, regions


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def bank(file: Path) -> MemoryBank:
    return MemoryBank(Database(f"sqlite:///{file}"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The regions whose rows were read."""
    names: list[str] = []
    plain = rows.example_of
    monkeypatch.setattr(rows, "example_of", lambda row: names.append(row.region) or plain(row))
    return names


def test_one_more_example_is_all_that_is_read(bank: MemoryBank, read: list[str]) -> None:
    """Each may hold its image in its address: all of a label were read with every submission."""
    for number in range(20):
        bank.replace("1", f"{number}", [replace(CAT, region=f"r{number}", annotation=f"{number}")])
        assert len(bank.recall("1", "Cat", 64)) == number + 1
    assert read == [f"r{number}" for number in range(20)]


def test_an_example_that_takes_the_number_of_a_deleted_one_is_another(bank: MemoryBank, file: Path) -> None:
    """SQLite gives the number of a row that was the last one again."""
    bank.replace("1", "70", [CAT])
    assert [each.image_url for each in bank.recall("1", "Cat", 5)] == ["/a.png"]
    other = replace(CAT, image_url="/b.png", runs=RunLengths.of(disc(40, 60, 10, 10, 5)))
    MemoryBank(Database(f"sqlite:///{file}")).replace("1", "70", [other])
    (found,) = bank.recall("1", "Cat", 5)
    with sqlite3.connect(file) as connection:
        assert [number for (number,) in connection.execute("SELECT id FROM examples")] == [1], "the same number"
    assert found.image_url == "/b.png"
    assert np.array_equal(found.mask, other.mask)


def test_whether_an_example_is_pinned_is_as_it_is_now(bank: MemoryBank, file: Path, read: list[str]) -> None:
    bank.replace("1", "70", [CAT, replace(CAT, region="newer")])
    curation = Curation(Database(f"sqlite:///{file}"))
    assert regions(bank.recall("1", "Cat", 5)) == ["newer", "r"]
    curation.mark("1", 1, rows.PINNED)
    assert [(each.region, each.is_pinned) for each in bank.recall("1", "Cat", 5)] == [("r", True), ("newer", False)]
    curation.mark("1", 1, "")
    assert [(each.region, each.is_pinned) for each in bank.recall("1", "Cat", 5)] == [("newer", False), ("r", False)]
    assert sorted(read) == ["newer", "r"]


def test_rows_of_a_database_from_before_stamps_are_read_each_time(bank: MemoryBank, file: Path, read: list[str]) -> None:
    bank.replace("1", "70", [CAT, replace(CAT, region="other")])
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE examples SET stamp = 0")
    for _ in range(2):
        assert regions(bank.recall("1", "Cat", 5)) == ["other", "r"]
    assert sorted(read) == ["other", "other", "r", "r"]


def test_what_is_known_takes_so_much_at_most(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch, read: list[str]) -> None:
    large = [replace(CAT, region=f"r{number}", image_url="data:," + "a" * 1000) for number in range(10)]
    bank.replace("1", "70", large)
    monkeypatch.setattr(rows, "MOST_KNOWN_BYTES", 3 * rows.nbytes_of(large[0]))
    assert len(bank.recall("1", "Cat", 10)) == 10
    read.clear()
    assert len(bank.recall("1", "Cat", 10)) == 10
    assert len(read) == 7
