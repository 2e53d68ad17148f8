"""What annotations teach, through a real Label Studio: in its page, in bulk, after an outage, and taken back."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.demo.filling import recommended_config
from backend.demo.label_studio import Studio
from backend.labelstudio.api import LabelStudio, Project
from backend.labelstudio.shapes import painted, read_regions
from backend.stores.balance import Balance
from backend.stores.curation import Curation
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from tests.backend.bulk.runs import drawn, picture_folder, same
from tests.labelstudio.annotator import Annotator
from tests.labelstudio.conftest import MASKLOOM, running_backend

pytestmark = [pytest.mark.studio, pytest.mark.timeout(900)]

TRUTH = {"zorp": "red", "blarg": "blue"}
"""Labels without a meaning, and the shapes that they name."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("learning")


def reach(studio: Studio) -> dict[str, str]:
    return {"MASKLOOM_LABEL_STUDIO_URL": studio.url, "MASKLOOM_LABEL_STUDIO_TOKEN": studio.account.token}


@pytest.fixture(scope="module")
def backend(studio: Studio, home: Path) -> Iterator[str]:
    with running_backend(home, MASKLOOM_ENGINE="colour", **reach(studio)) as url:
        yield url


@pytest.fixture(scope="module")
def project(studio: Studio, label_studio: LabelStudio, backend: str) -> Project:
    picture_folder(studio.folder.photos / "taught", 6)
    made = label_studio.create_project("learning", recommended_config(list(TRUTH)))
    label_studio.serve_folder(made.id, studio.folder.photos / "taught")
    label_studio.import_tasks(made.id, [{"image": f"/data/local-files/?d=taught/{k:04d}.png"} for k in range(6)])
    assert label_studio.attach_backend(made.id, backend, "Maskloom").state == "CO"
    return made


def tasks_of(label_studio: LabelStudio, project: Project) -> list[int]:
    return sorted(task.id for task in label_studio.list_tasks(project.id))


def submit(label_studio: LabelStudio, task: int, number: int) -> int:
    """The true shapes of a picture under their nonsense words, as an annotation; its number."""
    result = []
    for label, shape in TRUTH.items():
        value = {"format": "rle", "rle": painted.encode(drawn(number).shapes[shape]), "brushlabels": [label]}
        size = {"original_width": 64, "original_height": 48, "image_rotation": 0}
        head = {"id": f"{label}{number}", "type": "brushlabels", "from_name": "brush", "to_name": "image", "origin": "manual"}
        result.append({**head, **size, "value": value})
    return int(label_studio.call("POST", f"/api/tasks/{task}/annotations/", json={"result": result, "lead_time": 7.0})["id"])


