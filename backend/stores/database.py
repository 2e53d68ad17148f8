"""The database of the stores: short transactions that wait a stated time, the layout and how an older one is brought up to it,
and a file that is damaged or gone is begun anew."""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import make_url

from backend.values.errors import SetupError, StoreError

log = logging.getLogger(__name__)
HEAD = "4"
"""The revision that this Maskloom reads and writes; databases from before the first one have none."""
MIGRATIONS = Path(__file__).parent / "migrations"
FIRST_TABLES = frozenset({"examples", "rounds", "notes", "bulk_runs", "bulk_items", "bulk_pictures"})
"""What a database from before the first revision may have."""
all_tables = sql.MetaData()
"""The tables of every store that is imported: one transaction makes them all."""
_metadata = sql.MetaData()
_versions = sql.Table("alembic_version", _metadata, sql.Column("version_num", sql.String(32), primary_key=True))
CLICK_WAIT_S = 0.5
"""How long a click waits for a database that somebody else holds; then it is answered without memory."""
PATIENT_WAIT_S = 30.0
"""How long everything else waits."""
_DAMAGED = ("malformed", "not a database", "disk i/o error", "file is encrypted")
_INCOMPLETE = ("no such table", "no such column", "has no column named", "unable to open")
_FILES = ("", "-wal", "-shm", "-journal")
"""What SQLite writes for one database, by what is added to its name."""


def is_newest(connection: sql.Connection) -> bool:
    """Whether a database needs nothing done to its layout."""
    return _versions.name in sql.inspect(connection).get_table_names() and _revision(connection) == HEAD


def bring_up_to_date(connection: sql.Connection) -> None:
    """Migrate an older database within the transaction of ``connection``; an empty one is marked as the newest, as its tables
    are made like that. Raises StoreError for one that a newer Maskloom has written.
    """
    if is_newest(connection):
        return
    if FIRST_TABLES.isdisjoint(sql.inspect(connection).get_table_names()):
        _metadata.create_all(connection)
        connection.execute(sql.delete(_versions))
        connection.execute(sql.insert(_versions), {"version_num": HEAD})
        return
    _migrate(connection)


def _revision(connection: sql.Connection) -> str | None:
    return connection.execute(sql.select(_versions.c.version_num)).scalar()


def _migrate(connection: sql.Connection) -> None:
    from alembic import command  # takes a while to import, and almost no start needs it
    from alembic.config import Config
    from alembic.util import CommandError

    log.info("the database of the stores is brought to revision %s", HEAD)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, HEAD)
    except CommandError as error:
        raise StoreError(
            f"the database of the stores is of another Maskloom ({error}); use the newest one, or choose another database with "
            "MASKLOOM_DATABASE"
        ) from error


