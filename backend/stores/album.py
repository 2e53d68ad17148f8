"""The few pictures that a bulk run keeps for its report: of each kind those with the lowest ranks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sql

from backend.stores.database import Database, all_tables

PICTURES_KEPT = 24

_pictures = sql.Table(
    "bulk_pictures",
    all_tables,
    sql.Column("run", sql.Integer, primary_key=True),
    sql.Column("kind", sql.String(10), primary_key=True),
    sql.Column("key", sql.String(500), primary_key=True),
    sql.Column("rank", sql.Float, nullable=False),
    sql.Column("link", sql.Text, nullable=False),
    sql.Column("caption", sql.Text, nullable=False),
    sql.Column("jpeg", sql.LargeBinary, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A small JPEG of an item with its masks over it."""

    key: str
    rank: float
    link: str
    caption: str
    jpeg: bytes


class Album:
    """Pictures by run and kind."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create(all_tables)

    def offer(self, run: int, kind: str, pictures: Iterable[Picture]) -> None:
        """Keep those of the old and the new pictures that have the lowest ranks; of one item the newest."""
        new = {picture.key: picture for picture in pictures}
        here = sql.and_(_pictures.c.run == run, _pictures.c.kind == kind)
        with self._database.writing() as connection:
            old = {row.key: row.rank for row in connection.execute(sql.select(_pictures.c.key, _pictures.c.rank).where(here))}
            ranks = old | {key: picture.rank for key, picture in new.items()}
            kept = set(sorted(ranks, key=lambda key: (ranks[key], key))[:PICTURES_KEPT])
            gone = [key for key in old if key in new or key not in kept]
            connection.execute(sql.delete(_pictures).where(here, _pictures.c.key.in_(gone)))
            rows = [
                {"run": run, "kind": kind, "key": p.key, "rank": p.rank, "link": p.link, "caption": p.caption, "jpeg": p.jpeg}
                for p in new.values()
                if p.key in kept
            ]
            if rows:
                connection.execute(sql.insert(_pictures), rows)

    def pictures(self, run: int, kind: str) -> list[Picture]:
        """The pictures of a kind, the lowest rank first."""
        columns = (_pictures.c.key, _pictures.c.rank, _pictures.c.link, _pictures.c.caption, _pictures.c.jpeg)
        here = sql.and_(_pictures.c.run == run, _pictures.c.kind == kind)
        query = sql.select(*columns).where(here).order_by(_pictures.c.rank, _pictures.c.key)
        with self._database.reading() as connection:
            return [Picture(*row) for row in connection.execute(query)]
