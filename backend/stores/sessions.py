"""Sessions: the earlier rounds about an object, so that the next prompt refines the last answer."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sql
from sqlalchemy.engine import make_url

from backend.values.session import Round, SessionKey, prompt_digest
from prompts.kinds import PromptSet
from prompts.memory import ObjectMemory

MOST_ROUNDS = 10_000
MOST_NOTES = 10_000
LONGEST_NAME = 300

_metadata = sql.MetaData()
_rounds = sql.Table(
    "rounds",
    _metadata,
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
    _metadata,
    sql.Column("session", sql.String(LONGEST_NAME), primary_key=True),
    sql.Column("made_at", sql.Float, nullable=False, index=True),
    sql.Column("said", sql.Text, nullable=False),
)


def open_database(url: str) -> sql.Engine:
    """A database by SQLAlchemy URL; the folder of a SQLite file is made."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    return sql.create_engine(parsed)


class SessionStore:
    """Rounds and notes by session key, forgotten after ``keep_hours`` or when there are more than 10,000 of them."""

    def __init__(self, database: sql.Engine, keep_hours: float) -> None:
        self._database = database
        self._keep_s = keep_hours * 3600
        _metadata.create_all(database, tables=[_rounds, _notes])

    def append(self, key: SessionKey, space: str, done: Round) -> None:
        """Remember a round that drew one object and found it; other rounds leave nothing to refine."""
        if not done.prompts.drawn or len(done.masks) != 1:
            return
        logits = done.masks.low_res_logits[0]
        row = {
            "session": _name(key),
            "made_at": time.time(),
            "space": space,
            "prompts": json.dumps(_digests(done.prompts)),
            "shape": json.dumps(logits.shape),
            "logits": zlib.compress(np.ascontiguousarray(logits).tobytes(), 1),
        }
        with self._database.begin() as connection:
            number = connection.execute(sql.insert(_rounds), row).inserted_primary_key
            self._forget(connection, newest=number[0] if number else 0)

    def recall(self, key: SessionKey, space: str, prompts: PromptSet) -> ObjectMemory | None:
        """The newest round whose prompts are all still there and have been added to since; None when there is none.

        So a removed prompt takes its round with it, and the same prompts asked again get the same answer.
        """
        now = set(_digests(prompts))
        query = (
            sql.select(_rounds)
            .where(_rounds.c.session == _name(key), _rounds.c.space == space, _rounds.c.made_at > time.time() - self._keep_s)
            .order_by(_rounds.c.id.desc())
            .limit(50)
        )
        with self._database.connect() as connection:
            for row in connection.execute(query):
                if set(json.loads(row.prompts)) < now:
                    logits = np.frombuffer(zlib.decompress(row.logits), np.float16).reshape(json.loads(row.shape))
                    return ObjectMemory(logits, space)
        return None

    def note(self, key: SessionKey, said: Sequence[Mapping[str, Any]]) -> None:
        """Keep what was prompted last, in the door's own words, in place of what was kept before."""
        row = {"session": _name(key), "made_at": time.time(), "said": json.dumps([dict(each) for each in said])}
        with self._database.begin() as connection:
            connection.execute(sql.delete(_notes).where(_notes.c.session == row["session"]))
            connection.execute(sql.insert(_notes), row)
            newest_first = sql.select(_notes.c.made_at).order_by(_notes.c.made_at.desc())
            too_many = _notes.c.made_at <= newest_first.limit(1).offset(MOST_NOTES).scalar_subquery()
            connection.execute(sql.delete(_notes).where(too_many | (_notes.c.made_at < time.time() - self._keep_s)))

    def noted(self, key: SessionKey) -> list[dict[str, Any]]:
        """What was noted last; nothing when that is long ago."""
        fresh = (_notes.c.session == _name(key)) & (_notes.c.made_at > time.time() - self._keep_s)
        with self._database.connect() as connection:
            said = connection.execute(sql.select(_notes.c.said).where(fresh)).scalar()
        return list(json.loads(said)) if said else []

    def _forget(self, connection: sql.Connection, newest: int) -> None:
        old = (_rounds.c.made_at < time.time() - self._keep_s) | (_rounds.c.id <= newest - MOST_ROUNDS)
        connection.execute(sql.delete(_rounds).where(old))


def _name(key: SessionKey) -> str:
    name = json.dumps(astuple(key))
    return name if len(name) <= LONGEST_NAME else hashlib.blake2b(name.encode(), digest_size=32).hexdigest()


def _digests(prompts: PromptSet) -> list[str]:
    return sorted({prompt_digest(prompt) for prompt in prompts.drawn})
