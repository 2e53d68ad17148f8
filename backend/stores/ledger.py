"""The ledger of bulk runs: which items a run has, how far each came, and what was found, so that a run can be killed at any
moment and goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import sqlalchemy as sql

from backend.stores.database import Database, all_tables

PAGE = 500
"""Items that are read or written in one statement."""

_runs = sql.Table(
    "bulk_runs",
    all_tables,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("digest", sql.String(64), nullable=False, unique=True),
    sql.Column("source", sql.Text, nullable=False),
    sql.Column("target", sql.Text, nullable=False),
    sql.Column("version", sql.String(200), nullable=False),
    sql.Column("state", sql.String(12), nullable=False),
    sql.Column("note", sql.Text, nullable=False, default=""),
    sql.Column("started_at", sql.Float, nullable=False),
    sql.Column("changed_at", sql.Float, nullable=False),
)
_items = sql.Table(
    "bulk_items",
    all_tables,
    sql.Column("run", sql.Integer, primary_key=True),
    sql.Column("key", sql.String(500), primary_key=True),
    sql.Column("place", sql.Integer, nullable=False),
    sql.Column("task", sql.Text, nullable=False),
    sql.Column("link", sql.Text, nullable=False),
    sql.Column("state", sql.String(10), nullable=False),
    sql.Column("reason", sql.Text, nullable=False, default=""),
    sql.Column("regions", sql.Text, nullable=False, default="[]"),
    sql.Column("changed_at", sql.Float, nullable=False),
    sql.Index("bulk_items_by_state", "run", "state", "place"),
)
PARKED, OUTDATED, WAITING, AGAIN = "parked", "outdated", "waiting", "again"
SENDING, REPLACING, DONE, FAILED = "sending", "replacing", "done", "failed"
"""What an item is: not asked for now, without an answer or with one that is to be replaced; to be done; to be done anew; on its
way to the target, for the first time or in place of an earlier answer; there; given up with a reason.
"""


@dataclass(frozen=True, slots=True)
class Item:
    """One image to work on: a key that names it within its source, where a person sees it, and of a task what Label Studio
    writes about it (``id`` and ``data``). One that is ``answered`` may have an earlier answer, which a new one is to replace.
    """

    key: str
    task: Mapping[str, Any]
    link: str
    answered: bool = False


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What makes two runs the same one: the same command continues, another one begins anew. A run that began before
    its source was made (``made_at``, in seconds since 1970) was about an earlier source of the same name.
    """

    source: str
    target: str
    version: str
    digest: str
    made_at: float = 0.0


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the ledger knows it; ``state`` is open, finished, stopped or broken, ``note`` says why."""

    id: int
    source: str
    target: str
    version: str
    state: str
    note: str
    started_at: float
    changed_at: float


@dataclass(frozen=True, slots=True)
class Entry:
    """How far an item came; ``regions`` are ``[label, score, pixels]``."""

    key: str
    link: str
    state: str
    reason: str
    regions: Sequence[Sequence[Any]]


class Ledger:
    """Bulk runs in a database; one process at a time works on a run, any number may look."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create(all_tables)

    def open(self, identity: RunIdentity) -> int:
        """The number of a run, made unless it is there. Nothing of it is asked for until ``ask`` is called."""
        now = time.time()
        with self._database.writing() as connection:
            known = connection.execute(sql.select(_runs.c.id).where(_is_run(identity))).scalar()
            if known is None:
                before = sql.update(_runs).where(_runs.c.digest == identity.digest)
                connection.execute(before.values(digest=sql.literal("earlier ") + sql.cast(_runs.c.id, sql.String)))
                row = {
                    "digest": identity.digest,
                    "source": identity.source,
                    "target": identity.target,
                    "version": identity.version,
                    "state": "open",
                    "note": "",
                    "started_at": now,
                    "changed_at": now,
                }
                known = _first_key(connection.execute(sql.insert(_runs), row))
            for states, state in (((WAITING, FAILED), PARKED), ((AGAIN, REPLACING), OUTDATED)):
                mine = sql.and_(_items.c.run == known, _items.c.state.in_(states))
                connection.execute(sql.update(_items).where(mine).values(state=state))
        self.close(known, "open")
        return known

    def find(self, identity: RunIdentity) -> RunRow | None:
        """The run of an identity, if it was ever begun."""
        return next(iter(self._read_runs(_is_run(identity))), None)

    def run(self, run: int) -> RunRow | None:
        return next(iter(self._read_runs(_runs.c.id == run)), None)

    def runs(self) -> list[RunRow]:
        """All runs, the newest first."""
        return self._read_runs(sql.true())

    def close(self, run: int, state: str, note: str = "") -> None:
        """Say how a run stands."""
        values = {"state": state, "note": note, "changed_at": time.time()}
        with self._database.writing() as connection:
            connection.execute(sql.update(_runs).where(_runs.c.id == run).values(values))

    def ask(self, run: int, items: Iterable[Item], undone: str = WAITING) -> int:
        """Ask for items, in order; how many. New ones and those not done yet wait, or are AGAIN where an old answer is to be
        replaced; done ones stay done, unless ``undone`` is AGAIN: then they are to be done anew. Others are left out.
        """
        count = 0
        for page in in_batches(items, PAGE):
            with self._database.writing() as connection:
                self._ask_page(connection, run, list({item.key: item for item in page}.values()), count, undone)
            count += len(page)
        return count

    def _ask_page(self, connection: sql.Connection, run: int, page: Sequence[Item], first: int, undone: str) -> None:
        mine = _of(run, [item.key for item in page])
        known = {row.key: row.state for row in connection.execute(sql.select(_items.c.key, _items.c.state).where(mine))}
        anew = (OUTDATED,) if undone == WAITING else (OUTDATED, PARKED, DONE, SENDING)
        for states, state in ((anew, AGAIN), ((PARKED,), WAITING)):
            connection.execute(sql.update(_items).where(mine, _items.c.state.in_(states)).values(state=state))
        fresh = [
            {
                "run": run,
                "key": item.key,
                "place": first + place,
                "task": json.dumps(item.task),
                "link": item.link,
                "state": WAITING,
                "reason": "",
                "regions": "[]",
                "changed_at": time.time(),
            }
            for place, item in enumerate(page)
            if item.key not in known
        ]
        if fresh:
            connection.execute(sql.insert(_items), fresh)
        answered = _of(run, [item.key for item in page if item.answered])
        connection.execute(sql.update(_items).where(answered, _items.c.state == WAITING).values(state=AGAIN))

    def waiting(self, run: int) -> Iterator[Item]:
        """The items to work on, page by page, each once; other items may change meanwhile."""
        last = -1, ""
        while True:
            after = sql.or_(_items.c.place > last[0], sql.and_(_items.c.place == last[0], _items.c.key > last[1]))
            query = (
                sql.select(_items.c.key, _items.c.place, _items.c.task, _items.c.link)
                .where(_items.c.run == run, _items.c.state.in_((WAITING, AGAIN)), after)
                .order_by(_items.c.place, _items.c.key)
                .limit(PAGE)
            )
            with self._database.reading() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            last = rows[-1].place, rows[-1].key
            yield from (Item(row.key, json.loads(row.task), row.link) for row in rows)

    def send(self, run: int, entries: Sequence[Entry]) -> set[str]:
        """Note before the target is touched that these are on their way; the keys of those that are done anew. What another run
        has at the same target is outdated by it.
        """
        anew = sql.and_(_of(run, [entry.key for entry in entries]), _items.c.state == AGAIN)
        replaced = sql.and_(
            _items.c.run.in_(_same_target(run)), _items.c.key.in_([e.key for e in entries if e.state != FAILED])
        )
        outdated = sql.update(_items).where(replaced, _items.c.state.in_((DONE, SENDING))).values(state=OUTDATED)
        with self._database.writing() as connection:
            again = set(connection.scalars(sql.select(_items.c.key).where(anew)))
            connection.execute(outdated)
        self.settle(run, [replace(e, state=REPLACING if e.key in again else SENDING) for e in entries])
        return again

    def in_doubt(self, run: int) -> tuple[list[str], float]:
        """Items that were on their way when the last process ended, and how many seconds ago the newest was sent, at least
        0: another machine's clock may be ahead.
        """
        query = sql.select(_items.c.key, _items.c.changed_at).where(_items.c.run == run, _items.c.state == SENDING)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [row.key for row in rows], max(0.0, time.time() - max((row.changed_at for row in rows), default=0.0))

    def arrive(self, run: int, arrived: Sequence[str], lost: Sequence[str]) -> None:
        """Settle what was in doubt: what arrived is done, what was lost is asked for again when the source lists it."""
        with self._database.writing() as connection:
            for keys, state in ((arrived, DONE), (lost, PARKED)):
                for page in in_batches(keys, PAGE):
                    connection.execute(sql.update(_items).where(_of(run, page)).values(state=state))

    def settle(self, run: int, entries: Sequence[Entry]) -> None:
        """Say what became of items; keys that the run does not have are left alone."""
        now = time.time()
        rows = [
            {"k": e.key, "s": e.state, "r": e.reason, "g": json.dumps(e.regions, separators=(",", ":")), "t": now}
            for e in entries
        ]
        if not rows:
            return
        statement = (
            sql.update(_items)
            .where(_items.c.run == run, _items.c.key == sql.bindparam("k"))
            .values(
                state=sql.bindparam("s"), reason=sql.bindparam("r"), regions=sql.bindparam("g"), changed_at=sql.bindparam("t")
            )
        )
        with self._database.writing() as connection:
            connection.execute(statement, rows)
            connection.execute(sql.update(_runs).where(_runs.c.id == run).values(changed_at=now))

    def counts(self, run: int) -> Counter[str]:
        """How many items are in which state; all that are not asked for now count as PARKED."""
        query = sql.select(_items.c.state, sql.func.count()).where(_items.c.run == run).group_by(_items.c.state)
        with self._database.reading() as connection:
            found: Counter[str] = Counter(dict(connection.execute(query).all()))
        return found + Counter({PARKED: found.pop(OUTDATED, 0)})

    def entries(self, run: int, *states: str) -> Iterator[Entry]:
        """Items in some states, in order, without holding more than a page."""
        query = (
            sql.select(_items.c.key, _items.c.link, _items.c.state, _items.c.reason, _items.c.regions)
            .where(_items.c.run == run, _items.c.state.in_(states))
            .order_by(_items.c.place, _items.c.key)
            .execution_options(yield_per=PAGE)
        )
        with self._database.reading() as connection:
            for row in connection.execute(query):
                yield Entry(row.key, row.link, row.state, row.reason, json.loads(row.regions))

    def _read_runs(self, which: sql.ColumnElement[bool]) -> list[RunRow]:
        columns = (_runs.c.id, _runs.c.source, _runs.c.target, _runs.c.version, _runs.c.state, _runs.c.note)
        query = sql.select(*columns, _runs.c.started_at, _runs.c.changed_at).where(which).order_by(_runs.c.id.desc())
        with self._database.reading() as connection:
            return [RunRow(*row) for row in connection.execute(query)]


def in_batches(items: Iterable[Any], most: int) -> Iterator[list[Any]]:
    """Lists of at most ``most`` items."""
    rest = iter(items)
    while page := list(islice(rest, most)):
        yield page


def _is_run(identity: RunIdentity) -> sql.ColumnElement[bool]:
    return sql.and_(_runs.c.digest == identity.digest, _runs.c.started_at >= identity.made_at)


def _of(run: int, keys: Sequence[str]) -> sql.ColumnElement[bool]:
    return sql.and_(_items.c.run == run, _items.c.key.in_(keys))


def _same_target(run: int) -> sql.Select[tuple[int]]:
    """The other runs whose answers lie where those of this run go."""
    target = sql.select(_runs.c.target).where(_runs.c.id == run).scalar_subquery()
    return sql.select(_runs.c.id).where(_runs.c.target == target, _runs.c.id != run)


def _first_key(result: sql.CursorResult[Any]) -> int:
    key = result.inserted_primary_key
    return int(key[0]) if key else 0