def until(happened: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def remembered(home: Path) -> dict[str, int]:
    database = Database(f"sqlite:///{home / 'maskloom.sqlite'}")
    return {
        label: number for key in Curation(database).projects() for label, number in MemoryBank(database).labels(key).items()
    }


def predicted(label_studio: LabelStudio, task: int, version: str) -> dict[str, Any]:
    """The masks of the newest prediction of a task by a version, by label."""
    found = [each for each in label_studio.task(task).predictions if each.model_version == version]
    return {region.label: region.mask for region in read_regions(found[-1].result)} if found else {}


def prelabel(studio: Studio, home: Path, project: Project, *options: str) -> None:
    settings = {"MASKLOOM_ENGINE": "colour", "MASKLOOM_HOME": str(home), **reach(studio)}
    command = [str(MASKLOOM), "prelabel", str(project.id), "--report", str(home / "run.html"), *options]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_three_annotations_teach_the_page_and_bulk_runs_and_deleting_them_takes_it_back(
    studio: Studio, label_studio: LabelStudio, project: Project, home: Path, backend: str, ann: Annotator
) -> None:
    tasks = tasks_of(label_studio, project)
    prelabel(studio, home, project, "--memory", "none")
    assert all(predicted(label_studio, task, "colour-1") == {} for task in tasks), "the words mean nothing"
    numbers = [submit(label_studio, task, number) for number, task in enumerate(tasks[:3])]
    until(lambda: remembered(home) == {"zorp": 3, "blarg": 3})

    prelabel(studio, home, project)
    found = predicted(label_studio, tasks[3], "colour-1+memory@1")
    assert found.keys() == TRUTH.keys()
    assert all(same(found[label], drawn(3).shapes[shape]) for label, shape in TRUTH.items())

    for stored in label_studio.call("GET", "/api/predictions/", params={"task": tasks[4]}):
        label_studio.delete_prediction(stored["id"])
    ann.open_task(project.id, tasks[4])
    assert sorted(ann.labels_on_image()) == ["blarg", "zorp"]
    ann.page.get_by_role("button", name="Submit").click()
    until(lambda: remembered(home) == {"zorp": 4, "blarg": 4})
    database = Database(f"sqlite:///{home / 'maskloom.sqlite'}")
    (key,) = [each for each in Curation(database).projects() if MemoryBank(database).labels(each)]
    assert sum(row.accepted for row in Balance(database).rows(key)) == 2, "submitted as they were suggested"

    page = httpx.get(f"{backend}/memory", params={"project": key}, trust_env=False).text
    assert "memory@1" in page
    assert "zorp" in page

    for annotation in [*numbers, *(each["id"] for each in label_studio.task(tasks[4]).annotations)]:
        label_studio.call("DELETE", f"/api/annotations/{annotation}/")
    until(lambda: remembered(home) == {})
    prelabel(studio, home, project, "--force")
    assert predicted(label_studio, tasks[3], "colour-1") == {}
    label_studio.retrieve_predictions(project.id, [tasks[5]])
    assert predicted(label_studio, tasks[5], "colour-1") == {}


def test_what_was_submitted_while_the_server_was_away_is_read_afterwards(
    studio: Studio, label_studio: LabelStudio, tmp_path: Path
) -> None:
    picture_folder(studio.folder.photos / "away", 2)
    made = label_studio.create_project("away", recommended_config(list(TRUTH)))
    label_studio.serve_folder(made.id, studio.folder.photos / "away")
    tasks = label_studio.import_tasks(made.id, [{"image": f"/data/local-files/?d=away/{k:04d}.png"} for k in range(2)])
    for number, task in enumerate(tasks):
        submit(label_studio, task, number)
    settings = {"MASKLOOM_HOME": str(tmp_path), **reach(studio)}
    for _ in range(2):
        command = [str(MASKLOOM), "remember", str(made.id)]
        done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=120)
        assert "4 regions of 2 annotations of 2 tasks are remembered; 0 annotations" in done.stdout, done.stderr
    assert remembered(tmp_path) == {"zorp": 2, "blarg": 2}


@pytest.mark.long
def test_damaged_suggestions_that_are_submitted_as_they_are_teach_nothing_and_are_told_as_overlooked(
    studio: Studio, label_studio: LabelStudio, tmp_path: Path, ann: Annotator
) -> None:
    picture_folder(studio.folder.photos / "canaries", 5)
    made = label_studio.create_project("canaries", recommended_config(["red", "blue"]))
    label_studio.serve_folder(made.id, studio.folder.photos / "canaries")
    label_studio.import_tasks(made.id, [{"image": f"/data/local-files/?d=canaries/{k:04d}.png"} for k in range(5)])
    database, damaged = Database(f"sqlite:///{tmp_path / 'maskloom.sqlite'}"), 0

    def overlooked() -> int:
        return sum(row.overlooked for key in Curation(database).projects() for row in Balance(database).rows(key))

    def is_submitted(task: int) -> bool:
        return len(label_studio.task(task).annotations) == 1

    with running_backend(tmp_path, MASKLOOM_ENGINE="colour", MASKLOOM_CANARIES="0.5", **reach(studio)) as url:
        assert label_studio.attach_backend(made.id, url, "Maskloom").state == "CO"
        for number, task in enumerate(tasks_of(label_studio, made)):
            ann.open_task(made.id, task)
            assert sorted(ann.labels_on_image()) == ["blue", "red"]
            ann.page.get_by_role("button", name="Submit").click()
            until(partial(is_submitted, task))
            (annotation,) = label_studio.task(task).annotations
            for region in read_regions(annotation["result"]):
                truth = drawn(number).shapes[str(region.label)]
                assert not (region.mask & ~truth).any()
                damaged += int(region.mask.sum()) < int(truth.sum())
        assert damaged, "by chance once in a thousand runs"
        until(lambda: sum(remembered(tmp_path).values()) == 10 - damaged)
        assert overlooked() == damaged

    settings = {"MASKLOOM_HOME": str(tmp_path), **reach(studio)}
    command = [str(MASKLOOM), "export", str(made.id), "--out", str(tmp_path / "coco")]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=120)
    assert f"{10 - damaged} regions" in done.stderr, done.stdout + done.stderr