class Database:
    """A database by SQLAlchemy URL, for many threads and processes; the folder of a SQLite file is made.

    SQLite writes ahead (``journal_mode=WAL``), so that nobody who reads waits for somebody who writes; of this process one
    thread writes at a time. A connection lives for one transaction, so that a deleted or replaced file is noticed at once.

    A SQLite file that turns out to be damaged is put aside under another name, and tables that are missing are made: the
    transaction that found it fails with StoreError, the next one goes on. Raises SetupError for a URL that cannot be used.
    """

    def __init__(self, url: str, wait_s: float = PATIENT_WAIT_S) -> None:
        self._wait_s = wait_s
        self._tables: list[sql.MetaData] = []
        self._made: set[str] = set()
        self._one_writes = threading.Lock()
        self._mending = threading.Lock()
        self._file: Path | None = None
        self._is_aside = False
        try:
            parsed = make_url(url)
            if parsed.get_backend_name() == "sqlite":
                self._engine = self._open_sqlite(parsed)
            else:
                self._engine = _reach_server(parsed, wait_s)
        except (sql.exc.ArgumentError, ImportError, OSError) as error:
            raise SetupError(
                f"the database {_shown(url)} cannot be used: {error}; see MASKLOOM_DATABASE and MASKLOOM_HOME"
            ) from error

    def close(self) -> None:
        """Give back the connections to a server; a file has none between transactions."""
        self._engine.dispose()

    def create(self, tables: sql.MetaData) -> None:
        """Make tables unless they are there, which is looked up once, and bring those of an earlier Maskloom up to date. A file
        that is held by somebody else gets them later, when they are missed. Raises SetupError for a file that is damaged, which
        has been put aside, and for a server that does not answer: who starts is told, and does not find out later what is gone.
        """
        if self._made.issuperset(tables.tables):
            return
        self._tables.append(tables)
        are_there = False
        try:
            are_there = self._has(tables)
        except StoreError as error:
            if self._is_aside:
                raise SetupError(f"{error}: put a copy of it back, or start again to go on without what it held") from error
            if self._file is None or "unable to open" in str(error):
                raise SetupError(f"{error}; see MASKLOOM_DATABASE and MASKLOOM_HOME") from error
        self._made.update(tables.tables)
        if not are_there:
            try:
                with self.writing() as connection:
                    bring_up_to_date(connection)
                    tables.create_all(connection)
            except StoreError as error:
                log.warning("the tables of the stores cannot be made yet: %s", error)

    @contextmanager
    def reading(self) -> Iterator[sql.Connection]:
        """A connection that only reads and commits nothing, which SQLite now and then refuses. Raises StoreError."""
        with self._explaining(), self._engine.connect() if self._file is not None else self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sql.Connection]:
        """A transaction that is kept when the block ends well; nobody else writes meanwhile. Raises StoreError."""
        if not self._one_writes.acquire(timeout=self._wait_s):
            raise StoreError(f"the database was busy for {self._wait_s:g} s")
        try:
            with self._explaining(), self._engine.execution_options(begin="BEGIN IMMEDIATE").begin() as connection:
                yield connection
        finally:
            self._one_writes.release()

    def _has(self, tables: sql.MetaData) -> bool:
        """Whether all tables are there as they are now, which can be told while somebody else writes."""
        with self.reading() as connection:
            known = sql.inspect(connection).get_table_names()
            return set(tables.tables) <= set(known) and is_newest(connection)

    def _open_sqlite(self, url: sql.URL) -> sql.Engine:
        name = url.database
        if not name or name == ":memory:":
            return sql.create_engine(url, poolclass=sql.StaticPool, connect_args={"check_same_thread": False})
        self._file = Path(name)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        engine = sql.create_engine(url, poolclass=sql.NullPool, connect_args={"timeout": self._wait_s})
        sql.event.listen(engine, "connect", _prepare)
        sql.event.listen(engine, "begin", _begin)
        return engine

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Errors of the database in our words, after what can be mended was mended."""
        try:
            yield
        except sql.exc.DBAPIError as error:
            raise StoreError(self._mended(error)) from error
        except sql.exc.SQLAlchemyError as error:
            raise StoreError(f"the database cannot be used: {error}") from error
        except (UnicodeError, OverflowError) as error:  # half a character, a number of more than 64 bits
            raise StoreError(f"the database cannot hold what was said: {error}") from error

    def _mended(self, error: sql.exc.DBAPIError) -> str:
        """What happened, in a sentence."""
        said = str(error.orig)
        if "locked" in said:
            return f"somebody else holds the database {self._file or ''} for longer than {self._wait_s:g} s"
        if self._file is not None:
            with self._mending:
                if any(word in said.lower() for word in _DAMAGED) and _is_damaged(self._file):
                    self._is_aside = True
                    return _put_aside(self._file)
                if any(word in said for word in _INCOMPLETE):
                    failed = self._make_tables(self._file)
                    done = f"its tables cannot be made: {failed}" if failed else "has been made anew"
                    return f"the database {self._file} was gone or old ({said}) and {done}"
        return f"the database cannot be used: {said}"

    def _make_tables(self, file: Path) -> str:
        """Why that failed; empty when the tables are there."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with self._engine.execution_options(begin="BEGIN IMMEDIATE").begin() as connection:
                bring_up_to_date(connection)
                for tables in self._tables:
                    tables.create_all(connection)
        except (sql.exc.SQLAlchemyError, StoreError, OSError) as error:
            reason = str(getattr(error, "orig", error))
            log.warning("the tables of the stores cannot be made: %s", reason)
            return reason
        return ""


def _reach_server(url: sql.URL, wait_s: float) -> sql.Engine:
    """The database of a server, which is waited for no longer than for a lock, as far as its driver knows of that."""
    options = {"connect_timeout": max(2, round(wait_s))} if url.get_backend_name() == "postgresql" else {}
    return sql.create_engine(url, pool_pre_ping=True, pool_timeout=wait_s, connect_args=options)


def _prepare(connection: Any, _record: Any) -> None:
    """A new connection of SQLite: transactions begin where we say, readers and writers pass each other."""
    connection.isolation_level = None
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.OperationalError:  # somebody holds it: what it was set to before stays
        pass
    try:
        connection.execute("SELECT floor(1.5)")
    except sqlite3.OperationalError:  # a SQLite that was built without mathematics
        connection.create_function("floor", 1, math.floor, deterministic=True)


def _begin(connection: sql.Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _is_damaged(file: Path) -> bool:
    try:
        with closing(sqlite3.connect(file)) as connection:
            return connection.execute("PRAGMA quick_check(1)").fetchall() != [("ok",)]
    except sqlite3.OperationalError:
        return False
    except sqlite3.DatabaseError:
        return True


def _put_aside(file: Path) -> str:
    """Move a damaged file out of the way; what was done, in a sentence."""
    aside = file.with_name(f"{file.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        for ending in _FILES:
            part = file.with_name(file.name + ending)
            if part.exists():
                part.rename(aside.with_name(aside.name + ending))
    except OSError as error:
        return f"the database {file} is damaged and cannot be put aside ({error}); move it away"
    said = f"the database {file} was damaged; it has been put aside as {aside.name}, and a new one is begun"
    log.warning("%s", said)
    return said


def _shown(url: str) -> str:
    """A URL without its password."""
    try:
        return make_url(url).render_as_string()
    except sql.exc.ArgumentError:
        return "of MASKLOOM_DATABASE"
