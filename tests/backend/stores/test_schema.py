"""Databases of earlier Maskloom versions are brought to the layout of a new one, with what they hold."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sql
from alembic.config import Config
from alembic.script import ScriptDirectory
from pycocotools import mask as coco

from backend.stores import database as schema
from backend.stores.album import Album
from backend.stores.database import Database, all_tables
from backend.stores.ledger import Ledger
from backend.stores.memory import MemoryBank
from backend.stores.sessions import SessionStore
from backend.values.session import Verdict
from tests.backend.pictures import disc

BEFORE_THE_FIRST_REVISION = """
CREATE TABLE examples (id INTEGER NOT NULL, project VARCHAR(50) NOT NULL, task VARCHAR(50) NOT NULL,
    annotation VARCHAR(50) NOT NULL, region VARCHAR(50) NOT NULL, image_url TEXT NOT NULL, label VARCHAR(300),
    made_at FLOAT NOT NULL, height INTEGER NOT NULL, width INTEGER NOT NULL, runs BLOB NOT NULL, PRIMARY KEY (id));
CREATE INDEX examples_by_annotation ON examples (project, annotation);
CREATE INDEX examples_by_label ON examples (project, label);
"""
"""As Maskloom 0.2 made it."""
MASK = disc(40, 60, 30, 20, 12)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    file = tmp_path / "store.sqlite"
    with sqlite3.connect(file) as connection:
        connection.executescript(BEFORE_THE_FIRST_REVISION)
        runs = coco.encode(np.asfortranarray(MASK, np.uint8))["counts"]
        row = ("1", "7", "70", "r", "/a.png", "Cat", 5.0, 40, 60, runs)
        connection.execute(
            "INSERT INTO examples (project, task, annotation, region, image_url, label, made_at, height, width, runs) "
            "VALUES (?,?,?,?,?,?,?,?,?,?)",
            row,
        )
    connection.close()
    return file


def layout(database: Database) -> dict[str, object]:
    """Columns and indexes of every table."""
    with database.reading() as connection:
        inspector = sql.inspect(connection)
        return {
            table: (
                sorted((column["name"], column["nullable"]) for column in inspector.get_columns(table)),
                sorted((str(index["name"]), tuple(index["column_names"])) for index in inspector.get_indexes(table)),
            )
            for table in inspector.get_table_names()
        }


def all_stores(database: Database) -> Database:
    for store in (Ledger, Album, MemoryBank):
        store(database)
    SessionStore(database, 1)
    return database


def test_examples_of_an_earlier_maskloom_come_along(old: Path) -> None:
    (found,) = MemoryBank(Database(f"sqlite:///{old}")).recall("1", "Cat", 5)
    assert np.array_equal(found.mask, MASK)
    assert (found.task, found.annotation, found.verdict, found.made_at) == ("7", "70", Verdict.DRAWN, 5.0)


def test_a_migrated_database_is_laid_out_as_a_new_one(old: Path, tmp_path: Path) -> None:
    migrated, new = (all_stores(Database(f"sqlite:///{file}")) for file in (old, tmp_path / "new.sqlite"))
    assert layout(migrated) == layout(new)


def test_one_transaction_makes_the_tables_of_all_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each store once made its own: a server began with forty transactions, each with a wait for the disk."""
    begun: list[str] = []
    for name in ("reading", "writing"):
        begin = getattr(Database, name)
        monkeypatch.setattr(Database, name, lambda self, name=name, begin=begin: begun.append(name) or begin(self))
    all_stores(Database(f"sqlite:///{tmp_path / 'new.sqlite'}"))
    assert begun == ["reading", "writing"]


def test_the_newest_revision_is_the_one_that_new_databases_are_marked_with() -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD


def test_a_database_of_a_newer_maskloom_is_left_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    database = Database(url)
    database.create(all_tables)
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'from the future'")
    before = layout(database)
    MemoryBank(Database(url))
    assert layout(database) == before
    assert "is of another Maskloom" in caplog.text
