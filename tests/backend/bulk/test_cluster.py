"""The same run on Ray's actors: the same predictions, also when an actor dies in the middle."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PillowImage

from backend.background import AwayError
from backend.bulk import cluster as engine
from backend.bulk.reader import TaskReader, config_for
from backend.bulk.spec import JobSpec
from backend.bulk.work import PipelineLimits
from backend.demo.filling import find_examples
from backend.values.settings import Settings
from prompts.kinds import KeyedImage
from tests.backend.bulk.runs import context_for, job_of, picture_folder

pytest.importorskip("ray", reason="needs Ray: pip install 'maskloom[ray]'")
pytestmark = pytest.mark.timeout(900)

MASKLOOM = Path(sys.executable).with_name("maskloom")
COUNT = 320


def start(
    photos: Path, out: Path, home: Path, *arguments: str, preset: str = "colour", labels: str = "red, blue"
) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "MASKLOOM_ENGINE": preset,
        "MASKLOOM_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    argv = [str(MASKLOOM), "prelabel", str(photos), "--labels", labels, "--to", "import", "--out", str(out), *arguments]
    return subprocess.Popen(argv, env=environment, cwd=out.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def photo_folder(folder: Path) -> Path:
    """Twelve crops of the photos that scikit-image ships."""
    folder.mkdir()
    for path in find_examples():
        with PillowImage.open(path) as photo:
            width, height = photo.size
            for part, left in enumerate((0, width // 4, width // 2)):
                photo.convert("RGB").crop((left, 0, left + width // 2, height)).save(folder / f"{path.stem} {part}.png")
    for path in sorted(folder.iterdir())[12:]:
        path.unlink()
    return folder


def predictions(out: Path) -> dict[str, Any]:
    """Every task's predictions by its image, the regions' random ids left out."""
    tasks = json.loads(out.read_text())
    for task in tasks:
        for region in task["predictions"][0]["result"]:
            region.pop("id")
    assert len({task["data"]["image"] for task in tasks}) == len(tasks)
    return {task["data"]["image"]: task["predictions"] for task in tasks}


def done(home: Path) -> int:
    try:
        with sqlite3.connect(home / "maskloom.sqlite", timeout=10) as database:
            return int(database.execute("SELECT count(*) FROM bulk_items WHERE state = 'done'").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def actors_below(parent: int) -> list[int]:
    """The processes below a process that are actors with a model at work."""
    table = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in table.splitlines()[1:]]
    family = {parent}
    for _ in range(6):
        family |= {int(pid) for pid, owner, _ in rows if int(owner) in family}
    return [int(pid) for pid, _, argv in rows if int(pid) in family and argv.startswith("ray::") and "MapBatches" in argv]


@pytest.mark.long
def test_two_workers_predict_what_one_process_predicts_also_when_one_of_them_is_killed(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", COUNT)
    alone = start(photos, tmp_path / "alone.json", tmp_path / "home of one")
    said, _ = alone.communicate(timeout=600)
    assert alone.returncode == 0, said
    together = start(photos, tmp_path / "together.json", tmp_path / "home of two", "--workers", "2")
    working: list[int] = []
    while together.poll() is None and (len(working) < 2 or not done(tmp_path / "home of two")):
        time.sleep(0.05)
        working = actors_below(together.pid)
    if working:
        os.kill(working[0], signal.SIGKILL)
    said, _ = together.communicate(timeout=800)
    assert together.returncode == 0, said
    assert len(working) == 2
    assert len(predictions(tmp_path / "alone.json")) == COUNT
    assert predictions(tmp_path / "together.json") == predictions(tmp_path / "alone.json")


@pytest.mark.long
def test_two_workers_find_in_photos_with_the_embedded_engine_what_one_process_finds(tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="the photos come with scikit-image: pip install 'maskloom[demo]'")
    photos = photo_folder(tmp_path / "photos")
    found = []
    for name, arguments in (("alone", ()), ("together", ("--workers", "2"))):
        out = tmp_path / f"{name}.json"
        labels = "cat, cup, person, motorcycle"
        with start(photos, out, tmp_path / name, *arguments, preset="embedded", labels=labels) as process:
            said, _ = process.communicate(timeout=800)
        assert process.returncode == 0, said
        found.append(predictions(out))
    alone, together = found
    assert len(alone) == 12
    assert sum(len(predicted[0]["result"]) for predicted in alone.values()) >= 6
    assert together == alone


class Away:
    """The images of a Label Studio that does not come back."""

    def load(self, url: str, project: str, task_id: str | None) -> KeyedImage:
        raise AwayError("Label Studio did not answer for 600 s")

    def close(self) -> None: ...


def test_what_ends_a_run_travels_from_an_actor_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "bulk_images", lambda *_: Away())
    settings, reader = {"engine": "colour", "home": tmp_path}, TaskReader(config_for((("red", ()),)))
    given = {"settings": settings, "root": None, "reader": reader, "limits": PipelineLimits(), "version": "colour-1"}
    actor = engine.Actor(pickle.dumps(given))
    rows = actor({"item": [json.dumps({"key": "1", "task": {"id": 1, "data": {"image": "/a.png"}}, "link": ""})]})
    (found,) = map(pickle.loads, rows["result"])
    assert isinstance(found, AwayError)
    assert str(found) == "Label Studio did not answer for 600 s"


class Here:
    """What we say to Ray Data, done in this process, a batch when its first row is wanted."""

    def __init__(self) -> None:
        self.batches = 0

    def from_items(self, rows: list[dict[str, Any]], override_num_blocks: int) -> Here:
        self.rows = rows
        return self

    def map_batches(self, actor: type, fn_constructor_kwargs: dict[str, Any], batch_size: int, **_: Any) -> Here:
        self.actor, self.batch_size = actor(**fn_constructor_kwargs), batch_size
        return self

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self.rows), self.batch_size):
            self.batches += 1
            found = self.actor({"item": [row["item"] for row in self.rows[start : start + self.batch_size]]})
            yield from ({"result": result} for result in found["result"])


def test_a_stop_ends_a_wave_of_many_items_that_were_sent_out_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All items of a run are with Ray when Ctrl-C comes: without a word to it, they would all be worked on."""
    photos, here, stop = picture_folder(tmp_path / "photos", 60), Here(), threading.Event()
    monkeypatch.setattr(engine, "_start", lambda *_: here)
    monkeypatch.setattr(engine, "_resources", lambda _: {})
    settings = Settings(engine="colour", home=tmp_path)
    context = context_for(photos, tmp_path)
    job = job_of(context, JobSpec(str(photos), labels="red"))
    work = engine.RayPipeline(settings, photos, job, PipelineLimits(), engine.Cluster(None, 2, stop))
    found = work(job.source.items())
    assert not next(found).failure
    stop.set()
    assert len(list(found)) < engine.SENT_AT_ONCE
    assert here.batches == 1


@pytest.mark.parametrize(
    ("have", "workers", "expected"),
    [
        ({"CPU": 16.0}, 0, {"num_cpus": 1, "concurrency": 4}),
        ({"CPU": 2.0}, 3, {"num_cpus": 1, "concurrency": 3}),
        ({"CPU": 16.0, "GPU": 4.0}, 0, {"num_gpus": 1, "concurrency": 4}),
        ({"CPU": 16.0, "GPU": 4.0}, 2, {"num_gpus": 1, "concurrency": 2}),
        ({"CPU": 16.0, "GPU": 2.0}, 3, {"num_gpus": 0.5, "concurrency": 3}),
    ],
)
def test_actors_share_a_gpu_when_there_are_more_of_them_than_gpus(
    monkeypatch: pytest.MonkeyPatch, have: dict[str, float], workers: int, expected: dict[str, float]
) -> None:
    """One that waits for a whole GPU which is taken would wait for ever."""
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: have)
    assert engine._resources(workers) == expected
