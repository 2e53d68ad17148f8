"""Versions of a project's memory: ``memory@n`` is what it was when it was frozen, and one of them is what bulk runs use."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sql

from backend.stores.database import Database, all_tables
from backend.stores.memory import examples, frozen, projects, snapshots
from backend.stores.rows import PINNED, REMOVED
from backend.values.errors import RequestError
from backend.values.session import Example


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A frozen memory; ``examples`` counts its regions, ``report`` is what the gate said when it was weighed. One that is
    withdrawn has lost a region which was deleted in Label Studio, and is not used any more. ``least`` is what training found:
    the least score of a suggestion of each label.
    """

    project: str
    n: int
    made_at: float
    examples: int
    is_withdrawn: bool = False
    is_for_bulk: bool = False
    report: Mapping[str, Any] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"memory@{self.n}"


class Snapshots:
    """The frozen memories of projects. Every method may raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create(all_tables)

    def freeze(self, project: str, least: Mapping[str, float] | None = None) -> Snapshot | None:
        """Freeze what a project's memory is now: a new version, or the last one where it is the same; None for an empty one.
        ``least`` is what training has found; without it what it found for the version in use goes on.
        """
        trained = json.dumps(dict(self.least(project) if least is None else least), sort_keys=True)
        with self._database.writing() as connection:
            now = list(connection.execute(_usable(project)).all())
            if not now:
                return None
            last = connection.execute(sql.select(sql.func.max(snapshots.c.n)).where(snapshots.c.project == project)).scalar()
            is_same = last is not None and self._is_same(connection, project, last, [(row.id, row.is_pinned) for row in now])
            if last is None or not is_same or trained != _trained(connection, project, last):
                last = (last or 0) + 1
                rows = [{"project": project, "n": last, "example": row.id, "is_pinned": row.is_pinned} for row in now]
                fresh = {"project": project, "n": last, "made_at": time.time(), "least": trained}
                connection.execute(sql.insert(snapshots), fresh)
                connection.execute(sql.insert(frozen), rows)
        return self.get(project, last)

    def all(self, project: str) -> list[Snapshot]:
        """The newest first."""
        held = sql.select(frozen.c.n, sql.func.count().label("number")).where(frozen.c.project == project).group_by(frozen.c.n)
        query = sql.select(snapshots).where(snapshots.c.project == project).order_by(snapshots.c.n.desc())
        with self._database.reading() as connection:
            used = _bulk(connection, project)
            numbers = {row.n: row.number for row in connection.execute(held)}
            return [
                Snapshot(
                    project,
                    row.n,
                    row.made_at,
                    numbers.get(row.n, 0),
                    row.is_withdrawn,
                    row.n == used,
                    json.loads(row.report or "{}"),
                    json.loads(row.least),
                )
                for row in connection.execute(query)
            ]

    def get(self, project: str, n: int) -> Snapshot:
        """Raises RequestError for a version that is not there, or is withdrawn."""
        found = next((each for each in self.all(project) if each.n == n), None)
        if found is None:
            known = ", ".join(str(each.n) for each in self.all(project)) or "none"
            raise RequestError(f"project {project} has no memory@{n}; it has {known}")
        if found.is_withdrawn:
            raise RequestError(
                f"memory@{n} of project {project} is withdrawn: a region of it was deleted in Label Studio, so that the same "
                "memory does not exist any more; choose another one, or freeze a new one"
            )
        return found

    def labels(self, project: str, n: int) -> list[str]:
        """The labels that a version has examples of."""
        held = (frozen.c.project == project) & (frozen.c.n == n) & (frozen.c.example == examples.c.id)
        query = sql.select(examples.c.label).join(frozen, held).distinct().order_by(examples.c.label)
        with self._database.reading() as connection:
            return list(connection.scalars(query))

    def for_bulk(self, project: str) -> Snapshot | None:
        """What bulk runs use unless they are told otherwise; None where nothing is chosen, or the chosen one is withdrawn."""
        return next((each for each in self.all(project) if each.is_for_bulk and not each.is_withdrawn), None)

    def least(self, project: str) -> dict[str, float]:
        """The least score of a suggestion of each label, as training found it for the version in use; empty without any."""
        here = (projects.c.project == project) & (snapshots.c.n == projects.c.bulk_snapshot)
        used = sql.select(snapshots.c.least).join(projects, projects.c.project == snapshots.c.project)
        with self._database.reading() as connection:
            found = connection.execute(used.where(here, ~snapshots.c.is_withdrawn)).scalar()
        return dict(json.loads(found)) if found else {}

    def choose(self, project: str, n: int | None) -> None:
        """Let bulk runs use a version, an earlier one as well, or with None no memory. Raises RequestError as ``get`` does."""
        if n is not None:
            self.get(project, n)
        with self._database.writing() as connection:
            here = projects.c.project == project
            if not connection.execute(sql.update(projects).where(here).values(bulk_snapshot=n)).rowcount:
                fresh = {"project": project, "changes": 0, "is_off": False, "bulk_snapshot": n}
                connection.execute(sql.insert(projects), fresh)

    def note(self, project: str, n: int, report: Mapping[str, Any]) -> None:
        """Keep what was measured of a version."""
        with self._database.writing() as connection:
            here = (snapshots.c.project == project) & (snapshots.c.n == n)
            connection.execute(sql.update(snapshots).where(here).values(report=json.dumps(report)))

    def _is_same(self, connection: sql.Connection, project: str, n: int, now: list[tuple[int, bool]]) -> bool:
        here = (frozen.c.project == project) & (frozen.c.n == n)
        held = connection.execute(sql.select(frozen.c.example, frozen.c.is_pinned).where(here).order_by(frozen.c.example))
        lost = sql.select(snapshots.c.is_withdrawn).where(snapshots.c.project == project, snapshots.c.n == n)
        return [(row.example, row.is_pinned) for row in held] == now and not connection.execute(lost).scalar()


def _usable(project: str) -> sql.Select[Any]:
    """What a project's memory consists of now; what drafts show is nobody's work yet."""
    here = (examples.c.project == project) & examples.c.is_current & (examples.c.mark != REMOVED)
    is_pinned = (examples.c.mark == PINNED).label("is_pinned")
    return sql.select(examples.c.id, is_pinned).where(here, examples.c.label.is_not(None)).order_by(examples.c.id)


def _trained(connection: sql.Connection, project: str, n: int) -> str:
    here = (snapshots.c.project == project) & (snapshots.c.n == n)
    return str(connection.execute(sql.select(snapshots.c.least).where(here)).scalar())


def _bulk(connection: sql.Connection, project: str) -> int | None:
    found: int | None = connection.execute(sql.select(projects.c.bulk_snapshot).where(projects.c.project == project)).scalar()
    return found


class FrozenMemory:
    """The examples of a version that may be asked for, as plain values that travel between processes and machines; ``trained``
    is the least score of a suggestion of each label.
    """

    def __init__(self, snapshot: Snapshot, examples: Sequence[Example], rejected: Sequence[Example] = ()) -> None:
        self.project = snapshot.project
        self.n = snapshot.n
        self.trained = snapshot.least
        self._examples = tuple(examples)
        self._rejected = tuple(rejected)

    @property
    def name(self) -> str:
        return f"memory@{self.n}"

    @property
    def examples(self) -> tuple[Example, ...]:
        """The accepted regions, of each label those that are used first at the front."""
        return self._examples

    def changes(self, project: str, labels: Collection[str]) -> dict[str, int]:
        """As MemoryBank.changes: nothing ever changes."""
        return dict.fromkeys(labels, 0)

    def recall(self, project: str, label: str | None, most: int) -> list[Example]:
        """As MemoryBank.recall."""
        return [each for each in self._examples if each.label == label][:most] if project == self.project else []

    def rejected(self, project: str, label: str, most: int) -> list[Example]:
        """As MemoryBank.rejected."""
        return [each for each in self._rejected if each.label == label][:most] if project == self.project else []

    def least(self, project: str) -> Mapping[str, float]:
        """As Snapshots.least."""
        return self.trained if project == self.project else {}

    def with_least(self, least: Mapping[str, float]) -> FrozenMemory:
        """The same with other least scores."""
        found = copy(self)
        found.trained = least
        return found

    def without(self, tasks: frozenset[str]) -> FrozenMemory:
        """The same without what some tasks show."""
        found = copy(self)
        found._examples = tuple(each for each in self._examples if each.task not in tasks)
        found._rejected = tuple(each for each in self._rejected if each.task not in tasks)
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenMemory:
        return self

    def __str__(self) -> str:
        """What tells it from all others: a version never changes."""
        return f"{self.name} of {self.project}"
