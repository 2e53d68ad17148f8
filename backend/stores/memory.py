"""The memory bank: what the annotations of a project show and reject, by label, as they stand in Label Studio."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sql

from backend.stores.canaries import note_canaries
from backend.stores.database import Database, all_tables
from backend.stores.rows import LONGEST_LABEL, PINNED, KnownExamples, content_of, example_of, row_of
from backend.values.session import Example, Submission, Verdict

MOST_EXAMPLES = 200_000
"""Regions that are kept, the newest."""
MOST_FORGOTTEN = 200_000
"""Deleted annotations and tasks of which is known that they are deleted."""

examples = sql.Table(
    "examples",
    all_tables,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("project", sql.String(300), nullable=False),
    sql.Column("task", sql.String(50), nullable=False),
    sql.Column("annotation", sql.String(50), nullable=False),
    sql.Column("region", sql.String(50), nullable=False),
    sql.Column("image_url", sql.Text, nullable=False),
    sql.Column("label", sql.String(LONGEST_LABEL), nullable=True),
    sql.Column("made_at", sql.Float, nullable=False),
    sql.Column("height", sql.Integer, nullable=False),
    sql.Column("width", sql.Integer, nullable=False),
    sql.Column("runs", sql.LargeBinary, nullable=False),
    sql.Column("verdict", sql.String(10), nullable=False, server_default=Verdict.DRAWN),
    sql.Column("annotator", sql.String(50), nullable=False, server_default=""),
    sql.Column("engine", sql.String(200), nullable=False, server_default=""),
    sql.Column("iou", sql.Float, nullable=True),
    sql.Column("is_current", sql.Boolean, nullable=False, server_default=sql.true()),
    sql.Column("mark", sql.String(10), nullable=False, server_default=""),
    sql.Column("thumbnail", sql.LargeBinary, nullable=True),
    sql.Column("stamp", sql.BigInteger, nullable=False, server_default="0"),
    sql.Index("examples_by_label", "project", "label", "mark", "made_at", "id", "verdict", "is_current", "stamp"),
    sql.Index("examples_by_annotation", "project", "annotation"),
    sql.Index("examples_by_task", "project", "task"),
)
"""Rows that a frozen snapshot holds stay when they are not current any more."""
submissions = sql.Table(
    "submissions",
    all_tables,
    sql.Column("project", sql.String(300), primary_key=True),
    sql.Column("annotation", sql.String(50), primary_key=True),
    sql.Column("task", sql.String(50), nullable=False),
    sql.Column("annotator", sql.String(50), nullable=False),
    sql.Column("made_at", sql.Float, nullable=False),
    sql.Column("seconds", sql.Float, nullable=True),
    sql.Index("submissions_by_task", "project", "task"),
)
forgotten = sql.Table(
    "forgotten",
    all_tables,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("project", sql.String(300), nullable=False),
    sql.Column("kind", sql.String(10), nullable=False),
    sql.Column("name", sql.String(50), nullable=False),
    sql.UniqueConstraint("project", "kind", "name"),
)
"""Deleted ``annotation``s and ``task``s: what is told of them late is not taken. Label Studio uses no number twice."""
projects = sql.Table(
    "memory_projects",
    all_tables,
    sql.Column("project", sql.String(300), primary_key=True),
    sql.Column("changes", sql.Integer, nullable=False),
    sql.Column("is_off", sql.Boolean, nullable=False),
    sql.Column("bulk_snapshot", sql.Integer, nullable=True),
)
label_changes = sql.Table(
    "label_changes",
    all_tables,
    sql.Column("project", sql.String(300), primary_key=True),
    sql.Column("label", sql.String(LONGEST_LABEL), primary_key=True),
    sql.Column("changes", sql.Integer, nullable=False),
)
"""The number of its project's change that was the last one of a label."""
snapshots = sql.Table(
    "snapshots",
    all_tables,
    sql.Column("project", sql.String(300), primary_key=True),
    sql.Column("n", sql.Integer, primary_key=True),
    sql.Column("made_at", sql.Float, nullable=False),
    sql.Column("is_withdrawn", sql.Boolean, nullable=False, server_default=sql.false()),
    sql.Column("report", sql.Text, nullable=False, server_default=""),
    sql.Column("least", sql.Text, nullable=False, server_default="{}"),
)
frozen = sql.Table(
    "snapshot_examples",
    all_tables,
    sql.Column("project", sql.String(300), primary_key=True),
    sql.Column("n", sql.Integer, primary_key=True),
    sql.Column("example", sql.Integer, primary_key=True),
    sql.Column("is_pinned", sql.Boolean, nullable=False, server_default=sql.false()),
    sql.Index("snapshot_examples_by_example", "example"),
)
"""Which rows of ``examples`` a snapshot holds. Rows are never changed but for their mark; a snapshot that loses one because it
was deleted in Label Studio is withdrawn.
"""


