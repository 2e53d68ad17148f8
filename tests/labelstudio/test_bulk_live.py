"""Bulk runs through a real Label Studio: killed and started again, evaluated, ranked, handed over, exported."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.demo.filling import recommended_config
from backend.demo.label_studio import Studio
from backend.labelstudio.api import LabelStudio, Prediction, Project
from backend.labelstudio.shapes import read_regions
from prompts.geometry import Size, polygon_mask
from tests.backend.bulk.runs import drawn, picture_folder, same
from tests.backend.export.projects import CONFIG, every_shape, region
from tests.backend.export.test_run import Masks, assert_same_masks, read_coco, read_coco_of, read_yolo
from tests.labelstudio.conftest import MASKLOOM, running_backend

pytestmark = [pytest.mark.studio, pytest.mark.timeout(900)]

COUNT = 48


def make_project(studio: Studio, label_studio: LabelStudio, count: int) -> Project:
    """Pictures in Label Studio's own folder, fetched over HTTP."""
    picture_folder(studio.folder.photos / "drawn", count)
    made = label_studio.create_project("bulk", recommended_config(["red", "blue"]))
    label_studio.serve_folder(made.id, studio.folder.photos / "drawn")
    label_studio.import_tasks(made.id, [{"image": f"/data/local-files/?d=drawn/{k:04d}.png"} for k in range(count)])
    return made


@pytest.fixture
def project(studio: Studio, label_studio: LabelStudio) -> Project:
    return make_project(studio, label_studio, COUNT)


def environment(studio: Studio, home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "MASKLOOM_ENGINE": "colour",
        "MASKLOOM_HOME": str(home),
        "MASKLOOM_LOCAL_ROOTS": str(home),
        "MASKLOOM_LABEL_STUDIO_URL": studio.url,
        "MASKLOOM_LABEL_STUDIO_TOKEN": studio.account.token,
        "OMP_NUM_THREADS": "1",
    }


