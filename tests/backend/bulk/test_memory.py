"""Bulk runs use versions of a project's memory: what was accepted under words without a meaning is found in every task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.bulk.run import BulkContext
from backend.bulk.spec import JobSpec
from backend.bulk.values import Target
from backend.labelstudio.shapes import painted, read_regions
from backend.serving.versions import Memories
from backend.serving.webhooks import AnnotationEvents
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from backend.stores.snapshots import Snapshots
from backend.values.errors import RequestError
from tests.backend.bulk.runs import drawn, job_of, pipeline, run_of, same
from tests.backend.bulk.studio_double import StudioDouble, running
from tests.backend.bulk.test_studio import parts_of

pytestmark = pytest.mark.slow

CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="zorp"/><Label value="blarg"/></BrushLabels></View>'
)
KEY = "1@1"
TRUTH = {"zorp": "red", "blarg": "blue"}


@pytest.fixture
def double() -> Iterator[StudioDouble]:
    with running(StudioDouble(config=CONFIG).with_tasks(8)) as started:
        yield started


def stores(home: Path) -> tuple[MemoryBank, Snapshots]:
    database = Database(f"sqlite:///{home / 'maskloom.sqlite'}")
    return MemoryBank(database), Snapshots(database)


def annotate(double: StudioDouble, home: Path, task: int, labels: dict[str, str] | None = None) -> None:
    """Submit the true shapes of a task under nonsense words, or others that are given by shape."""
    regions: list[dict[str, Any]] = []
    for label, shape in (labels or TRUTH).items():
        value = {"format": "rle", "rle": painted.encode(drawn(task).shapes[shape]), "brushlabels": [label]}
        size = {"original_width": 64, "original_height": 48, "origin": "manual"}
        head = {"id": f"r{task}{label}", "type": "brushlabels", "from_name": "brush", "to_name": "image"}
        regions.append({**head, **size, "value": value})
    annotation = {"id": task, "task": task, "result": regions, "updated_at": f"2026-11-20T10:00:{task:02d}Z"}
    told = {"action": "ANNOTATION_CREATED", "annotation": annotation, "project": {"id": 1, "label_config": CONFIG}}
    events = AnnotationEvents(stores(home)[0], key_of=lambda name: KEY)
    events.enqueue(json.dumps({**told, "task": {"id": task, "data": double.tasks[task]}}).encode())
    events.wait()


def prelabel(double: StudioDouble, home: Path, memory: str = "", again: bool = False) -> str:
    """Run to the end without a failure; the version of what it made."""
    context = parts_of(double, home)
    job = job_of(context, JobSpec("1", memory=memory))
    progress = run_of(context, job, again=again).work(pipeline(context, job))
    assert (progress.done, progress.failed) == (8, 0)
    return job.identity.version


def made_by(double: StudioDouble, version: str) -> dict[int, list[Any]]:
    return {each["task"]: each["result"] for each in double.predictions if each["model_version"] == version}


def accepted_on(double: StudioDouble, home: Path, *tasks: int) -> None:
    for task in tasks:
        annotate(double, home, task)


def test_what_was_accepted_on_three_tasks_is_found_on_all_others(double: StudioDouble, tmp_path: Path) -> None:
    accepted_on(double, tmp_path, 1, 2, 3)
    assert prelabel(double, tmp_path, "none") == "colour-1"
    assert set(map(len, made_by(double, "colour-1").values())) == {0}, "the words mean nothing"
    assert prelabel(double, tmp_path) == "colour-1+memory@1"
    for task, result in made_by(double, "colour-1+memory@1").items():
        regions = {region.label: region.mask for region in read_regions(result)}
        assert regions.keys() == TRUTH.keys()
        assert all(same(regions[label], drawn(task).shapes[shape]) for label, shape in TRUTH.items())


def test_the_same_version_gives_the_same_bytes_whatever_was_accepted_since(double: StudioDouble, tmp_path: Path) -> None:
    accepted_on(double, tmp_path, 1, 2)
    found = []
    for number in range(3):
        version = prelabel(double, tmp_path, again=True)
        found.append(json.dumps(made_by(double, version), sort_keys=True))
        annotate(double, tmp_path, 5 + number, {"zorp": "blue", "blarg": "red"})
    assert version == "colour-1+memory@1"
    assert found[0] == found[1] == found[2]
    assert prelabel(double, tmp_path, "newest") == "colour-1+memory@2"


def test_another_process_on_another_machine_makes_the_same_of_a_version(double: StudioDouble, tmp_path: Path) -> None:
    """The version travels with the reader: a machine that has no database of its own asks for nothing else."""
    accepted_on(double, tmp_path, 1, 2)
    version = prelabel(double, tmp_path)
    job = job_of(parts_of(double, tmp_path), JobSpec("1"))
    elsewhere: BulkContext = parts_of(double, tmp_path / "elsewhere")
    results = list(pipeline(elsewhere, job)(list(job.source.items())))
    assert {int(each.item.key): each.prediction["result"] for each in results} == made_by(double, version)


def test_a_deleted_annotation_takes_its_version_away_and_with_it_the_effect(double: StudioDouble, tmp_path: Path) -> None:
    accepted_on(double, tmp_path, 1, 2)
    prelabel(double, tmp_path)
    stores(tmp_path)[0].forget(KEY, annotations=["1", "2"])
    assert prelabel(double, tmp_path) == "colour-1"
    assert set(map(len, made_by(double, "colour-1").values())) == {0}
    with pytest.raises(RequestError, match="memory@1 of project 1@1 is withdrawn"):
        prelabel(double, tmp_path, "1")


def test_a_region_under_a_wrong_label_is_named_and_costs_nothing(double: StudioDouble, tmp_path: Path) -> None:
    accepted_on(double, tmp_path, 1, 2, 3)
    prelabel(double, tmp_path)
    annotate(double, tmp_path, 4, {"blarg": "red"})
    memories = parts_of(double, tmp_path).memories
    assert memories is not None
    frozen, _ = memories.freeze(KEY)
    assert frozen is not None
    doubtful = [(each["task"], each["region"], each["looks_like"]) for each in frozen.report["doubtful"]]
    assert ("4", "r4blarg", "zorp") in doubtful
    made = made_by(double, prelabel(double, tmp_path))
    regions = {region.label: region.mask for region in read_regions(made[7])}
    assert all(same(regions[label], drawn(7).shapes[shape]) for label, shape in TRUTH.items())


def test_a_version_that_the_gate_finds_worse_is_not_used(double: StudioDouble, tmp_path: Path) -> None:
    accepted_on(double, tmp_path, 1, 2, 3)
    prelabel(double, tmp_path)
    annotate(double, tmp_path, 4)
    strict = Memories(*stores(tmp_path), lambda memory, before: {"is_no_worse": before is None}, lambda project: KEY)
    frozen, is_used = strict.freeze(KEY)
    assert frozen is not None
    assert (frozen.n, is_used) == (2, False)
    assert prelabel(double, tmp_path) == "colour-1+memory@1"


def test_a_version_that_finds_as_much_is_used_from_then_on_and_can_be_taken_back(double: StudioDouble, tmp_path: Path) -> None:
    accepted_on(double, tmp_path, 1, 2, 3)
    prelabel(double, tmp_path)
    annotate(double, tmp_path, 4)
    memories = parts_of(double, tmp_path).memories
    assert memories is not None
    frozen, is_used = memories.freeze(KEY)
    assert frozen is not None
    assert (frozen.n, is_used, frozen.report["quality"], frozen.report["doubtful"]) == (2, True, 1.0, [])
    assert prelabel(double, tmp_path) == "colour-1+memory@2"
    stores(tmp_path)[1].choose(KEY, 1)
    assert prelabel(double, tmp_path) == "colour-1+memory@1"


def test_a_version_is_weighed_by_all_the_names_that_a_project_gives_its_labels(double: StudioDouble, tmp_path: Path) -> None:
    """Words that the engine knows find one of the two labels without any memory, as they do on the page."""
    double.config = CONFIG.replace('"zorp"', '"zorp" predicted_values="red"')
    accepted_on(double, tmp_path, 1, 2, 3)
    prelabel(double, tmp_path)
    (frozen,) = stores(tmp_path)[1].all(KEY)
    assert (frozen.report["regions"], frozen.report["iou"], frozen.report["iou_before"]) == (6, 1.0, 0.5)


def test_who_only_tells_what_would_be_done_freezes_nothing(double: StudioDouble, tmp_path: Path) -> None:
    accepted_on(double, tmp_path, 1, 2)
    found = parts_of(double, tmp_path).memories
    assert found is not None
    telling = found.only_frozen()
    assert (telling.find("", KEY), telling.find("newest", KEY), stores(tmp_path)[1].all(KEY)) == (None, None, [])
    prelabel(double, tmp_path)
    annotate(double, tmp_path, 3)
    newest, chosen = telling.find("newest", KEY), telling.find("", KEY)
    assert newest is not None
    assert chosen is not None
    assert (newest.n, chosen.n, [each.n for each in stores(tmp_path)[1].all(KEY)]) == (1, 1, [1])


def test_a_version_whose_images_cannot_be_seen_is_refused_in_words(double: StudioDouble, tmp_path: Path) -> None:
    """With fewer examples the same version would answer otherwise."""
    accepted_on(double, tmp_path, 1, 2)
    stores(tmp_path)[1].freeze(KEY)
    del double.tasks[1]
    double.missing = {1}
    context = parts_of(double, tmp_path / "elsewhere")
    job = job_of(parts_of(double, tmp_path), JobSpec("1", memory="1"))
    with pytest.raises(RequestError, match="memory@1 cannot be used: the images of tasks 1 cannot be seen"):
        list(pipeline(context, job)(list(job.source.items())))


@pytest.mark.parametrize(
    ("memory", "reason"), [("7", "has no memory@7"), ("latest", "--memory can be a number"), ("-1", "can be")]
)
def test_a_version_that_is_not_there_is_refused(double: StudioDouble, tmp_path: Path, memory: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        job_of(parts_of(double, tmp_path), JobSpec("1", memory=memory))


def test_a_folder_has_no_memory(tmp_path: Path) -> None:
    spec = JobSpec(str(tmp_path), Target.COCO, labels="red", memory="newest")
    with pytest.raises(RequestError, match="a folder has no memory"):
        job_of(parts_of(StudioDouble(), tmp_path), spec)


def test_a_project_without_annotations_is_answered_as_ever(double: StudioDouble, tmp_path: Path) -> None:
    assert prelabel(double, tmp_path) == "colour-1"
    assert np.sum([len(each) for each in made_by(double, "colour-1").values()]) == 0
