"""Projects as the stores know them: the key of each, its Label Studio, the phrases of its labels, and what earlier releases
kept under its number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sql

from backend.stores.database import Database, all_tables
from prompts.phrases import LabelPhrases, Vocabulary

MOST_PROJECTS = 10_000
LONGEST_NAME = 32
_SESSION_LENGTH = 300
"""What a session is called has at most so many characters (see sessions)."""

_projects = sql.Table(
    "projects",
    all_tables,
    sql.Column("key", sql.String(50), primary_key=True),
    sql.Column("name", sql.String(50), nullable=False),
    sql.Column("address", sql.Text, nullable=False),
    sql.Column("proof", sql.String(40), nullable=False),
    sql.Column("seen_at", sql.Float, nullable=False),
)
vocabularies = sql.Table(
    "vocabularies",
    all_tables,
    sql.Column("project", sql.String(50), primary_key=True),
    sql.Column("entries", sql.Text, nullable=False),
)
"""The labels of projects with the phrases that their labelling configs give them, as JSON."""
_remembered = sql.table("memory_projects", sql.column("project"), sql.column("is_off"))
_examples = sql.table("examples", sql.column("project"), sql.column("made_at"))
_SESSIONS = tuple(sql.table(name, sql.column("session"), sql.column("made_at")) for name in ("rounds", "notes"))


@dataclass(frozen=True, slots=True)
class ProjectRow:
    """A project of one Label Studio. ``name`` is its number and, after a point, the second in which it was made; ``address`` is
    where its Label Studio was last (empty while nobody has said it), ``proof`` a hash of the token that came along.
    """

    key: str
    name: str
    address: str = ""
    proof: str = ""
    seen_at: float = 0.0

    @property
    def number(self) -> str:
        return self.name.partition(".")[0]

    @property
    def made_at(self) -> float | None:
        """When the project was made, in seconds since 1970; None when nobody told."""
        made = self.name.partition(".")[2]
        return float(made) if made.isdecimal() else None


def project_key(name: str, studio: int) -> str:
    """The key under which everything about a project is kept: 50 characters at most, which nobody takes apart but here.

    ``studio`` counts the Label Studios that have a project of this name.
    """
    return f"{short_name(name)}@{studio}"


def short_name(name: str) -> str:
    """A name that every database holds: one that is too long or has characters that cannot be stored becomes a hash."""
    return name if len(name) <= LONGEST_NAME and name.isprintable() else _hash(name, 12)


def number_of(key: str) -> str:
    """The number that a project's own Label Studio has for it."""
    return key.partition("@")[0].partition(".")[0]


def token_proof(token: str | None) -> str:
    """What tells that two announcements come from the same Label Studio, without the token itself; empty without one."""
    return _hash(token, 16) if token else ""


def _hash(text: str, digest_size: int) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=digest_size).hexdigest()


class ProjectTable:
    """The rows of all projects, the newest 10,000. Every method raises StoreError when the database cannot be used."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create(all_tables)

    def rows(self) -> Sequence[ProjectRow]:
        """All of them, the one that was heard of last at the end."""
        with self._database.reading() as connection:
            return [ProjectRow(*row) for row in connection.execute(sql.select(_projects).order_by(_projects.c.seen_at))]

    def put(self, row: ProjectRow) -> None:
        """Keep a row in place of an earlier one of its key. It takes over what earlier releases, which told projects apart by
        their numbers alone, have kept under its number since the project was made.
        """
        best_first = sql.case((_projects.c.address != "", 0), else_=1), _projects.c.seen_at.desc()
        kept = sql.select(_projects.c.key).order_by(*best_first).limit(MOST_PROJECTS)
        with self._database.writing() as connection:
            connection.execute(sql.delete(_projects).where(_projects.c.key == row.key))
            connection.execute(sql.insert(_projects), asdict(row))
            connection.execute(sql.delete(_projects).where(_projects.c.key.not_in(kept)))
            if row.made_at is not None:
                _adopt(connection, row, row.made_at)

    def vocabulary(self, key: str) -> Vocabulary:
        """The labels of a project with all their phrases, as its labelling config was when it was last told; none if it never
        was.
        """
        with self._database.reading() as connection:
            known = connection.execute(sql.select(vocabularies.c.entries).where(vocabularies.c.project == key)).scalar()
        entries = json.loads(known) if known else {}
        return Vocabulary(tuple(LabelPhrases(label, tuple(phrases)) for label, phrases in entries.items()))

    def put_vocabulary(self, key: str, vocabulary: Vocabulary) -> None:
        """Keep the labels of a project that wants to be remembered, in place of those before."""
        if vocabulary == self.vocabulary(key):
            return
        entries = json.dumps({entry.label: entry.phrases for entry in vocabulary.entries})
        is_off = sql.select(_remembered.c.is_off).where(_remembered.c.project == key)
        with self._database.writing() as connection:
            connection.execute(sql.delete(vocabularies).where(vocabularies.c.project == key))
            if not connection.execute(is_off).scalar():
                connection.execute(sql.insert(vocabularies), {"project": key, "entries": entries})


def _adopt(connection: sql.Connection, row: ProjectRow, since: float) -> None:
    """Examples, rounds and notes under a number alone go under the key; sessions with long names, which are hashed, stay."""
    there = set(sql.inspect(connection).get_table_names())
    if _examples.name in there:
        mine = (_examples.c.project == row.number) & (_examples.c.made_at >= since)
        connection.execute(sql.update(_examples).where(mine).values(project=row.key))
    before, after = f'["{row.number}", ', f'["{row.key}", '
    for table in (table for table in _SESSIONS if table.name in there):
        session, rest = table.c.session, sql.func.substr(table.c.session, len(before) + 1)
        fits = sql.func.length(session) <= _SESSION_LENGTH - len(after) + len(before)
        mine = session.startswith(before, autoescape=True) & (table.c.made_at >= since) & fits
        connection.execute(sql.update(table).where(mine).values(session=sql.literal(after) + rest))
