"""The commands about a memory, as they are typed, over a real database file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli import cli
from backend.stores.curation import Curation
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from backend.stores.snapshots import Snapshots
from backend.values.errors import RequestError
from backend.values.session import Verdict
from tests.backend.stores.test_memory import CAT, told


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    monkeypatch.setenv("MASKLOOM_DATABASE", url)
    database = Database(url)
    bank = MemoryBank(database)
    shown = replace(CAT, project="3.17@1", verdict=Verdict.ACCEPTED, iou=1.0)
    bank.submit(replace(told("70", 1_795_000_000.0, shown), project="3.17@1"))
    return database


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_balance_is_printed_and_written(database: Database, tmp_path: Path) -> None:
    said = run("balance", "3", "--out", str(tmp_path / "balance.json"))
    assert "Cat" in said.splitlines()[1]
    assert "100% (21%-100%)" in said
    (row,) = json.loads((tmp_path / "balance.json").read_text())
    assert (row["label"], row["accepted"], row["seconds"]) == ("Cat", 1, 12.5)


def test_versions_are_shown_and_chosen_and_a_copy_is_taken_elsewhere(database: Database, tmp_path: Path) -> None:
    Snapshots(database).freeze("3.17@1")
    assert "memory@1: 1 regions, not used" in run("memory", "show", "3")
    run("memory", "use", "3", "1")
    assert "used by bulk runs" in run("memory", "show", "3.17@1")
    run("memory", "use", "3", "none")
    assert "not used" in run("memory", "show", "3")
    run("memory", "export", "3", "--out", str(tmp_path / "copy.jsonl"))
    assert "1 annotations were taken over" in run("memory", "import", "9", str(tmp_path / "copy.jsonl"))
    assert MemoryBank(database).labels("9") == {"Cat": 1}


def test_a_project_opts_out_and_in(database: Database) -> None:
    run("memory", "off", "3")
    assert Curation(database).is_off("3.17@1")
    run("memory", "on", "3")
    assert not Curation(database).is_off("3.17@1")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("balance", "4"), "0 projects are remembered as 4 here, where there are: 3.17@1"),
        (("memory", "use", "3", "latest"), "a number or none"),
        (("memory", "use", "3", "5"), "has no memory@5"),
        (("memory", "import", "3", "nowhere.jsonl"), "cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(database: Database, arguments: tuple[str, ...], reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        run(*arguments)
