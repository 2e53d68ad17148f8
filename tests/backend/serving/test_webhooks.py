"""Events wait in a queue that is bounded in number and in bytes, and a broken one harms no other."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from backend.serving import webhooks
from backend.serving.webhooks import AnnotationEvents
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from backend.values.session import Example, Submission
from tests.backend.labelstudio.test_events import event


class SlowBank(MemoryBank):
    """A bank that waits until it may go on, and counts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Database(f"sqlite:///{folder / 'store.sqlite'}"))
        self.may_go_on = threading.Event()
        self.replaced = 0

    def submit(self, told: Submission) -> bool:
        self.may_go_on.wait(10)
        self.replaced += 1
        return True


@pytest.fixture
def bank(tmp_path: Path) -> SlowBank:
    return SlowBank(tmp_path)


CREATED = json.dumps(event("annotation_created")).encode()


def test_what_is_too_much_to_wait_is_left_out(bank: SlowBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "MOST_BYTES", 2 * len(CREATED))
    taking = AnnotationEvents(bank)
    for _ in range(4):
        taking.enqueue(CREATED)
    bank.may_go_on.set()
    taking.wait()
    assert bank.replaced == 2
    taking.enqueue(CREATED)
    taking.wait()
    assert bank.replaced == 3, "what was read waits no longer"


def test_broken_events_harm_no_other(bank: SlowBank) -> None:
    bank.may_go_on.set()
    taking = AnnotationEvents(bank)
    for body in (b"", b"[" * 100_000, b'{"action": "ANNOTATION_CREATED", "project": {}}', CREATED):
        taking.enqueue(body)
    taking.wait()
    assert bank.replaced == 1


def test_an_accepted_annotation_outlasts_a_database_that_another_process_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Label Studio was told 201 and does not send an event twice; it was lost after five seconds."""
    monkeypatch.setattr(webhooks, "PAUSES_S", (0.05,) * 200)
    bank = MemoryBank(Database(f"sqlite:///{tmp_path / 'store.sqlite'}", wait_s=0.05))
    stranger = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
    stranger.execute("BEGIN EXCLUSIVE")
    taking = AnnotationEvents(bank)
    taking.enqueue(CREATED)
    while caplog.text.count("tried again") < 3:
        time.sleep(0.01)
    stranger.execute("ROLLBACK")
    taking.wait()
    assert len(bank.recall("1", "Cat", 5)) == 1


@pytest.mark.parametrize(
    "gone", [{"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 1}]}, {"action": "TASKS_DELETED", "tasks": [{"id": 1}]}]
)
def test_a_deleted_annotation_and_those_of_a_deleted_task_are_forgotten(tmp_path: Path, gone: dict[str, Any]) -> None:
    bank = MemoryBank(Database(f"sqlite:///{tmp_path / 'store.sqlite'}"))
    taking = AnnotationEvents(bank)
    taking.enqueue(CREATED)
    taking.wait()
    found: list[Example] = bank.recall("1", "Cat", 5)
    assert len(found) == 1
    taking.enqueue(json.dumps({**gone, "project": {"id": 2}}).encode())
    taking.wait()
    assert len(bank.recall("1", "Cat", 5)) == 1, "another project's numbers mean other things"
    taking.enqueue(json.dumps({**gone, "project": {"id": 1}}).encode())
    taking.wait()
    assert bank.recall("1", "Cat", 5) == []


def annotated(image: str) -> bytes:
    told = event("annotation_created")
    told["task"]["data"]["image"] = image
    return json.dumps(told).encode()


def test_an_event_about_an_image_that_nobody_asked_about_shows_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever reaches the address of webhooks would choose what this server fetches."""
    bank = MemoryBank(Database(f"sqlite:///{tmp_path / 'store.sqlite'}"))
    taking = AnnotationEvents(bank, knows=lambda url, project: url == "http://images.example/known.png")
    taking.enqueue(annotated("http://images.example/planted.png"))
    taking.wait()
    assert bank.labels("1") == {}
    assert "no task with these addresses was asked about" in caplog.text
    taking.enqueue(annotated("http://images.example/known.png"))
    taking.wait()
    assert bank.labels("1") == {"Cat": 1}
