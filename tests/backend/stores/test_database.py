"""The database of the stores: somebody else's lock costs a stated time, and a damaged or deleted file is begun anew."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sql

from backend.stores import database as schema
from backend.stores.database import Database
from backend.values.errors import SetupError, StoreError

TABLES = sql.MetaData()
NUMBERS = sql.Table("numbers", TABLES, sql.Column("n", sql.Integer, primary_key=True))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "store.sqlite"


def open_at(file: Path, wait_s: float = 0.2) -> Database:
    database = Database(f"sqlite:///{file}", wait_s)
    database.create(TABLES)
    return database


def add(database: Database, number: int) -> None:
    with database.writing() as connection:
        connection.execute(sql.insert(NUMBERS), {"n": number})


def numbers(database: Database) -> list[int]:
    with database.reading() as connection:
        return list(connection.scalars(sql.select(NUMBERS.c.n).order_by(NUMBERS.c.n)))


@pytest.fixture
def stranger(file: Path) -> Iterator[sqlite3.Connection]:
    """Another process that holds the database for writing."""
    open_at(file)
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def test_who_reads_does_not_wait_for_who_writes(file: Path, stranger: sqlite3.Connection) -> None:
    database = Database(f"sqlite:///{file}", 5)
    started = time.monotonic()
    assert numbers(database) == []
    assert time.monotonic() - started < 2


def test_who_writes_waits_no_longer_than_was_said_and_for_no_longer_than_needed(
    file: Path, stranger: sqlite3.Connection
) -> None:
    database = Database(f"sqlite:///{file}", 0.3)
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"somebody else holds the database .*store.sqlite for longer than 0.3 s"):
        add(database, 1)
    assert time.monotonic() - started < 3
    stranger.execute("ROLLBACK")
    add(database, 1)
    assert numbers(database) == [1]


def test_who_only_reads_commits_nothing(file: Path) -> None:
    """SQLite refuses a commit now and then, for statements in progress, which cost a click what annotations had taught."""
    database = open_at(file)
    add(database, 1)
    with database.reading() as connection:
        connection.execute(sql.insert(NUMBERS), {"n": 2})
    assert numbers(database) == [1]


def test_a_block_that_fails_leaves_nothing(file: Path) -> None:
    database = open_at(file)

    def fail() -> None:
        with database.writing() as connection:
            connection.execute(sql.insert(NUMBERS), {"n": 1})
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert numbers(database) == []


@pytest.mark.slow
def test_threads_that_read_and_then_write_lose_nothing(file: Path) -> None:
    """A transaction that begins with reading is refused at once where another one has written since, whatever it may wait."""
    database = open_at(file, wait_s=30)

    def count() -> None:
        for _ in range(20):
            with database.writing() as connection:
                newest = connection.execute(sql.select(sql.func.max(NUMBERS.c.n))).scalar() or 0
                connection.execute(sql.insert(NUMBERS), {"n": newest + 1})

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(database) == list(range(1, 161))


def rubbish(file: Path) -> None:
    file.write_bytes(os.urandom(8192))


def halved(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("damage", [rubbish, halved])
def test_a_damaged_file_is_put_aside_and_a_new_one_begun(
    file: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    database = open_at(file)
    with database.writing() as connection:
        connection.execute(sql.insert(NUMBERS), [{"n": number} for number in range(5000)])
    damage(file)
    with pytest.raises(StoreError, match=r"was damaged; it has been put aside as store\.sqlite\.damaged-"):
        numbers(database)
    with pytest.raises(StoreError, match="made anew"):
        add(database, 1)
    add(database, 1)
    assert numbers(database) == [1]
    assert len(list(file.parent.glob("store.sqlite.damaged-*"))) == 1
    assert caplog.text.count("put aside") == 1


@pytest.mark.parametrize("content", [os.urandom(5000), b"hello" * 200, b"SQLite format 3\0" + bytes(50)])
def test_who_starts_on_a_damaged_file_is_told_and_goes_on_with_a_new_one_the_next_time(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(SetupError, match=r"store\.sqlite was damaged; it has been put aside .* start again"):
        open_at(file)
    assert numbers(open_at(file)) == []
    (aside,) = file.parent.glob("store.sqlite.damaged-*")
    assert aside.read_bytes() == content


def test_a_file_that_was_deleted_is_made_anew(file: Path) -> None:
    database = open_at(file)
    add(database, 1)
    file.unlink()
    with pytest.raises(StoreError, match="made anew"):
        add(database, 2)
    add(database, 2)
    assert numbers(database) == [2]


def test_a_folder_that_was_deleted_costs_what_was_kept_and_comes_back(file: Path) -> None:
    database = open_at(file)
    file.unlink()
    file.parent.rmdir()
    with pytest.raises(StoreError, match="was gone"):
        add(database, 1)
    add(database, 1)
    assert numbers(database) == [1]


def test_tables_that_cannot_be_made_are_not_said_to_be(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = open_at(file)
    file.unlink()

    def refuse(_: object) -> None:
        raise OSError("Read-only file system")

    monkeypatch.setattr(schema, "bring_up_to_date", refuse)
    with pytest.raises(StoreError, match=r"was gone or old .* its tables cannot be made: Read-only file system"):
        add(database, 1)


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="unable to open database file; see MASKLOOM_DATABASE"):
        Database(f"sqlite:///{tmp_path}").create(TABLES)


def test_a_process_may_start_while_another_one_holds_the_database(file: Path, stranger: sqlite3.Connection) -> None:
    database = open_at(file, wait_s=0.1)
    stranger.execute("ROLLBACK")
    add(database, 1)
    assert numbers(database) == [1]


def test_tables_that_are_there_are_not_waited_for(file: Path, stranger: sqlite3.Connection) -> None:
    """A command on a database that somebody writes to waited for half a minute at each of its stores before it said so."""
    started = time.monotonic()
    assert numbers(open_at(file, wait_s=20)) == []
    assert time.monotonic() - started < 10


def test_without_a_file_there_is_one_database_for_all_threads() -> None:
    database = Database("sqlite://")
    database.create(TABLES)
    thread = threading.Thread(target=add, args=(database, 1))
    thread.start()
    thread.join()
    assert numbers(database) == [1]


def test_a_server_that_does_not_answer_ends_the_start_with_a_sentence() -> None:
    pytest.importorskip("psycopg")
    database = Database("postgresql+psycopg://user:secret@127.0.0.1:9/db", 0.5)
    with pytest.raises(SetupError, match="MASKLOOM_DATABASE") as refused:
        database.create(TABLES)
    assert "secret" not in str(refused.value)


WORDS = sql.Table("words", sql.MetaData(), sql.Column("said", sql.Text), sql.Column("number", sql.Integer))


@pytest.mark.parametrize("row", [{"said": "half \ud83d"}, {"number": 10**30}])
def test_what_no_database_can_hold_is_an_error_of_the_store(file: Path, row: dict[str, object]) -> None:
    database = open_at(file)
    database.create(WORDS.metadata)

    def write() -> None:
        with database.writing() as connection:
            connection.execute(sql.insert(WORDS), row)

    with pytest.raises(StoreError, match="cannot hold what was said"):
        write()
    add(database, 1)
    assert numbers(database) == [1]


@pytest.mark.parametrize("url", ["nonsense", "nosuch://host/db", "sqlite:////proc/nothing/deep/store.sqlite"])
def test_a_url_that_cannot_be_used_is_a_sentence_without_its_password(url: str) -> None:
    with pytest.raises(SetupError, match="MASKLOOM_DATABASE"):
        Database(url)
    with pytest.raises(SetupError) as refused:
        Database("nosuch://user:secret@host/db")
    assert "secret" not in str(refused.value)
