"""A project is one of a certain Label Studio: two of the same number share nothing, and one that moves loses nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sql

from backend.images.sites import Sites
from backend.serving import projects as module
from backend.serving.projects import Projects, project_name
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from backend.stores.projects import ProjectTable, number_of
from backend.stores.sessions import Notes, SessionStore
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from backend.values.session import Example, SessionKey
from prompts.kinds import PromptSet
from tests.backend.stores.test_sessions import FIRST, SECOND, round_of

A, B = "http://one.example:8080", "http://two.example"
OLD, NEW = "1.1700000001", "1.1800000002"
Open = Callable[..., Projects]


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 'store.sqlite'}")


@pytest.fixture
def opened(database: Database) -> Open:
    """Projects as a server has them that begins now, over what is stored."""

    def open_them(own: str | None = None) -> Projects:
        return Projects(ProjectTable(database), Sites(own, None).register, own)

    return open_them


def test_projects_of_one_number_made_at_different_times_have_different_keys(opened: Open) -> None:
    projects = opened()
    keys = {projects.register(OLD, A, "a"), projects.register(NEW, B, "b")}
    assert len(keys) == 2
    assert {projects.key(OLD), projects.key(NEW)} == keys


def test_a_key_is_short_and_tells_the_number(opened: Open) -> None:
    key = opened().register("12345678.1700000001", "https://" + "long" * 50 + ".example/studio", "a")
    assert len(key) <= 50
    assert number_of(key) == "12345678"


def test_a_key_stays_whichever_of_predict_and_setup_comes_first(opened: Open) -> None:
    projects = opened()
    asked_first = projects.key(OLD)
    assert projects.register(OLD, A, "a") == asked_first


def test_a_key_stays_over_a_restart_before_anything_is_announced_again(opened: Open) -> None:
    first = opened()
    key = first.register(OLD, A, "a")
    first.wait()
    assert opened().key(OLD) == key


def test_a_foreign_announcement_does_not_take_a_project_over(database: Database) -> None:
    told = Sites(None, None)
    projects = Projects(ProjectTable(database), told.register)
    key = projects.register(OLD, A, "a")
    with pytest.raises(RequestError, match=r"belongs to the Label Studio at http://one\.example:8080"):
        projects.register(OLD, B, "b")
    assert projects.key(OLD) == key
    site = told.of(key)
    assert site is not None
    assert (str(site.base).rstrip("/"), site.token) == (A, "a")


def test_after_an_hour_of_silence_another_label_studio_may_have_the_same_project(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects = opened()
    first = projects.register(OLD, A, "a")
    monkeypatch.setattr(module, "LIVE_S", -1.0)
    second = projects.register(OLD, B, "b")
    assert first != second
    assert projects.key(OLD) == second


def test_a_label_studio_that_moves_is_known_by_its_token(opened: Open) -> None:
    projects = opened()
    key = projects.register(OLD, "http://localhost:8080", "a")
    assert projects.register(OLD, A, "a") == key
    assert projects.register(OLD, "http://localhost:8080", "other") == key, "this machine's address is no better one"


def test_with_an_address_of_our_own_there_is_one_label_studio_whatever_it_calls_itself(opened: Open) -> None:
    projects = opened("http://studio:8080")
    assert projects.register(OLD, A, "a") == projects.register(OLD, B, "b") == projects.key(OLD)


@pytest.mark.parametrize(("bare", "full"), [("1", OLD), (1, OLD)])
def test_a_number_alone_means_the_only_project_that_has_it(opened: Open, bare: object, full: str) -> None:
    projects = opened()
    assert projects.key(bare) == projects.key(full) == projects.key(bare)
    assert projects.key(NEW) != projects.key(full)
    assert projects.key(bare) not in (projects.key(NEW), projects.key(full)), "of several nobody knows which"


@pytest.mark.parametrize(
    ("sent", "name"), [(" 3.17 ", "3.17"), ("3.17.5", "3.17"), (3, "3"), (None, ""), (True, ""), ({}, ""), ("p", "p")]
)
def test_a_name_is_a_number_and_a_second(sent: object, name: str) -> None:
    assert project_name(sent) == name


@pytest.mark.parametrize("sent", ["\udfff.1", "\0", "9" * 400, "1." + "2" * 400])
def test_a_name_that_no_database_holds_is_one_that_it_does(sent: str, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    projects = opened()
    assert projects.key(sent) == projects.key(sent) != projects.key(sent + "0")
    projects.wait()
    assert projects.key(sent) in {row.key for row in projects._table.rows()}
    assert not caplog.records


def test_the_number_of_projects_is_bounded_and_announced_ones_stay(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PROJECTS", 5)
    projects = opened()
    announced = projects.register(OLD, A, "a")
    for number in range(2, 20):
        projects.key(f"{number}.17")
    assert len(projects._rows) == 5
    assert announced in projects._rows


def example(project: str) -> Example:
    return Example(project, "7", "70", "r", "/a.png", "Cat", RunLengths.of(np.eye(4, dtype=np.bool_)), made_at=time.time())


def session(project: str) -> SessionKey:
    return SessionKey(project, "7", "me", "image", 0, "Cat")


def test_what_earlier_releases_kept_under_a_number_goes_to_the_project_that_has_it(opened: Open, database: Database) -> None:
    bank, sessions = MemoryBank(database), SessionStore(database, 24)
    done = round_of(FIRST)
    bank.replace("1", "70", [example("1")])
    sessions.remember(session("1"), "space", done, Notes(session("1"), [{"id": "k"}]))
    projects = opened()
    key = projects.register(OLD, A, "a")
    projects.wait()
    assert [each.project for each in bank.recall(key, "Cat", 5)] == [key]
    assert bank.recall("1", "Cat", 5) == []
    assert sessions.noted([session(key)]) == [{"id": "k"}]
    assert sessions.recall([session(key)], "space", PromptSet((FIRST, SECOND))) is not None


def test_what_is_older_than_a_project_is_not_its_own(opened: Open, database: Database) -> None:
    bank = MemoryBank(database)
    bank.replace("1", "70", [example("1")])
    with database.writing() as connection:
        connection.execute(sql.text("UPDATE examples SET made_at = 1700000000"))
    projects = opened()
    key = projects.register(NEW, A, "a")
    projects.wait()
    assert bank.recall(key, "Cat", 5) == []
