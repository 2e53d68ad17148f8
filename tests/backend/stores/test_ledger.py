"""The ledger over real SQLite files: what a killed run left behind decides what the next one does."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from backend.stores import ledger as ledger_module
from backend.stores.album import PICTURES_KEPT, Album, Picture
from backend.stores.database import Database
from backend.stores.ledger import AGAIN, DONE, FAILED, PAGE, PARKED, SENDING, WAITING, Entry, Item, Ledger, RunIdentity

IDENTITY = RunIdentity("here", "there", "colour-1", "0" * 64)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 'ledger.sqlite'}")


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def items(count: int) -> list[Item]:
    return [Item(f"{number:05d}.png", {"id": number, "data": {"image": f"/{number}.png"}}, "") for number in range(count)]


def entry(key: str, state: str = DONE, reason: str = "") -> Entry:
    return Entry(key, "", state, reason, [["red", 0.9, 4]])


def keys_waiting(ledger: Ledger, run: int) -> list[str]:
    return [item.key for item in ledger.waiting(run)]


def test_the_same_identity_is_the_same_run(ledger: Ledger) -> None:
    assert ledger.find(IDENTITY) is None
    run = ledger.open(IDENTITY)
    assert ledger.open(IDENTITY) == run
    assert ledger.open(RunIdentity("here", "there", "colour-2", "1" * 64)) != run
    found = ledger.find(IDENTITY)
    assert found is not None
    assert (found.id, found.state, found.version) == (run, "open", "colour-1")


def test_a_run_about_an_earlier_project_of_the_same_number_is_another_one(ledger: Ledger) -> None:
    earlier = ledger.open(IDENTITY)
    made_since = replace(IDENTITY, made_at=time.time() + 1)
    assert ledger.find(made_since) is None
    assert ledger.open(made_since) != earlier
    assert ledger.run(earlier) is not None, "what it did is still known"


def test_items_wait_in_order_and_more_than_a_page_of_them(ledger: Ledger) -> None:
    run = ledger.open(IDENTITY)
    wanted = items(2 * PAGE + 7)
    assert ledger.ask(run, wanted) == len(wanted)
    assert list(ledger.waiting(run)) == wanted


def test_items_may_be_settled_while_the_rest_is_read(ledger: Ledger) -> None:
    run = ledger.open(IDENTITY)
    ledger.ask(run, items(2 * PAGE))
    seen = []
    for item in ledger.waiting(run):
        seen.append(item.key)
        if len(seen) % 100 == 0:
            ledger.settle(run, [entry(key) for key in seen[-100:]])
    assert seen == [item.key for item in items(2 * PAGE)]
    assert ledger.counts(run) == {DONE: 2 * PAGE}


def test_done_stays_done_failures_are_tried_again_and_unlisted_items_are_left_out(ledger: Ledger) -> None:
    run = ledger.open(IDENTITY)
    ledger.ask(run, items(5))
    ledger.settle(run, [entry("00000.png"), entry("00001.png", FAILED, "broken"), entry("00004.png")])
    ledger.open(IDENTITY)
    assert ledger.ask(run, items(3)) == 3
    assert keys_waiting(ledger, run) == ["00001.png", "00002.png"]


def test_force_asks_again_for_what_is_done_even_if_the_forced_run_was_killed(ledger: Ledger) -> None:
    """A killed --force must not forget that an earlier answer is to be replaced: it would be there twice."""
    run = ledger.open(IDENTITY)
    ledger.ask(run, items(3))
    ledger.settle(run, [entry(item.key) for item in items(3)])
    ledger.open(IDENTITY)
    ledger.ask(run, items(3), AGAIN)
    assert ledger.send(run, [entry("00000.png")]) == {"00000.png"}
    ledger.open(IDENTITY)
    ledger.ask(run, items(3), WAITING)
    assert keys_waiting(ledger, run) == [item.key for item in items(3)]
    assert ledger.send(run, [entry(item.key) for item in items(3)]) == {item.key for item in items(3)}


def test_a_forced_run_that_was_killed_asks_for_nothing_that_is_not_listed_now(ledger: Ledger) -> None:
    run = ledger.open(IDENTITY)
    ledger.ask(run, items(4))
    ledger.settle(run, [entry(item.key) for item in items(4)])
    ledger.ask(run, items(4), AGAIN)
    ledger.send(run, [entry("00000.png")])
    ledger.open(IDENTITY)
    ledger.ask(run, items(1))
    assert keys_waiting(ledger, run) == ["00000.png"]
    assert ledger.counts(run) == {AGAIN: 1, PARKED: 3}


def test_what_another_run_puts_in_the_same_place_outdates_what_was_there(ledger: Ledger) -> None:
    first, second, elsewhere = (
        ledger.open(RunIdentity("here", target, version, version * 64))
        for target, version in (("there", "1"), ("there", "2"), ("elsewhere", "3"))
    )
    for run in (first, second, elsewhere):
        ledger.ask(run, items(3))
    for run in (first, elsewhere):
        ledger.settle(run, [entry(item.key) for item in items(3)])
    ledger.send(second, [entry("00000.png"), entry("00001.png", FAILED, "broken")])
    assert ledger.counts(first) == {PARKED: 1, DONE: 2}
    assert ledger.counts(elsewhere) == {DONE: 3}
    ledger.open(RunIdentity("here", "there", "1", "1" * 64))
    ledger.ask(first, items(3))
    assert ledger.send(first, [entry(item.key) for item in ledger.waiting(first)]) == {"00000.png"}


def test_an_item_that_is_listed_twice_is_one_item(ledger: Ledger) -> None:
    """A list that is read page by page while somebody sorts it anew names some tasks twice."""
    run = ledger.open(IDENTITY)
    ledger.ask(run, [*items(3), *items(2)])
    assert list(ledger.waiting(run)) == items(3)


def test_what_was_sent_by_a_clock_that_is_ahead_was_sent_now(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run waits for what was sent lately; it must not wait for an hour because another machine's clock was wrong."""
    run = ledger.open(IDENTITY)
    ledger.ask(run, items(1))
    now = time.time()
    monkeypatch.setattr(ledger_module.time, "time", lambda: now + 3600)
    ledger.send(run, [entry("00000.png")])
    monkeypatch.setattr(ledger_module.time, "time", lambda: now)
    assert ledger.in_doubt(run) == (["00000.png"], 0.0)


