"""What a person sees of a project's memory and says about it: regions by label, pins, removals, opt-out, and copies."""

from __future__ import annotations

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql

from backend.stores.answers import Answers
from backend.stores.canaries import canaries
from backend.stores.database import Database, all_tables
from backend.stores.memory import (
    MemoryBank,
    examples,
    forgotten,
    frozen,
    note_change,
    projects,
    snapshots,
    submissions,
)
from backend.stores.projects import vocabularies
from backend.stores.rows import PINNED, REMOVED, example_of
from backend.values.errors import NotFoundError, RequestError
from backend.values.masks import RunLengths
from backend.values.session import Example, Submission, Verdict
from prompts.geometry import Size

AT_ONCE = 500
FORMAT = "maskloom memory 1"


@dataclass(frozen=True, slots=True)
class Remembered:
    """A region as the bank holds it, with its number there, and what was said about it: pinned, removed or nothing."""

    id: int
    example: Example
    mark: str


class Curation:
    """Looks into the memory of projects and changes what of it is used. Every method may raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._bank = MemoryBank(database)
        self._answers = Answers(database)
        database.create(all_tables)

    def projects(self) -> dict[str, int]:
        """Every project with how many regions are remembered; 0 for one that does not want to be remembered."""
        query = sql.select(examples.c.project, sql.func.count().label("number")).where(examples.c.is_current)
        with self._database.reading() as connection:
            known = dict.fromkeys(connection.scalars(sql.select(projects.c.project)), 0)
            counted = {row.project: row.number for row in connection.execute(query.group_by(examples.c.project))}
        return dict(sorted((known | counted).items()))

    def counts(self, project: str) -> dict[str, Counter[str]]:
        """How many regions of each label have which verdict; removed ones count as ``removed``."""
        columns = (examples.c.label, examples.c.verdict, examples.c.mark)
        query = sql.select(*columns, sql.func.count().label("number")).where(_here(project)).group_by(*columns)
        found: dict[str, Counter[str]] = defaultdict(Counter)
        with self._database.reading() as connection:
            for row in connection.execute(query.order_by(*columns)):
                found[row.label][REMOVED if row.mark == REMOVED else row.verdict] += row.number
        return dict(found)

    def regions(self, project: str, label: str, first: int, most: int) -> list[Remembered]:
        """The regions of a label from the ``first`` on: those that are used first, then rejected ones, then removed ones. Which
        ones they are is told by the index alone.
        """
        group = sql.case(
            (examples.c.mark == REMOVED, 3),
            (examples.c.verdict == Verdict.REJECTED, 2),
            (examples.c.mark == PINNED, 0),
            else_=1,
        )
        query = sql.select(examples.c.id).where(_here(project), examples.c.label == label)
        query = query.order_by(group, examples.c.made_at.desc(), examples.c.id.desc()).offset(first).limit(most)
        with self._database.reading() as connection:
            chosen = list(connection.scalars(query))
            rows = {row.id: row for row in connection.execute(sql.select(examples).where(examples.c.id.in_(chosen)))}
        found = (rows[number] for number in chosen)
        return [Remembered(row.id, example_of(row, row.mark == PINNED), row.mark) for row in found]

    def region(self, project: str, number: int) -> Remembered:
        """Raises RequestError where the project has no such region."""
        with self._database.reading() as connection:
            row = connection.execute(sql.select(examples).where(_here(project), examples.c.id == number)).first()
        if row is None:
            raise NotFoundError(f"region {number} is not remembered any more in project {project}; load the page again")
        return Remembered(row.id, example_of(row, row.mark == PINNED), row.mark)

    def mark(self, project: str, number: int, mark: str) -> None:
        """Use a region first (pinned), never (removed) or as any other (empty). Frozen versions stay as they are."""
        label = self.region(project, number).example.label
        with self._database.writing() as connection:
            here = _here(project) & (examples.c.id == number)
            connection.execute(sql.update(examples).where(here).values(mark=mark))
            note_change(connection, project, [label])

    def thumbnail(self, number: int) -> bytes | None:
        """The small picture of a region, once there is one."""
        with self._database.reading() as connection:
            found: bytes | None = connection.execute(sql.select(examples.c.thumbnail).where(examples.c.id == number)).scalar()
        return found

    def keep_thumbnail(self, number: int, jpeg: bytes) -> None:
        with self._database.writing() as connection:
            connection.execute(sql.update(examples).where(examples.c.id == number).values(thumbnail=jpeg))

    def is_off(self, project: str) -> bool:
        """Whether a project does not want to be remembered."""
        with self._database.reading() as connection:
            return bool(connection.execute(sql.select(projects.c.is_off).where(projects.c.project == project)).scalar())

    def switch_off(self, project: str) -> None:
        """Forget everything about a project, its versions and answers as well, and remember nothing from now on."""
        with self._database.writing() as connection:
            note_change(connection, project, set(connection.scalars(sql.select(examples.c.label).where(_here(project)))))
            for table in (frozen, snapshots, examples, submissions, forgotten, canaries, vocabularies):
                connection.execute(sql.delete(table).where(table.c.project == project))
            here = projects.c.project == project
            connection.execute(sql.update(projects).where(here).values(is_off=True, bulk_snapshot=None))
        self._answers.forget(project)

    def switch_on(self, project: str) -> None:
        """Remember again what comes from now on; ``maskloom remember`` reads what there is."""
        with self._database.writing() as connection:
            connection.execute(sql.update(projects).where(projects.c.project == project).values(is_off=False))

    def export(self, project: str) -> Iterator[str]:
        """The memory of a project as lines of JSON: what it is, then one line for each annotation."""
        yield json.dumps({"format": FORMAT, "project": project})
        with self._database.reading() as connection:
            told = list(connection.execute(sql.select(submissions).where(submissions.c.project == project)))
            names = list(connection.scalars(sql.select(examples.c.annotation).where(_here(project)).distinct()))
        facts = {row.annotation: {"seconds": row.seconds, "made_at": row.made_at, "task": row.task} for row in told}
        for name in sorted({*facts, *names}):
            here = _here(project) & (examples.c.annotation == name)
            with self._database.reading() as connection:
                rows = list(connection.execute(sql.select(examples).where(here).order_by(examples.c.id)))
            yield json.dumps({"annotation": name, **facts.get(name, {}), "regions": [_line(row) for row in rows]})

    def read_export(self, project: str, lines: Iterable[str]) -> int:
        """Take over what ``export`` wrote, of whichever project, where nothing newer is known; how many annotations were taken.
        Raises RequestError for what is no such file.
        """
        rows = (json.loads(line) for line in lines if line.strip())
        try:
            head: dict[str, Any] = next(rows, {})
            if head.get("format") != FORMAT:
                raise RequestError(f"this is no file of `maskloom memory export`: it begins with {str(head)[:60]!r}")
            return sum(self._bank.submit(_submission(project, row)) for row in rows)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(f"this is no file of `maskloom memory export`: {error}") from error


def _here(project: str) -> sql.ColumnElement[bool]:
    return (examples.c.project == project) & examples.c.is_current & examples.c.label.is_not(None)


_PLAIN = ("task", "region", "image_url", "label", "made_at", "height", "width", "verdict", "annotator", "engine", "iou", "mark")


def _line(row: Any) -> dict[str, Any]:
    return {**{name: getattr(row, name) for name in _PLAIN}, "runs": base64.b64encode(row.runs).decode("ascii")}


def _submission(project: str, row: dict[str, Any]) -> Submission:
    annotation = str(row["annotation"])
    regions = tuple(_region(project, annotation, each) for each in row["regions"])
    task = str(row.get("task") or next((each.task for each in regions), ""))
    made_at = float(row.get("made_at") or max((each.made_at for each in regions), default=0.0))
    annotator = next((each.annotator for each in regions), "")
    return Submission(project, task, annotation, regions, annotator, "", made_at, row.get("seconds"))


def _region(project: str, annotation: str, row: dict[str, Any]) -> Example:
    size = Size(int(row["height"]), int(row["width"]))
    return Example(
        project,
        str(row["task"]),
        annotation,
        str(row["region"]),
        str(row["image_url"]),
        str(row["label"]),
        RunLengths.of_coco(base64.b64decode(row["runs"]), size),
        Verdict(row["verdict"]),
        str(row["annotator"]),
        str(row["engine"]),
        float(row["made_at"]),
        row["iou"],
        row["mark"] == PINNED,
    )
