"""The memory is what the annotations say: after a storm of events, after a crash, and when they are read anew."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from backend.labelstudio.api import LabelStudio
from backend.serving import webhooks
from backend.serving.remembering import Remembered, remember
from backend.serving.webhooks import AnnotationEvents
from backend.stores import memory
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from tests.backend.bulk.studio_double import CONFIG, TOKEN, StudioDouble, running

LABELS = ("red", "blue")
PROJECT = {"id": 1, "label_config": CONFIG}


@pytest.fixture
def studio() -> Iterator[StudioDouble]:
    with running(StudioDouble().with_tasks(40)) as double:
        yield double


def moment(second: int) -> str:
    return f"2026-11-20T10:{second // 60:02d}:{second % 60:02d}.000000Z"


def stroke(name: str, label: str, x: int, origin: str = "manual") -> dict[str, Any]:
    touches = [{"type": "add", "relativePoints": [x, 20, x + 20, 60], "relativeStrokeWidth": 8}]
    value = {"format": "rle", "touches": touches, "brushlabels": [label]}
    size = {"original_width": 120, "original_height": 80}
    return {
        "id": name,
        "type": "brushlabels",
        "from_name": "brush",
        "to_name": "image",
        "origin": origin,
        **size,
        "value": value,
    }


def annotation(number: int, task: int, second: int, *regions: dict[str, Any]) -> dict[str, Any]:
    facts = {"was_cancelled": False, "updated_at": moment(second), "completed_by": 3, "lead_time": 4.5}
    return {"id": number, "task": task, "result": list(regions), **facts}


def event(action: str, double: StudioDouble, found: dict[str, Any]) -> bytes:
    task = {"id": found["task"], "data": double.tasks[found["task"]]}
    viewed = next((each for each in double.predictions if each["task"] == found["task"]), {})
    told = {"action": action, "annotation": {**found, "prediction": viewed}, "task": task, "project": PROJECT}
    return json.dumps(told).encode()


def rows(url: str) -> list[tuple[Any, ...]]:
    """Everything that is remembered, whatever the order in which it came."""
    kept = [column for column in memory.examples.c if column.name not in ("id", "mark", "stamp", "thumbnail")]
    with Database(url).reading() as connection:
        return sorted(map(tuple, connection.execute(sql.select(*kept))), key=repr)


def read_anew(double: StudioDouble, url: str) -> Remembered:
    with LabelStudio(double.url, TOKEN) as api:
        return remember(api, api.project(1), "1", MemoryBank(Database(url)), lambda stand: None)


def history(double: StudioDouble, lot: random.Random, most: int) -> list[bytes]:
    """Events of so many annotations that come, change and go, and those of tasks that go; the double stands as they end."""
    double.predictions = [
        {"id": task, "task": task, "model_version": "e-1", "score": 1, "result": [stroke(f"mk_{task}", "red", 10)]}
        for task in range(1, 21)
    ]
    told, second = [], 0
    for number in range(1, most + 1):
        task = lot.randint(1, 40)
        for version in range(lot.randint(1, 9)):
            second += 1
            kept = [stroke(f"mk_{task}", lot.choice(LABELS), 10, "prediction")] if lot.random() < 0.5 else []
            drawn = [stroke(f"r{number}{k}", lot.choice(LABELS), lot.randint(0, 70)) for k in range(lot.randint(0, 3))]
            double.annotations[number] = annotation(number, task, second, *kept, *drawn)
            told.append(event("ANNOTATION_UPDATED" if version else "ANNOTATION_CREATED", double, double.annotations[number]))
    for number in lot.sample(sorted(double.annotations), most // 5):
        del double.annotations[number]
        told.append(json.dumps({"action": "ANNOTATIONS_DELETED", "annotations": [{"id": number}], "project": PROJECT}).encode())
    for task in lot.sample(sorted(double.tasks), 5):
        del double.tasks[task]
        double.annotations = {number: each for number, each in double.annotations.items() if each["task"] != task}
        told.append(json.dumps({"action": "TASKS_DELETED", "tasks": [{"id": task}], "project": PROJECT}).encode())
    return told


def storm(told: list[bytes], lot: random.Random, number: int) -> list[bytes]:
    """So many events: all that were told, some of them twice, in any order, among others that are broken."""
    broken = [b"", b"{", b"[" * 5_000, b'{"action": "ANNOTATION_CREATED"}', told[0][: len(told[0]) // 2], b"\xff\xfe\x00"]
    events = [*told, *(lot.choice(broken) for _ in range(60))]
    events += [lot.choice(told) for _ in range(number - len(events))]
    lot.shuffle(events)
    return events


@pytest.mark.slow
def test_after_a_storm_of_events_the_bank_is_what_the_annotations_say(
    studio: StudioDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some come twice, out of order, broken, or about what is deleted, while another program holds the database."""
    monkeypatch.setattr(webhooks, "PAUSES_S", (0.05,) * 400)
    lot, told = random.Random(5), f"sqlite:///{tmp_path / 'told.sqlite'}"
    events = storm(history(studio, lot, 50), lot, 400)
    taking = AnnotationEvents(MemoryBank(Database(told, wait_s=0.1)))
    stranger = sqlite3.connect(tmp_path / "told.sqlite", isolation_level=None, check_same_thread=False)
    stranger.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(1, lambda: stranger.execute("ROLLBACK"))
    release.start()
    for body in events:
        taking.enqueue(body)
    taking.wait()
    release.join()
    stranger.close()
    anew = f"sqlite:///{tmp_path / 'anew.sqlite'}"
    done = read_anew(studio, anew)
    assert len(events) == 400
    assert done.annotations == len(studio.annotations) > 25
    assert rows(told) == rows(anew)
    assert {row[10] for row in rows(told)} == {"accepted", "corrected", "missed", "rejected", "drawn"}


