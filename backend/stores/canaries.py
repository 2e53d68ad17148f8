"""What became of suggestions that were damaged on purpose, by annotation: who looks notices them."""

from __future__ import annotations

import sqlalchemy as sql

from backend.stores.database import all_tables
from backend.values.session import Submission

canaries = sql.Table(
    "canaries",
    all_tables,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("project", sql.String(300), nullable=False),
    sql.Column("annotation", sql.String(50), nullable=False),
    sql.Column("label", sql.String(300), nullable=False),
    sql.Column("made_at", sql.Float, nullable=False),
    sql.Column("was_noticed", sql.Boolean, nullable=False),
    sql.Index("canaries_by_annotation", "project", "annotation"),
)


def note_canaries(connection: sql.Connection, told: Submission) -> None:
    """Keep what an annotation says about them in place of what it said before."""
    here = (canaries.c.project == told.project) & (canaries.c.annotation == told.annotation)
    connection.execute(sql.delete(canaries).where(here))
    facts = {"project": told.project, "annotation": told.annotation, "made_at": told.made_at}
    rows = [{**facts, "label": label[:300], "was_noticed": noticed} for label, noticed in told.noticed]
    if rows:
        connection.execute(sql.insert(canaries), rows)
