"""Sessions: the earlier rounds about an object, so that the next prompt refines the last answer."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import sqlalchemy as sql

from backend.stores.database import Database, all_tables
from backend.values.session import Round, SessionKey, prompt_digest
from prompts.kinds import ObjectMemory, PromptSet

MOST_ROUNDS = 10_000
MOST_NOTES = 10_000
MOST_ROUNDS_READ = 50
LONGEST_NAME = 300

Note = Mapping[str, Any]
"""A prompt that was answered, as plain values with its ``id``."""

_rounds = sql.Table(
    "rounds",
    all_tables,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("session", sql.String(LONGEST_NAME), nullable=False, index=True),
    sql.Column("made_at", sql.Float, nullable=False, index=True),
    sql.Column("space", sql.String(100), nullable=False),
    sql.Column("prompts", sql.Text, nullable=False),
    sql.Column("shape", sql.String(30), nullable=False),
    sql.Column("logits", sql.LargeBinary, nullable=False),
)

_notes = sql.Table(
    "notes",
    all_tables,
    sql.Column("session", sql.String(LONGEST_NAME), primary_key=True),
    sql.Column("made_at", sql.Float, nullable=False, index=True),
    sql.Column("said", sql.Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Notes:
    """What to keep of the prompts on a page, in the door's own words: those that were answered now take the place of those that
    were ``seen`` before; what another request has noted since stays.
    """

    page: SessionKey
    prompts: Sequence[Note]
    seen: Sequence[Note] = ()


class SessionStore:
    """Rounds and notes by session key, forgotten after ``keep_hours`` or when there are more than 10,000 of them.

    Every method raises StoreError when the database cannot be used.
    """

    def __init__(self, database: Database, keep_hours: float) -> None:
        self._database = database
        self._keep_s = keep_hours * 3600
        database.create(all_tables)

    def remember(self, key: SessionKey, space: str, done: Round, notes: Notes | None = None) -> None:
        """Keep what was answered and what was prompted, both or nothing. Of rounds only those that drew one object and found
        it: others leave nothing to refine.
        """
        row = _row(key, space, done)
        if row is None and notes is None:
            return
        with self._database.writing() as connection:
            if row is not None:
                number = connection.execute(sql.insert(_rounds), row).inserted_primary_key
                self._forget(connection, newest=number[0] if number else 0)
            if notes is not None:
                self._note(connection, notes)

    def recall(self, keys: Sequence[SessionKey], space: str, prompts: PromptSet) -> ObjectMemory | None:
        """The newest round whose prompts are all still there and have been added to since; None when there is none. An earlier
        key comes before a later one.

        So a removed prompt takes its round with it, and the same prompts asked again get the same answer.
        """
        now = set(_digests(prompts))
        with self._database.reading() as connection:
            for key in keys:
                for row in connection.execute(self._rounds_of(key, space)):
                    if set(json.loads(row.prompts)) < now:
                        logits = np.frombuffer(zlib.decompress(row.logits), np.float16).reshape(json.loads(row.shape))
                        return ObjectMemory(logits, space)
        return None

    def noted(self, keys: Sequence[SessionKey]) -> list[Note]:
        """What was noted last under the first of the keys that has something; nothing when that is long ago."""
        with self._database.reading() as connection:
            return next((found for key in keys if (found := self._noted(connection, key))), [])

    def _rounds_of(self, key: SessionKey, space: str) -> sql.Select[Any]:
        here = (_rounds.c.session == _name(key), _rounds.c.space == space, _rounds.c.made_at > time.time() - self._keep_s)
        return sql.select(_rounds).where(*here).order_by(_rounds.c.id.desc()).limit(MOST_ROUNDS_READ)

    def _noted(self, connection: sql.Connection, key: SessionKey) -> list[Note]:
        fresh = (_notes.c.session == _name(key)) & (_notes.c.made_at > time.time() - self._keep_s)
        said = connection.execute(sql.select(_notes.c.said).where(fresh)).scalar()
        return list(json.loads(said)) if said else []

    def _note(self, connection: sql.Connection, notes: Notes) -> None:
        """Within one transaction: two quick clicks are noted both, whichever comes first."""
        known = {note.get("id") for note in (*notes.prompts, *notes.seen)}
        since = [note for note in self._noted(connection, notes.page) if note.get("id") not in known]
        said = json.dumps([dict(each) for each in (*notes.prompts, *since)])
        row = {"session": _name(notes.page), "made_at": time.time(), "said": said}
        connection.execute(sql.delete(_notes).where(_notes.c.session == row["session"]))
        connection.execute(sql.insert(_notes), row)
        newest_first = sql.select(_notes.c.made_at).order_by(_notes.c.made_at.desc())
        too_many = _notes.c.made_at <= newest_first.limit(1).offset(MOST_NOTES).scalar_subquery()
        connection.execute(sql.delete(_notes).where(too_many | (_notes.c.made_at < time.time() - self._keep_s)))

    def _forget(self, connection: sql.Connection, newest: int) -> None:
        old = (_rounds.c.made_at < time.time() - self._keep_s) | (_rounds.c.id <= newest - MOST_ROUNDS)
        connection.execute(sql.delete(_rounds).where(old))


def _row(key: SessionKey, space: str, done: Round) -> dict[str, Any] | None:
    """A round as it is kept; None for one that leaves nothing to refine."""
    if not done.prompts.drawn or len(done.masks) != 1:
        return None
    logits = done.masks.low_res_logits[0]
    return {
        "session": _name(key),
        "made_at": time.time(),
        "space": space,
        "prompts": json.dumps(_digests(done.prompts)),
        "shape": json.dumps(logits.shape),
        "logits": zlib.compress(np.ascontiguousarray(logits).tobytes(), 1),
    }


def _name(key: SessionKey) -> str:
    name = json.dumps(astuple(key))
    return name if len(name) <= LONGEST_NAME else hashlib.blake2b(name.encode(), digest_size=32).hexdigest()


def _digests(prompts: PromptSet) -> list[str]:
    return sorted({prompt_digest(prompt) for prompt in prompts.drawn})
