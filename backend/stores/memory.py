"""The memory bank: accepted regions of a project by label, and the examples that people showed in it."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import numpy as np
import sqlalchemy as sql
from pycocotools import mask as coco

from backend.stores.database import Database
from backend.values.session import Example

MOST_OF_A_LABEL = 64
"""Examples of one label of one project that are kept, the newest."""
MOST_EXAMPLES = 50_000

_metadata = sql.MetaData()
_examples = sql.Table(
    "examples",
    _metadata,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("project", sql.String(50), nullable=False),
    sql.Column("task", sql.String(50), nullable=False),
    sql.Column("annotation", sql.String(50), nullable=False),
    sql.Column("region", sql.String(50), nullable=False),
    sql.Column("image_url", sql.Text, nullable=False),
    sql.Column("label", sql.String(300), nullable=True),
    sql.Column("made_at", sql.Float, nullable=False),
    sql.Column("height", sql.Integer, nullable=False),
    sql.Column("width", sql.Integer, nullable=False),
    sql.Column("runs", sql.LargeBinary, nullable=False),
    sql.Index("examples_by_label", "project", "label"),
    sql.Index("examples_by_annotation", "project", "annotation"),
)


class MemoryBank:
    """Examples by project and label; masks are kept as COCO's run-length code."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create(_metadata)

    def replace(self, project: str, annotation: str, examples: Sequence[Example]) -> None:
        """Keep these as all examples of an annotation (or draft), and of each label only the newest."""
        with self._database.writing() as connection:
            same = (_examples.c.project == project) & (_examples.c.annotation == annotation)
            connection.execute(sql.delete(_examples).where(same))
            for example in examples:
                connection.execute(sql.insert(_examples), _row(example))
            for label in {example.label for example in examples}:
                self._forget_oldest(connection, project, label)
            newest = connection.execute(sql.select(sql.func.max(_examples.c.id))).scalar() or 0
            connection.execute(sql.delete(_examples).where(_examples.c.id <= newest - MOST_EXAMPLES))

    def forget(self, project: str, *, annotations: Collection[str] = (), tasks: Collection[str] = ()) -> None:
        """Forget the examples of annotations and of tasks that were deleted."""
        gone = _examples.c.annotation.in_(annotations) | _examples.c.task.in_(tasks)
        with self._database.writing() as connection:
            connection.execute(sql.delete(_examples).where(_examples.c.project == project, gone))

    def recall(self, project: str, label: str | None, most: int) -> list[Example]:
        """The newest examples of a label or, with None, of those that only show."""
        query = sql.select(_examples).where(_examples.c.project == project, _with_label(label))
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(_examples.c.id.desc()).limit(most))
            return [_example(row) for row in rows]

    def _forget_oldest(self, connection: sql.Connection, project: str, label: str | None) -> None:
        these = sql.select(_examples.c.id).where(_examples.c.project == project, _with_label(label))
        kept = these.order_by(_examples.c.id.desc()).limit(MOST_OF_A_LABEL).subquery()
        oldest = connection.execute(sql.select(sql.func.min(kept.c.id))).scalar()
        if oldest is not None:
            old = (_examples.c.project == project) & _with_label(label) & (_examples.c.id < oldest)
            connection.execute(sql.delete(_examples).where(old))


def _with_label(label: str | None) -> sql.ColumnElement[bool]:
    return _examples.c.label.is_(None) if label is None else _examples.c.label == label[:300]


def _row(example: Example) -> dict[str, object]:
    code = coco.encode(np.asfortranarray(example.mask, np.uint8))
    names = {name: getattr(example, name) for name in ("project", "task", "annotation", "region", "image_url")}
    label = None if example.label is None else example.label[:300]
    height, width = example.mask.shape
    return {**names, "label": label, "made_at": time.time(), "height": height, "width": width, "runs": code["counts"]}


def _example(row: sql.Row[tuple[object, ...]]) -> Example:
    mask = coco.decode({"size": [row.height, row.width], "counts": row.runs}).astype(np.bool_)
    return Example(row.project, row.task, row.annotation, row.region, row.image_url, row.label, mask)