_Rows = Sequence[tuple[Example, dict[str, Any]]]
"""Examples, each with its row."""


class MemoryBank:
    """Examples by project and label; masks are kept as COCO's run-length code. Every method may raise StoreError.

    What is told of an annotation twice, late or out of order leaves the bank as the annotation stands.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known = KnownExamples()
        database.create(all_tables)

    def submit(self, told: Submission) -> bool:
        """Take what an annotation shows as all that it shows; False for an annotation that is known to be deleted or newer, and
        in a project that does not want to be remembered.
        """
        project, annotation, rows = told.project, told.annotation, _rows_of(told.examples)
        with self._database.writing() as connection:
            if _is_off(connection, project) or self._is_forgotten(connection, told):
                return False
            here = (submissions.c.project == project) & (submissions.c.annotation == annotation)
            known = connection.execute(sql.select(submissions.c.made_at).where(here)).scalar()
            if known is not None and told.made_at < known:
                return False
            connection.execute(sql.delete(submissions).where(here))
            facts = {name: getattr(told, name) for name in ("project", "annotation", "task", "annotator", "made_at", "seconds")}
            connection.execute(sql.insert(submissions), facts)
            self._replace(connection, project, annotation, rows)
            note_canaries(connection, told)
        return True

    def replace(self, project: str, annotation: str, shown: Sequence[Example]) -> None:
        """Keep these as all examples of a draft."""
        rows = _rows_of(shown)
        with self._database.writing() as connection:
            if not _is_off(connection, project):
                self._replace(connection, project, annotation, rows)

    def forget(self, project: str, *, annotations: Collection[str] = (), tasks: Collection[str] = ()) -> None:
        """Forget the examples of annotations and of tasks that were deleted, and whatever is told of them later."""
        with self._database.writing() as connection:
            for kind, names in (("annotation", annotations), ("task", tasks)):
                for name in names:
                    here = (forgotten.c.project == project) & (forgotten.c.kind == kind) & (forgotten.c.name == name)
                    connection.execute(sql.delete(forgotten).where(here))
                    connection.execute(sql.insert(forgotten), {"project": project, "kind": kind, "name": name})
            newest = connection.execute(sql.select(sql.func.max(forgotten.c.id))).scalar() or 0
            connection.execute(sql.delete(forgotten).where(forgotten.c.id <= newest - MOST_FORGOTTEN))
            gone = submissions.c.annotation.in_(annotations) | submissions.c.task.in_(tasks)
            connection.execute(sql.delete(submissions).where(submissions.c.project == project, gone))
            erase(connection, project, examples.c.annotation.in_(annotations) | examples.c.task.in_(tasks))

    def keep_only(self, project: str, annotations: Collection[str]) -> int:
        """Forget every annotation but these, which are all that a project has; how many are gone. Drafts stay."""
        with self._database.reading() as connection:
            known = set(connection.scalars(sql.select(submissions.c.annotation).where(submissions.c.project == project)))
            known |= set(connection.scalars(sql.select(examples.c.annotation).where(_current(project)).distinct()))
        gone = sorted(name for name in known - set(annotations) if not name.startswith("draft "))
        for start in range(0, len(gone), 500):
            self.forget(project, annotations=gone[start : start + 500])
        return len(gone)

    def find_again(self, project: str, annotations: Collection[str], tasks: Collection[str]) -> None:
        """Take back that annotations and tasks are deleted, as Label Studio has them."""
        with self._database.writing() as connection:
            for kind, names in (("annotation", annotations), ("task", tasks)):
                here = (forgotten.c.project == project) & (forgotten.c.kind == kind)
                connection.execute(sql.delete(forgotten).where(here, forgotten.c.name.in_(names)))

    def recall(self, project: str, label: str | None, most: int, snapshot: int | None = None) -> list[Example]:
        """The newest accepted examples of a label or, with None, of those that only show; pinned ones first. With a
        ``snapshot`` those that it has frozen.
        """
        return self._read(project, snapshot, _labelled(label) & (examples.c.verdict != Verdict.REJECTED), most)

    def rejected(self, project: str, label: str, most: int, snapshot: int | None = None) -> list[Example]:
        """The newest regions that were suggested under a label and deleted or relabelled."""
        return self._read(project, snapshot, _labelled(label) & (examples.c.verdict == Verdict.REJECTED), most)

    def labels(self, project: str) -> dict[str, int]:
        """How many accepted examples each label of a project has."""
        accepted = _current(project) & (examples.c.verdict != Verdict.REJECTED) & examples.c.label.is_not(None)
        query = sql.select(examples.c.label, sql.func.count().label("number")).where(accepted).group_by(examples.c.label)
        with self._database.reading() as connection:
            return {row.label: row.number for row in connection.execute(query.order_by(examples.c.label))}

    def changes(self, project: str, labels: Collection[str]) -> dict[str, int]:
        """For each label a number that is another one whenever something that may be recalled of it has changed: what is made
        of its examples can be kept under it.
        """
        known = {label[:LONGEST_LABEL]: label for label in labels}
        here = (label_changes.c.project == project) & label_changes.c.label.in_(known)
        with self._database.reading() as connection:
            found = connection.execute(sql.select(label_changes.c.label, label_changes.c.changes).where(here))
            return dict.fromkeys(labels, 0) | {known[row.label]: row.changes for row in found}

    def _read(self, project: str, snapshot: int | None, which: sql.ColumnElement[bool], most: int) -> list[Example]:
        """Pins are those of the moment or, in a snapshot, those of when it was frozen."""
        newest_first = (examples.c.made_at.desc(), examples.c.id.desc())
        if snapshot is None:
            return self._newest(_current(project) & which, newest_first, most)
        held = (frozen.c.project == project) & (frozen.c.n == snapshot) & (frozen.c.example == examples.c.id)
        query = sql.select(examples, frozen.c.is_pinned).join(frozen, held).where(examples.c.project == project, which)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(sql.desc("is_pinned"), *newest_first).limit(most))
            return [example_of(row, bool(row.is_pinned)) for row in rows]

    def _newest(self, which: sql.ColumnElement[bool], order: Sequence[sql.ColumnElement[Any]], most: int) -> list[Example]:
        """Pinned ones first. Which ones they are is told by the index alone; then those that are not known yet are read."""
        chosen: list[Any] = []
        with self._database.reading() as connection:
            for mark in (PINNED, ""):
                told = sql.select(examples.c.id, examples.c.mark, examples.c.stamp)
                query = told.where(which, examples.c.mark == mark).order_by(*order)
                chosen += connection.execute(query.limit(most - len(chosen)))
            return self._known.read(
                chosen, lambda numbers: connection.execute(sql.select(examples).where(examples.c.id.in_(numbers)))
            )

    def _replace(self, connection: sql.Connection, project: str, annotation: str, shown: _Rows) -> None:
        """Rows that say the same stay as they are; the mark of a region stays when the region is drawn anew."""
        here = _current(project) & (examples.c.annotation == annotation)
        known = list(connection.execute(sql.select(examples).where(here)))
        told, rows = [example.made_at for example, _ in shown], [row for _, row in shown]
        when = [row.made_at if made_at else 0.0 for row, made_at in zip(known, told, strict=False)]
        if (when, [content_of(row._mapping) for row in known]) == (told, [content_of(row) for row in rows]):
            return
        marks = {(row.region, row.verdict == Verdict.REJECTED): row.mark for row in known}
        _retire(connection, here)
        for row in rows:
            mark = marks.get((row["region"], row["verdict"] == Verdict.REJECTED), row["mark"])
            connection.execute(sql.insert(examples), {**row, "mark": mark})
        note_change(connection, project, {row.label for row in known} | {row["label"] for row in rows})
        _forget_oldest(connection)

    def _is_forgotten(self, connection: sql.Connection, told: Submission) -> bool:
        annotation = (forgotten.c.kind == "annotation") & (forgotten.c.name == told.annotation)
        task = (forgotten.c.kind == "task") & (forgotten.c.name == told.task)
        query = sql.select(forgotten.c.id).where(forgotten.c.project == told.project, annotation | task).limit(1)
        return connection.execute(query).first() is not None


def _rows_of(shown: Iterable[Example]) -> _Rows:
    """Made before the transaction: the code of a huge mask takes its time, in which nobody else could write."""
    return [(example, row_of(example)) for example in shown]


def _current(project: str) -> sql.ColumnElement[bool]:
    return (examples.c.project == project) & examples.c.is_current


def _labelled(label: str | None) -> sql.ColumnElement[bool]:
    return examples.c.label.is_(None) if label is None else examples.c.label == label[:LONGEST_LABEL]


def _is_off(connection: sql.Connection, project: str) -> bool:
    return bool(connection.execute(sql.select(projects.c.is_off).where(projects.c.project == project)).scalar())


def note_change(connection: sql.Connection, project: str, labels: Collection[str | None]) -> None:
    """Some labels of a project have changed: the change gets the next number."""
    here = projects.c.project == project
    if not connection.execute(sql.update(projects).where(here).values(changes=projects.c.changes + 1)).rowcount:
        connection.execute(sql.insert(projects), {"project": project, "changes": 1, "is_off": False, "bulk_snapshot": None})
    number = connection.execute(sql.select(projects.c.changes).where(here)).scalar()
    rows = [{"project": project, "label": label, "changes": number} for label in labels if label is not None]
    there = (label_changes.c.project == project) & label_changes.c.label.in_([row["label"] for row in rows])
    connection.execute(sql.delete(label_changes).where(there))
    if rows:
        connection.execute(sql.insert(label_changes), rows)


def _forget_oldest(connection: sql.Connection) -> None:
    """Keep so many regions at most, beside those of snapshots."""
    newest = connection.execute(sql.select(sql.func.max(examples.c.id))).scalar() or 0
    old = (examples.c.id <= newest - MOST_EXAMPLES) & examples.c.id.not_in(sql.select(frozen.c.example))
    in_order = sql.select(examples.c.project, examples.c.label).where(old).order_by(examples.c.id)  # else all are gone through
    lost = set(connection.execute(in_order))
    if lost:
        connection.execute(sql.delete(examples).where(old))
    for project in sorted({row.project for row in lost}):
        note_change(connection, project, {row.label for row in lost if row.project == project})


def _retire(connection: sql.Connection, which: sql.ColumnElement[bool]) -> None:
    """Use rows no more: those of snapshots stay for these."""
    is_frozen = examples.c.id.in_(sql.select(frozen.c.example))
    connection.execute(sql.update(examples).where(which, is_frozen).values(is_current=False))
    connection.execute(sql.delete(examples).where(which, ~is_frozen))


def erase(connection: sql.Connection, project: str, which: sql.ColumnElement[bool]) -> None:
    """Take rows of a project out of everything: snapshots that held some are withdrawn, as they would be other ones."""
    lost = sql.select(examples.c.id).where(examples.c.project == project, which)
    losing = sql.select(frozen.c.n).where(frozen.c.project == project, frozen.c.example.in_(lost))
    connection.execute(
        sql.update(snapshots).where(snapshots.c.project == project, snapshots.c.n.in_(losing)).values(is_withdrawn=True)
    )
    connection.execute(sql.delete(frozen).where(frozen.c.project == project, frozen.c.example.in_(lost)))
    labels = set(connection.scalars(sql.select(examples.c.label).where(examples.c.project == project, which).distinct()))
    connection.execute(sql.delete(examples).where(examples.c.project == project, which))
    note_change(connection, project, labels)
