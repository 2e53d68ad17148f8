"""Project identity: a project is one of a certain Label Studio, made at a certain second; here alone it gets its key."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from backend.background import Worker
from backend.images.sites import is_loopback, read_base, read_token
from backend.labelstudio.config import read_config
from backend.stores.projects import MOST_PROJECTS, ProjectRow, ProjectTable, project_key, short_name, token_proof
from backend.values.errors import ConfigError, RequestError, StoreError

log = logging.getLogger(__name__)

LIVE_S = 3600.0
"""So long after its last announcement a project is not believed to be another Label Studio's. Label Studio announces a project
whenever somebody opens its list of tasks.
"""
FRESH_S = 86400.0
"""How old the stored time of an announcement may become before it is written anew."""
MOST_WAITING = 1_000

Announce = Callable[[str, str | None, str | None], None]
"""Hears of a project's key where its Label Studio is, and the token that goes there."""


class Projects:
    """The keys of projects. ``/setup`` alone tells where a project's Label Studio is, ``/predict`` and webhooks tell its name
    alone (``"1.1795211212"``, number and second), so that the announcements are remembered, over restarts too.

    With an address of our own (``own``) there is one Label Studio, whatever it calls itself. Otherwise two that announce a
    project of the same name are told apart by address; one that moves is known by its token.
    """

    def __init__(self, table: ProjectTable, announce: Announce, own: str | None = None) -> None:
        self._table = table
        self._announce = announce
        self._own = own or ""
        self._rows: OrderedDict[str, ProjectRow] = OrderedDict()
        self._announced_at: dict[str, float] = {}
        self._lock = threading.Lock()
        self._writer: Worker[Callable[[], None]] = Worker("projects", lambda write: write(), MOST_WAITING)
        self._restore()

    def register(self, project: object, hostname: str | None, token: str | None, config: str | None = None) -> str:
        """The key of a project that was announced in ``/setup``; its images are had from there from now on, and its labels are
        what its labelling config says.

        Raises RequestError when another Label Studio has announced the same project a while ago.
        """
        name, base = project_name(project), read_base(hostname or "")
        address, proof = self._own or (str(base).rstrip("/") if base else ""), token_proof(read_token(token))
        with self._lock:
            known = self._announced_before(name, address, proof)
            row = self._new(name, address, proof) if known is None else _moved(known, name, address, proof)
            self._announced_at[row.key] = time.monotonic()
            self._keep(row)
        self._announce(row.key, hostname, token)
        self.name_labels(row.key, config or "")
        return row.key

    def name_labels(self, key: str, config: str) -> None:
        """Remember the labels of a project by its labelling config; one that cannot be read changes nothing."""
        with contextlib.suppress(ConfigError):
            self._writer.offer(partial(self._table.put_vocabulary, key, read_config(config).vocabulary))

    def key(self, project: object) -> str:
        """The key of a project that a request names: of several with the same name the one that was announced last."""
        name = project_name(project)
        with self._lock:
            row = next(self._alike(name), None) or ProjectRow(self._free_key(name), name)
            self._keep(replace(row, name=_fuller(row.name, name), seen_at=time.time()))
            return row.key

    def wait(self) -> None:
        """Until everything that was learnt is stored."""
        self._writer.wait()

    def close(self, patience_s: float) -> None:
        """Store what waits."""
        self._writer.close(patience_s)

    def _restore(self) -> None:
        try:
            rows = self._table.rows()
        except StoreError as error:
            log.warning("projects are not known from before: %s", error)
            return
        for row in rows:
            self._rows[row.key] = row
            if row.address:
                self._announce(row.key, row.address, None)

    def _alike(self, name: str) -> Iterator[ProjectRow]:
        """The projects that a name may mean, the last one first. A number alone means the only project that has it."""
        rows = list(reversed(self._rows.values()))
        yield from (row for row in rows if row.name == name)
        number, _, made = name.partition(".")
        same = [row for row in rows if row.number == number and row.name != name and not (made and row.made_at is not None)]
        if len(same) == 1:
            yield same[0]

    def _announced_before(self, name: str, address: str, proof: str) -> ProjectRow | None:
        """The project that an announcement is about: by its address, or its token where it has moved. Without an address that
        can be compared any of the same name is meant, and so it is where a better address is known than one of this machine.
        """
        alike = list(self._alike(name))
        here = (row for row in alike if row.address == address)
        moved = (row for row in alike if proof and row.proof == proof)
        vague = (row for row in alike if self._own or not row.address or not address or _is_worse(address, row.address))
        return next((row for found in (here, moved, vague) for row in found), None)

    def _new(self, name: str, address: str, proof: str) -> ProjectRow:
        """A project that nobody has announced yet. Raises RequestError where another Label Studio has it."""
        for other in self._alike(name):
            if time.monotonic() - self._announced_at.get(other.key, -math.inf) < LIVE_S:
                raise RequestError(
                    f"project {name} belongs to the Label Studio at {other.address}, and {address} announces it too: give each "
                    f"Label Studio a backend of its own; if it has moved, set MASKLOOM_LABEL_STUDIO_URL and start this one anew"
                )
        return ProjectRow(self._free_key(name), name, address, proof, time.time())

    def _free_key(self, name: str) -> str:
        """A key that no other project has: the same name may be that of several Label Studios."""
        keys = (project_key(name, studio) for studio in itertools.count(1))
        return next(key for key in keys if key not in self._rows)

    def _keep(self, row: ProjectRow) -> None:
        before = self._rows.pop(row.key, None)
        self._rows[row.key] = row
        while len(self._rows) > MOST_PROJECTS:
            oldest = next((key for key, each in self._rows.items() if not each.address), next(iter(self._rows)))
            del self._rows[oldest]
            self._announced_at.pop(oldest, None)
        is_known = before is not None and replace(before, seen_at=row.seen_at) == row and row.seen_at - before.seen_at < FRESH_S
        if not is_known:
            self._writer.offer(partial(self._table.put, row))


def _moved(known: ProjectRow, name: str, address: str, proof: str) -> ProjectRow:
    """A project as it is after an announcement; a better address is not given up for one of this machine."""
    if not address or _is_worse(address, known.address):
        address, proof = known.address, known.proof
    return replace(known, name=_fuller(known.name, name), address=address, proof=proof, seen_at=time.time())


def project_name(project: object) -> str:
    """A project's name as requests write it: its number and, where it was told, the second in which it was made; what no store
    can hold as it was sent, under a hash of it.
    """
    text = str(project) if isinstance(project, str | int | float) and not isinstance(project, bool) else ""
    number, _, made = text.strip().partition(".")
    made = made.partition(".")[0]
    return short_name(f"{number}.{made}" if made else number)


def _fuller(known: str, name: str) -> str:
    """Of two names of a project the one that says when it was made."""
    return name if name.startswith(f"{known}.") else known


def _is_worse(address: str, known: str) -> bool:
    """Whether an address means this machine alone, and the known one does not."""
    return _is_local(address) and bool(known) and not _is_local(known)


def _is_local(address: str) -> bool:
    base = read_base(address)
    return base is not None and is_loopback(base)
