"""No round is lost and no click waits while somebody else holds the database; on real database files."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from backend.assemble import Parts
from backend.serving import history
from backend.serving.history import LateWrites
from backend.stores.database import CLICK_WAIT_S
from backend.values.errors import StoreError
from tests.backend.annotator import Annotator, click


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Another program writes to the database of the stores all the while."""
    (file,) = (folder / "home").glob("*.sqlite")
    stranger = sqlite3.connect(file, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    yield
    stranger.execute("ROLLBACK")
    stranger.close()


def rounds(folder: Path) -> int:
    (file,) = (folder / "home").glob("*.sqlite")
    with sqlite3.connect(file) as connection:
        return int(connection.execute("SELECT count(*) FROM rounds").fetchone()[0])


def test_rounds_that_find_the_database_busy_are_written_when_it_is_free_and_the_second_click_does_not_wait(
    client: TestClient, parts: Parts, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PAUSES_S", (0.05,) * 400)
    annotator = Annotator(client, folder / "a.png", 1)
    with held(folder):
        assert annotator.ask(click(35, 45))
        began = time.monotonic()
        assert annotator.ask(click(35, 45), click(40, 45))
        took = time.monotonic() - began
        assert rounds(folder) == 0
    parts.late.wait()
    assert rounds(folder) == 2
    assert took < CLICK_WAIT_S


def test_late_writes_happen_in_the_order_in_which_they_were_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "PAUSES_S", (0.01,) * 400)
    is_free, written, late = threading.Event(), list[int](), LateWrites()

    def write(number: int) -> None:
        if not is_free.is_set():
            raise StoreError("somebody else holds the database")
        written.append(number)

    for number in range(5):
        late.write(f"round {number}", lambda number=number: write(number))  # type: ignore[misc]
    is_free.set()
    late.write("round 5", lambda: write(5))
    late.wait()
    assert written == [0, 1, 2, 3, 4, 5]


def test_a_database_that_stays_away_costs_the_round_and_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(history, "PAUSES_S", (0.01, 0.01))

    def write() -> None:
        raise StoreError("somebody else holds the database")

    late = LateWrites()
    late.write("a round about task 7", write)
    late.wait()
    assert "a round about task 7 is not remembered: somebody else holds the database" in caplog.text
