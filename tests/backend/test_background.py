"""The background worker: one after the other, bounded in number and bytes, and a failure costs only itself."""

from __future__ import annotations

import threading

import pytest

from backend.background import Worker
from backend.values.errors import RequestError


def test_items_are_handled_in_order_by_one_thread() -> None:
    seen: list[tuple[int, str]] = []
    worker: Worker[int] = Worker("tester", lambda item: seen.append((item, threading.current_thread().name)), most=100)
    assert all(worker.offer(number) for number in range(50))
    worker.wait()
    assert seen == [(number, "tester") for number in range(50)]


def test_what_finds_no_room_is_refused_and_there_is_room_again_later() -> None:
    under_way, release = threading.Event(), threading.Event()

    def handle(item: bytes) -> None:
        under_way.set()
        release.wait(10)

    worker: Worker[bytes] = Worker("tester", handle, most=2, most_bytes=10, size_of=len)
    assert worker.offer(b"1234")
    assert under_way.wait(10)
    assert worker.offer(b"5678")
    assert not worker.offer(b"9ab"), "with what is being handled it would be 11 bytes"
    assert worker.offer(b"")
    assert not worker.offer(b""), "two wait already"
    release.set()
    worker.wait()
    assert worker.offer(b"0123456789")
    assert not worker.offer(b"0123456789a")
    worker.wait()


def test_an_item_that_fails_is_reported_and_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def handle(item: str) -> None:
        if item == "wrong":
            raise RequestError("task 7 has no image")
        if item == "broken":
            raise KeyError(item)
        seen.append(item)

    worker: Worker[str] = Worker("tester", handle, most=10)
    for item in ("a", "wrong", "broken", "b"):
        worker.offer(item)
    worker.wait()
    assert seen == ["a", "b"]
    assert "task 7 has no image" in caplog.text
    assert "KeyError" in caplog.text


def test_a_closed_worker_ends_with_what_it_has_and_takes_no_more() -> None:
    seen: list[int] = []
    worker: Worker[int] = Worker("tester", seen.append, most=10)
    for number in range(5):
        worker.offer(number)
    worker.close(patience_s=10)
    assert seen == [0, 1, 2, 3, 4]
    assert not worker.offer(5)
    worker.wait()


def test_a_worker_that_is_stuck_holds_nobody_up_for_longer_than_was_said(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    worker: Worker[int] = Worker("tester", lambda item: release.wait(10) and None, most=10)
    worker.offer(1)
    worker.close(patience_s=0.05)
    assert "tester" in caplog.text
    release.set()


def test_a_worker_that_was_never_used_is_closed_at_once() -> None:
    worker: Worker[int] = Worker("tester", lambda item: None, most=1)
    worker.close(patience_s=10)
    worker.wait()


def test_a_worker_that_is_closed_twice_can_still_be_waited_for() -> None:
    seen: list[int] = []
    worker: Worker[int] = Worker("tester", seen.append, most=1)
    worker.offer(1)
    worker.close(patience_s=10)
    worker.close(patience_s=10)
    waiting = threading.Thread(target=worker.wait, daemon=True)
    waiting.start()
    waiting.join(10)
    assert not waiting.is_alive()
    assert seen == [1]
