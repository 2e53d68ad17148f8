"""The memory in a real PostgreSQL server, which several servers of ours may share: it is the same as in a file."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sql

from backend.stores.balance import Balance
from backend.stores.curation import Curation
from backend.stores.database import Database, all_tables
from backend.stores.ledger import Ledger
from backend.stores.memory import MemoryBank
from backend.stores.rows import PINNED
from backend.stores.sessions import SessionStore
from backend.stores.snapshots import Snapshots
from backend.values.session import Verdict
from tests.backend.stores.test_memory import CAT, regions, told
from tests.labelstudio.conftest import free_port

pytestmark = pytest.mark.slow

pytest.importorskip("psycopg")


def programs() -> Path | None:
    """Where initdb and pg_ctl are: on the path, or where Debian keeps them."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    return next((path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own, in a folder of its own; PostgreSQL does not run as root."""
    where = programs()
    if where is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder, port = Path(f"/tmp/maskloom-postgresql-{os.getpid()}"), free_port()
    folder.mkdir()
    as_somebody = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_somebody:
        shutil.chown(folder, "postgres", "postgres")
    data, log = folder / "data", folder / "log"
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"

    def run(program: str, *arguments: str) -> None:
        subprocess.run([*as_somebody, str(where / program), *arguments], check=True, stdout=subprocess.DEVNULL, cwd="/")

    run("initdb", "-D", str(data), "-U", "maskloom", "-A", "trust", "-E", "UTF8")
    run("pg_ctl", "-D", str(data), "-l", str(log), "-o", options, "-w", "start")
    try:
        yield f"postgresql+psycopg://maskloom@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    MemoryBank(database)
    yield database
    with database.writing() as connection:
        for table in reversed(all_tables.sorted_tables):
            connection.execute(sql.delete(table))
    database.close()


def test_a_memory_is_kept_corrected_frozen_and_forgotten(database: Database) -> None:
    bank, snapshots, curation = MemoryBank(database), Snapshots(database), Curation(database)
    for number in range(3):
        bank.submit(told(str(number), number + 1.0, replace(CAT, region=f"r{number}", verdict=Verdict.ACCEPTED, iou=1.0)))
    bank.submit(told("9", 9.0, replace(CAT, region="no", verdict=Verdict.REJECTED)))
    assert not bank.submit(told("2", 1.0, CAT)), "an older state"
    oldest = next(each for each in curation.regions("1", "Cat", 0, 9) if each.example.region == "r0")
    curation.mark("1", oldest.id, PINNED)
    assert regions(bank.recall("1", "Cat", 9)) == ["r0", "r2", "r1"]
    assert regions(bank.rejected("1", "Cat", 9)) == ["no"]
    assert snapshots.freeze("1") == snapshots.freeze("1") == snapshots.get("1", 1)
    snapshots.choose("1", 1)
    bank.submit(told("2", 20.0))
    assert regions(bank.recall("1", "Cat", 9, snapshot=1)) == ["r0", "r2", "r1"]
    assert regions(bank.recall("1", "Cat", 9)) == ["r0", "r1"]
    (row,) = Balance(database).rows("1")
    assert (row.accepted, row.rejected) == (2, 1)
    bank.forget("1", annotations=["1"])
    assert snapshots.for_bulk("1") is None
    lines = list(curation.export("1"))
    curation.switch_off("1")
    assert bank.labels("1") == {}
    assert curation.read_export("2", lines) == 3


def test_two_servers_that_write_at_once_lose_nothing(url: str, database: Database) -> None:
    def work(server: int) -> None:
        other = Database(url)
        bank = MemoryBank(other)
        for number in range(20):
            bank.submit(told(f"{server}-{number}", number + 1.0, replace(CAT, region=f"{server}-{number}")))
        other.close()

    MemoryBank(database).submit(told("first", 1.0, CAT))
    threads = [threading.Thread(target=work, args=(server,)) for server in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert MemoryBank(database).labels("1") == {"Cat": 61}


def test_the_other_stores_are_there_too(database: Database) -> None:
    Ledger(database)
    SessionStore(database, 1)
    with database.reading() as connection:
        assert {"examples", "rounds", "bulk_runs", "alembic_version"} <= set(sql.inspect(connection).get_table_names())