def test_what_was_on_its_way_is_in_doubt_until_the_target_says(ledger: Ledger) -> None:
    run = ledger.open(IDENTITY)
    ledger.ask(run, items(4))
    assert ledger.send(run, [entry(item.key) for item in items(3)]) == set()
    assert ledger.counts(run) == {SENDING: 3, WAITING: 1}
    ledger.open(IDENTITY)
    keys, age_s = ledger.in_doubt(run)
    assert sorted(keys) == [item.key for item in items(3)]
    assert 0 <= age_s < 60
    ledger.arrive(run, ["00000.png"], ["00001.png", "00002.png"])
    ledger.ask(run, items(4))
    assert keys_waiting(ledger, run) == ["00001.png", "00002.png", "00003.png"]
    assert [found.regions for found in ledger.entries(run, DONE)] == [[["red", 0.9, 4]]]


def test_another_process_sees_the_same(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.open(IDENTITY)
    ledger.ask(run, items(2))
    ledger.settle(run, [entry("00000.png", FAILED, "no such file")])
    ledger.close(run, "broken", "the disk is full")
    other = Ledger(Database(f"sqlite:///{tmp_path / 'ledger.sqlite'}"))
    assert [(found.key, found.reason) for found in other.entries(run, FAILED)] == [("00000.png", "no such file")]
    assert [(row.state, row.note) for row in other.runs()] == [("broken", "the disk is full")]


def test_an_album_keeps_the_lowest_ranks_of_all_that_were_offered(database: Database) -> None:
    album = Album(database)
    ranks = [(7919 * number % 101) / 101 for number in range(100)]
    for start in range(0, 100, 9):
        album.offer(1, "sample", [picture(f"{k}", ranks[k]) for k in range(start, min(start + 9, 100))])
    assert [found.rank for found in album.pictures(1, "sample")] == sorted(ranks)[:PICTURES_KEPT]
    assert album.pictures(2, "sample") == []


def test_an_album_has_the_newest_picture_of_an_item(database: Database) -> None:
    album = Album(database)
    album.offer(1, "unsure", [picture("a", 0.2)])
    album.offer(1, "unsure", [picture("a", 0.7)])
    assert [(found.key, found.rank) for found in album.pictures(1, "unsure")] == [("a", 0.7)]


def picture(key: str, rank: float) -> Picture:
    return Picture(key, rank, "", "", b"jpeg")