def start(studio: Studio, home: Path, *arguments: str) -> subprocess.Popen[str]:
    argv = [str(MASKLOOM), *arguments]
    home.mkdir(exist_ok=True)
    return subprocess.Popen(
        argv, env=environment(studio, home), cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(studio: Studio, home: Path, *arguments: str) -> str:
    process = start(studio, home, *arguments)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def done(home: Path) -> int:
    try:
        with sqlite3.connect(home / "maskloom.sqlite", timeout=10) as database:
            return int(database.execute("SELECT count(*) FROM bulk_items WHERE state = 'done'").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_three_times_every_task_has_exactly_one_prediction_with_the_true_masks(
    studio: Studio, label_studio: LabelStudio, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """``make test-bulk`` does it with 2,000 tasks."""
    count = int(pytestconfig.getoption("--tasks"))
    project, began = make_project(studio, label_studio, count), time.monotonic()
    for enough in (1, count // 3, 2 * count // 3):
        with start(studio, tmp_path, "prelabel", str(project.id)) as process:
            while done(tmp_path) < enough and process.poll() is None:
                time.sleep(0.02)
            print(f"{done(tmp_path)} tasks, {time.monotonic() - began:.0f} s, {resident_mib(process.pid)} MiB: kill -9")
            process.send_signal(signal.SIGKILL)
        assert enough > 1 or 0 < done(tmp_path) < count
    with start(studio, tmp_path, "prelabel", str(project.id), "--resume") as process, ThreadPoolExecutor(1) as watcher:
        watched = watcher.submit(lambda: list(sizes_of(process)))
        said, sizes = process.communicate(timeout=3000)[0], watched.result()
    print(f"{count} tasks, {time.monotonic() - began:.0f} s, MiB by the second: {sizes[:: max(1, len(sizes) // 12)]}")
    assert f"{count:,} of {count:,} images done" in said
    tasks = list(label_studio.tasks_with_predictions(project.id))
    assert Counter(len(task.predictions) for task in tasks) == {1: count}
    for task in tasks:
        truth = drawn(int(task.data["image"][-8:-4])).shapes
        regions = {region.label: region.mask for region in read_regions(task.predictions[0].result)}
        assert regions.keys() == truth.keys()
        assert all(same(regions[label], truth[label]) for label in truth)


def sizes_of(process: subprocess.Popen[str]) -> Iterator[int]:
    """The memory of a process in MiB, every second until it ends."""
    while process.poll() is None:
        yield resident_mib(process.pid)
        time.sleep(1)


def resident_mib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024 if "VmRSS:" in status else 0


def test_predictions_are_judged_and_ranked_where_the_data_manager_sorts(
    studio: Studio, label_studio: LabelStudio, project: Project, tmp_path: Path
) -> None:
    run(studio, tmp_path, "prelabel", str(project.id), "--limit", "6")
    tasks = [task for task in label_studio.tasks_with_predictions(project.id) if task.predictions]
    assert len(tasks) == 6
    for task in tasks:
        result = [dict(region) for region in task.predictions[0].result]
        label_studio.call("POST", f"/api/tasks/{task.id}/annotations/", json={"result": result})
    run(studio, tmp_path, "eval", str(project.id), "--clicks", "3", "--out", "eval.json")
    measured = json.loads((tmp_path / "eval.json").read_text())
    assert measured["all"]["pq"] == 1
    assert measured["all"]["matches"] == 12
    assert measured["clicks"]["0.90"] == 1
    assert "Simulated clicks" in (tmp_path / "maskloom-eval.html").read_text()
    run(studio, tmp_path, "rank", str(project.id), "--to", "data")
    ranked = [task for task in label_studio.tasks(project.id) if "maskloom_uncertainty" in task.data]
    assert len(ranked) == 6
    assert all("has a score of" in task.data["maskloom_reason"] for task in ranked)
    run(studio, tmp_path, "rank", str(project.id), "--to", "score")
    scores = [task.predictions[0].score for task in label_studio.tasks_with_predictions(project.id) if task.predictions]
    assert all(score is not None and 0 <= score <= 1 for score in scores)


def test_a_whole_selection_is_handed_to_a_job(
    studio: Studio, label_studio: LabelStudio, project: Project, tmp_path: Path
) -> None:
    """Label Studio's "Retrieve predictions" comes back at once, and every task has its prediction soon after."""
    token = studio.account.token
    settings = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_TOKEN": token, "PREDICT_DEADLINE_S": "0.001", "ENGINE": "colour"}
    with running_backend(tmp_path, **{f"MASKLOOM_{name}": value for name, value in settings.items()}) as url:
        label_studio.attach_backend(project.id, url, "Maskloom")
        tasks = [task.id for task in label_studio.list_tasks(project.id)]
        label_studio.retrieve_predictions(project.id, tasks)
        until = time.monotonic() + 300
        while time.monotonic() < until and any(not task.predictions for task in label_studio.list_tasks(project.id)):
            time.sleep(1)
    assert Counter(task.predictions for task in label_studio.list_tasks(project.id)) == {1: COUNT}


def test_only_missing_sees_predictions_that_show_nothing(
    studio: Studio, label_studio: LabelStudio, project: Project, tmp_path: Path
) -> None:
    """Label Studio itself tells them from those with regions."""
    run(studio, tmp_path, "prelabel", str(project.id))
    first, second, third, *_ = label_studio.list_tasks(project.id)
    (ours,) = (
        task.predictions[0].model_version for task in label_studio.tasks_with_predictions(project.id) if task.id == first.id
    )
    for task in (first, second):
        for number in label_studio.prediction_ids(task.id, ours):
            label_studio.delete_prediction(number)
    label_studio.import_predictions(project.id, {task.id: Prediction(ours, 0.0, []) for task in (first, third)})
    assert list(label_studio.tasks_without_regions(project.id)) == [first.id]
    run(studio, tmp_path / "elsewhere", "prelabel", str(project.id), "--only-missing")
    regions = {t.id: [len(each.result) > 0 for each in t.predictions] for t in label_studio.tasks_with_predictions(project.id)}
    assert regions[first.id] == regions[second.id] == [True]
    assert sorted(regions[third.id]) == [False, True]


@pytest.mark.long
def test_what_was_submitted_comes_out_the_same_in_every_format_and_again_after_an_import(
    studio: Studio, label_studio: LabelStudio, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Brushes and bitmasks with holes, polygons, vectors, boxes and ellipses, a shape for each task."""
    double, folder = every_shape(int(pytestconfig.getoption("--tasks"))), studio.folder.photos / "drawn"
    truth = {f"{name[:-4]:0>4}.png": masks for name, masks in read_coco_of(double, tmp_path / "truth").items()}
    picture_folder(folder, len(truth) + 1)
    tasks = [
        {
            "data": {"image": f"/data/local-files/?d=drawn/{task:04d}.png"},
            "annotations": [{"result": each["annotations"][0]["result"]}],
        }
        for task, each in double.tasks.items()
    ]
    first, second = (label_studio.create_project(title, CONFIG).id for title in ("exported", "imported"))
    for project in (first, second):
        label_studio.serve_folder(project, folder)
    label_studio.call("POST", f"/api/projects/{first}/import", json=tasks)
    for to in ("coco", "yolo", "semantic", "json"):
        assert f"{len(truth)} of {len(truth)} tasks" in run(studio, tmp_path, "export", str(first), "--to", to, "--out", to)
    assert_same_masks(read_coco(tmp_path / "coco"), truth)
    assert_same_masks(read_yolo(tmp_path / "yolo"), truth)
    for name, masks in truth.items():
        with Image.open(tmp_path / "semantic" / "masks" / name) as picture:
            assert same(np.asarray(picture) > 0, np.any([mask for _, mask in masks], axis=0))

    label_studio.call("POST", f"/api/projects/{second}/import", json=json.loads((tmp_path / "json" / "tasks.json").read_text()))
    me = studio.account.email
    run(studio, tmp_path, "export", str(second), "--out", "again", "--annotator", me, "--label", "blue", "--label", "red")
    assert_same_masks(read_coco(tmp_path / "again"), truth)


LEAST = 200
"""Tasks of a project on which each command is run."""
LABELS, COLLEAGUE = ("red", "blue"), "colleague@example.com"


def truth_of(count: int) -> Masks:
    return {f"{k:04d}.png": [(label, drawn(k).shapes[label]) for label in LABELS] for k in range(count)}


def ordered(found: Masks) -> Masks:
    return {name: sorted(masks, key=lambda each: each[0]) for name, masks in found.items()}


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_project_of_two_hundred_tasks_is_warmed_and_prelabelled_into_every_format(
    studio: Studio, label_studio: LabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKLOOM_FEATURE_SPILL_MIB", "2048")
    project, truth = make_project(studio, label_studio, LEAST), ordered(truth_of(LEAST))
    number, tasks = str(project.id), [task.id for task in label_studio.list_tasks(project.id)]
    assert "200 images encoded" in run(studio, tmp_path, "warm", number, "--report", "warm.json")
    assert json.loads((tmp_path / "warm.json").read_text())["failures"] == {}
    assert "200 were there already" in run(studio, tmp_path, "warm", number)

    for to in ("predictions", "coco", "yolo", "png"):
        said = run(studio, tmp_path, "prelabel", number, "--to", to, *(() if to == "predictions" else ("--out", to)))
        assert "200 of 200 images done, 0 failed" in said
    predicted = label_studio.tasks_with_predictions(project.id)
    regions = {task.data["image"][-8:]: read_regions(task.predictions[0].result) for task in predicted}
    assert_same_masks(ordered({name: [(each.label, each.mask) for each in found] for name, found in regions.items()}), truth)
    (tmp_path / "coco").rename(tmp_path / "annotations.json")
    found = read_coco(tmp_path)
    assert_same_masks(ordered({Path(name).name: masks for name, masks in found.items()}), truth)
    for task, (name, masks) in zip(tasks, truth.items(), strict=True):
        rows = [line.split() for line in (tmp_path / "yolo" / f"{task}.txt").read_text().splitlines()]
        rings = [(LABELS[int(row[0])], np.array(row[1:], float).reshape(-1, 2) * (64, 48)) for row in rows]
        drawn_again = [(label, polygon_mask(ring, Size(48, 64))) for label, ring in rings]
        assert_same_masks(ordered({name: drawn_again}), {name: masks})
        with Image.open(tmp_path / "png" / f"{task}.png") as picture:
            numbers = np.asarray(picture)
        assert all(same(numbers == LABELS.index(label) + 1, mask) for label, mask in masks)


def submitted_by_two(studio: Studio, label_studio: LabelStudio) -> Project:
    """A project whose masks were submitted by its two people in turn, every fifth in 2020."""
    project = label_studio.create_project("filtered", CONFIG)
    label_studio.serve_folder(project.id, picture_folder(studio.folder.photos / "drawn", LEAST))
    label_studio.call("POST", "/api/users/", json={"email": COLLEAGUE, "username": "colleague", "password": "a long one 1"})
    people = (studio.account.email, COLLEAGUE)
    tasks = [
        {
            "data": {"image": f"/data/local-files/?d=drawn/{name}"},
            "annotations": [
                {
                    "result": [region(f"{name}{label}", label, mask) for label, mask in masks],
                    "completed_by": {"email": people[place % 2]},
                }
            ],
        }
        for place, (name, masks) in enumerate(truth_of(LEAST).items())
    ]
    label_studio.call("POST", f"/api/projects/{project.id}/import", json=tasks)
    old = [(task.id,) for task in list(label_studio.list_tasks(project.id))[::5]]
    with sqlite3.connect(studio.folder.data / "label_studio.sqlite3", timeout=60) as database:
        database.executemany("UPDATE task_completion SET updated_at = '2020-05-01 10:00:00' WHERE task_id = ?", old)
    return project


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_filter_of_an_export_takes_what_it_says(studio: Studio, label_studio: LabelStudio, tmp_path: Path) -> None:
    project, truth = submitted_by_two(studio, label_studio), truth_of(LEAST)
    fiftieth = list(label_studio.list_tasks(project.id))[50].id
    first = {"filter": "filter:tasks:id", "operator": "less", "type": "Number", "value": fiftieth}
    filters = {"conjunction": "and", "items": [first]}
    view = label_studio.call("POST", "/api/dm/views/", json={"project": project.id, "data": {"title": "a", "filters": filters}})

    def exported(*filters: str, to: str = "coco") -> Path:
        folder = tmp_path / f"{to}{len(list(tmp_path.iterdir()))}"
        run(studio, tmp_path, "export", str(project.id), "--to", to, "--out", str(folder), *filters)
        return folder

    def chosen(keep: Callable[[int], bool], *labels: str) -> Masks:
        kept = {name: masks for name, masks in truth.items() if keep(int(name[:4]))}
        return {name: [each for each in masks if each[0] in (labels or LABELS)] for name, masks in kept.items()}

    in_view = ("--view", str(view["id"]))
    assert_same_masks(read_coco(exported(*in_view)), chosen(lambda k: k < 50))
    assert_same_masks(read_coco(exported("--since", "2021-01-01")), chosen(lambda k: k % 5 > 0))
    assert_same_masks(read_yolo(exported("--until", "2021-01-01", to="yolo")), chosen(lambda k: k % 5 == 0))
    assert_same_masks(read_coco(exported("--annotator", COLLEAGUE)), chosen(lambda k: k % 2 == 1))
    assert_same_masks(read_coco(exported("--label", "blue")), chosen(lambda k: True, "blue"))
    assert_same_masks(read_coco(exported("--review", "unreviewed")), truth)
    refused = exported("--review", "accepted")
    assert read_coco(refused) == {}
    told = json.loads((refused / "report.json").read_text())
    assert "its review state is unreviewed" in json.dumps(told)
    all_of_them = (*in_view, "--since", "2021-01-01", "--annotator", COLLEAGUE, "--label", "red")
    folder, few = exported(*all_of_them, to="semantic"), chosen(lambda k: k < 50 and k % 5 > 0 and k % 2 == 1, "red")
    assert {path.name for path in (folder / "masks").iterdir()} == few.keys()
    for name, ((_, mask),) in few.items():
        with Image.open(folder / "masks" / name) as picture:
            assert same(np.asarray(picture) > 0, mask)