@pytest.mark.slow
def test_reading_anew_twice_changes_nothing_and_forgets_what_is_gone(studio: StudioDouble, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    history(studio, random.Random(6), 40)
    read_anew(studio, url)
    before, changes = rows(url), MemoryBank(Database(url)).changes("1", LABELS)
    assert read_anew(studio, url).gone == 0
    assert rows(url) == before
    gone = next(iter(studio.annotations))
    had = [row for row in before if row[2] == str(gone)]
    del studio.annotations[gone]
    assert read_anew(studio, url).gone == 1
    assert rows(url) == [row for row in before if row not in had]
    assert MemoryBank(Database(url)).changes("1", LABELS) != changes


def test_an_annotation_that_was_told_to_be_deleted_and_is_there_is_remembered_again(
    studio: StudioDouble, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    studio.annotations[9] = annotation(9, 2, 5, stroke("a", "red", 10))
    MemoryBank(Database(url)).forget("1", annotations=["9"], tasks=["2"])
    assert read_anew(studio, url).regions == 1
    assert len(MemoryBank(Database(url)).recall("1", "red", 5)) == 1


KILLED = """
import os, signal, sys
from backend.serving.webhooks import AnnotationEvents
from backend.stores.database import Database
from backend.stores.memory import MemoryBank

class Killed(MemoryBank):
    def submit(self, told):
        if told.annotation == "2":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().submit(told)

taking = AnnotationEvents(Killed(Database(sys.argv[1])))
for name in sys.argv[2:]:
    taking.enqueue(open(name, "rb").read())
taking.wait()
"""


def test_what_a_killed_server_was_told_and_had_not_written_is_restored(studio: StudioDouble, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    files = []
    for number in (1, 2, 3):
        studio.annotations[number] = annotation(number, number, number, stroke(f"r{number}", "red", 10 * number))
        files.append(tmp_path / f"{number}.json")
        files[-1].write_bytes(event("ANNOTATION_CREATED", studio, studio.annotations[number]))
    done = subprocess.run([sys.executable, "-c", KILLED, url, *map(str, files)], check=False, timeout=120)
    assert done.returncode == -9
    assert [row[2] for row in rows(url)] == ["1"]
    read_anew(studio, url)
    assert [row[2] for row in rows(url)] == ["1", "2", "3"]


@pytest.mark.long
def test_a_database_that_is_locked_for_a_minute_costs_no_event(studio: StudioDouble, tmp_path: Path) -> None:
    """As the server waits: half a second for the lock, and longer and longer in between."""
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    taking = AnnotationEvents(MemoryBank(Database(url, wait_s=0.5)))
    events = storm(history(studio, random.Random(7), 130), random.Random(7), 1_000)
    with sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None) as stranger:
        stranger.execute("BEGIN EXCLUSIVE")
        for body in events:
            taking.enqueue(body)
        time.sleep(60)
        stranger.execute("ROLLBACK")
    stranger.close()
    taking.wait()
    anew = f"sqlite:///{tmp_path / 'anew.sqlite'}"
    read_anew(studio, anew)
    assert rows(url) == rows(anew)
