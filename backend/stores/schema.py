"""The layout of the stores' database: which revision it has, and how one of an earlier Maskloom comes to the newest."""

from __future__ import annotations

import logging
from pathlib import Path

import sqlalchemy as sql

from backend.values.errors import StoreError

log = logging.getLogger(__name__)

HEAD = "2"
"""The revision that this Maskloom reads and writes; databases from before the first one have none."""
MIGRATIONS = Path(__file__).parent / "migrations"
FIRST_TABLES = frozenset({"examples", "rounds", "notes", "bulk_runs", "bulk_items", "bulk_pictures"})
"""What a database from before the first revision may have."""

_metadata = sql.MetaData()
_versions = sql.Table("alembic_version", _metadata, sql.Column("version_num", sql.String(32), primary_key=True))


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
