"""Whole runs over a folder with the colour engine: real files, a real ledger, and ends at every moment."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import sqlalchemy as sql
from pycocotools import mask as rle
from pycocotools.coco import COCO

from backend.bulk import run as run_module
from backend.bulk.reader import BulkJob
from backend.bulk.run import Progress, Run, run_page
from backend.bulk.spec import JobSpec
from backend.bulk.to_files import LinesSink
from backend.bulk.values import Form, ItemResult, Source, Target
from backend.stores.ledger import DONE, FAILED, Item
from backend.values.errors import MaskloomError, StoreError, WriteError
from tests.backend.bulk.runs import context_for, drawn, job_of, picture_folder, pipeline, run_of, same

LABELS = "red=crimson, blue"


@dataclass
class CountingSink:
    """A target that counts how often each key was written; the write of the keys in ``dies_after`` ends in a crash."""

    counts: dict[str, int] = field(default_factory=dict)
    dies_after: int | None = None
    name: str = "counting"
    form: Form = Form.PREDICTION

    def arrived(self, keys: Sequence[str]) -> set[str]:
        return {key for key in keys if key in self.counts}

    def remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.counts.pop(key, None)

    def write(self, answers: Sequence[ItemResult]) -> Mapping[str, str]:
        for answer in answers:
            self.counts[answer.item.key] = self.counts.get(answer.item.key, 0) + 1
            if self.dies_after is not None and len(self.counts) == self.dies_after:
                raise KeyboardInterrupt
        return {}

    def finish(self) -> str:
        return ""


def with_sink(job: BulkJob, sink: CountingSink) -> BulkJob:
    return replace(job, sink=sink)


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "SETTLING_S", 0.0)


def test_a_folder_becomes_a_coco_file_that_pycocotools_loads(tmp_path: Path) -> None:
    photos, out = picture_folder(tmp_path / "photos", 20), tmp_path / "out" / "coco.json"
    context = context_for(photos, tmp_path / "home")
    job = job_of(context, JobSpec(str(photos), Target.COCO, out, labels=LABELS))
    progress = run_of(context, job).work(pipeline(context, job))
    job.sink.finish()
    assert (progress.done, progress.failed, progress.regions) == (20, 0, 40)
    coco = COCO(str(out))
    assert {category["name"] for category in coco.loadCats(coco.getCatIds())} == {"red", "blue"}
    for image in coco.loadImgs(coco.getImgIds()):
        truth = drawn(int(image["file_name"][:4])).shapes
        found = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert len(found) == 2
        for annotation in found:
            assert same(coco.annToMask(annotation).astype(bool), truth[coco.loadCats(annotation["category_id"])[0]["name"]])
            assert annotation["area"] == coco.annToMask(annotation).sum()
            assert annotation["bbox"] == list(rle.toBbox(annotation["segmentation"]))


def test_one_broken_image_costs_one_row_with_its_reason(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 6)
    (photos / "0003.png").write_bytes(b"no image")
    context = context_for(photos, tmp_path / "home")
    job = job_of(context, JobSpec(str(photos), Target.COCO, tmp_path / "coco.json", labels=LABELS))
    run = run_of(context, job)
    progress = run.work(pipeline(context, job))
    assert (progress.done, progress.failed) == (5, 1)
    (failure,) = context.ledger.entries(run.id, FAILED)
    assert failure.key == "0003.png"
    assert "cannot be had" in failure.reason
    row = context.ledger.run(run.id)
    assert row is not None
    page = run_page(context.ledger, context.album, row)
    assert "0003.png" in page
    assert "cannot be had" in page


def test_a_repaired_image_is_tried_again_and_nothing_else(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 4)
    (photos / "0001.png").write_bytes(b"no image")
    context = context_for(photos, tmp_path / "home")
    job = job_of(context, JobSpec(str(photos), Target.COCO, tmp_path / "coco.json", labels=LABELS))
    run_of(context, job).work(pipeline(context, job))
    picture_folder(photos, 2)
    progress = run_of(context, job).work(pipeline(context, job))
    assert (progress.worked, progress.done, progress.failed) == (1, 4, 0)


@pytest.mark.slow
@pytest.mark.parametrize("dies_after", [1, 17, 30])
def test_a_run_that_dies_while_it_writes_goes_on_and_writes_everything_once(tmp_path: Path, dies_after: int) -> None:
    photos = picture_folder(tmp_path / "photos", 40)
    context = context_for(photos, tmp_path / "home")
    job = job_of(context, JobSpec(str(photos), Target.IMPORT, tmp_path / "import.json", labels=LABELS))
    sink = CountingSink(dies_after=dies_after)
    with pytest.raises(KeyboardInterrupt):
        Run(context, with_sink(job, sink)).work(pipeline(context, job))
    sink.dies_after = None
    progress = Run(context, with_sink(job, sink)).work(pipeline(context, job))
    assert progress.done == 40
    assert sorted(sink.counts) == [f"{number:04d}.png" for number in range(40)]
    assert set(sink.counts.values()) == {1}


def test_force_does_everything_anew_and_replaces_it(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 5)
    context = context_for(photos, tmp_path / "home")
    job = job_of(context, JobSpec(str(photos), Target.IMPORT, tmp_path / "import.json", labels=LABELS))
    sink = CountingSink()
    Run(context, with_sink(job, sink)).work(pipeline(context, job))
    again = replace(job, sink=sink, again=True)
    progress = Run(context, again).work(pipeline(context, job))
    assert progress.worked == 5
    assert set(sink.counts.values()) == {1}


def test_a_limit_is_kept_and_the_next_run_does_the_rest(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 9)
    context = context_for(photos, tmp_path / "home")
    job = job_of(context, JobSpec(str(photos), Target.PNG, tmp_path / "png", labels=LABELS))
    run = run_of(context, job, limit=4)
    assert run.work(pipeline(context, job)).worked == 4
    row = context.ledger.run(run.id)
    assert row is not None
    assert (row.state, row.note) == ("stopped", "5 items are left")
    assert run_of(context, job).work(pipeline(context, job)).worked == 5


@pytest.mark.slow
def test_a_stop_ends_a_run_cleanly_with_nothing_in_doubt(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 120)
    context = context_for(photos, tmp_path / "home")
    job = job_of(context, JobSpec(str(photos), Target.IMPORT, tmp_path / "import.json", labels=LABELS))
    run = run_of(context, job)

    def stop_soon(stand: Progress) -> None:
        if stand.worked:
            run.stop.set()

    run.watch = stop_soon
    progress = run.work(pipeline(context, job))
    assert 0 < progress.done < 120
    assert context.ledger.in_doubt(run.id)[0] == []
    assert context.ledger.counts(run.id)[DONE] == progress.done
    assert run_of(context, job).work(pipeline(context, job)).done == 120


def test_a_full_disk_is_told_in_plain_words_and_the_run_goes_on_once_there_is_room(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 3)
    context = context_for(photos, tmp_path / "home")
    job = job_of(context, JobSpec(str(photos), Target.COCO, tmp_path / "coco.json", labels=LABELS))
    assert isinstance(job.sink, LinesSink)
    job.sink.parts.symlink_to("/dev/full")
    run = run_of(context, job)
    with pytest.raises(WriteError, match="No space left on device; make room"):
        run.work(pipeline(context, job))
    row = context.ledger.run(run.id)
    assert row is not None
    assert row.state == "broken"
    job.sink.parts.unlink()
    assert run_of(context, job).work(pipeline(context, job)).done == 3


def test_a_ledger_that_another_program_holds_is_told_in_plain_words(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 2)
    context = context_for(photos, tmp_path / "home")
    job = job_of(context, JobSpec(str(photos), Target.COCO, tmp_path / "coco.json", labels=LABELS))
    run = run_of(context, job)
    with pytest.raises(WriteError, match=r"the ledger cannot be used \(database is locked\); let no other program hold it"):
        raise run._broken(StoreError("database is locked"))


def test_a_full_disk_under_the_ledger_is_told_in_plain_words(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 60)
    context = context_for(photos, tmp_path / "home")
    job = job_of(context, JobSpec(str(photos), Target.COCO, tmp_path / "coco.json", labels=LABELS))
    database = context.ledger._database._engine

    @sql.event.listens_for(database, "connect")
    def small(connection: object, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 14")  # type: ignore[attr-defined]

    database.dispose()
    with pytest.raises(MaskloomError, match="the disk of the ledger is full"):
        run_of(context, job).work(pipeline(context, job))


@pytest.mark.slow
def test_many_images_are_never_in_memory_at_once(tmp_path: Path) -> None:
    """Back-pressure: a target that is slow holds up the loading of images."""
    photos = picture_folder(tmp_path / "photos", 60)
    context = context_for(photos, tmp_path / "home")
    job = job_of(context, JobSpec(str(photos), Target.IMPORT, tmp_path / "import.json", labels=LABELS))
    gate, loaded = threading.Event(), []
    plain = context.images.load

    class Counted:
        def load(self, url: str, project: str, task_id: str | None) -> object:
            loaded.append(url)
            return plain(url, project, task_id)

    class Slow(CountingSink):
        def write(self, answers: Sequence[ItemResult]) -> Mapping[str, str]:
            gate.wait(30)
            return super().write(answers)

    def answer(items: Iterator[object]) -> Iterator[ItemResult]:
        from backend.bulk.work import PipelineLimits, Worker, process

        return process(Worker(Counted(), context.engine.segmenter, job.reader), items, "colour-1", PipelineLimits())  # type: ignore[arg-type]

    def run() -> None:
        Run(context, with_sink(job, Slow())).work(answer)  # type: ignore[arg-type]

    thread = threading.Thread(target=run)
    thread.start()
    try:
        thread.join(3)
        assert len(loaded) < 60
    finally:
        gate.set()
        thread.join()
    assert len(loaded) == 60


def test_an_import_file_holds_tasks_as_label_studio_imports_them(tmp_path: Path) -> None:
    photos, out = picture_folder(tmp_path / "my photos", 3), tmp_path / "import.json"
    context = context_for(photos, tmp_path / "home")
    job = job_of(context, JobSpec(str(photos), Target.IMPORT, out, labels=LABELS))
    run_of(context, job).work(pipeline(context, job))
    job.sink.finish()
    tasks = json.loads(out.read_text())
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d=my%20photos/000{k}.png" for k in range(3)]
    for task in tasks:
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == "colour-1"
        assert {region["value"]["brushlabels"][0] for region in prediction["result"]} == {"red", "blue"}


def test_links_in_a_folder_are_followed(tmp_path: Path) -> None:
    elsewhere, photos = picture_folder(tmp_path / "elsewhere", 2), tmp_path / "photos"
    photos.mkdir()
    for path in elsewhere.iterdir():
        (photos / path.name).symlink_to(path)
    context = context_for(photos, tmp_path / "home")
    job = job_of(context, JobSpec(str(photos), Target.PNG, tmp_path / "png", labels=LABELS))
    assert run_of(context, job).work(pipeline(context, job)).done == 2


@dataclass(frozen=True)
class SlowList:
    """A source that somebody stops listening to after its third item."""

    source: Source
    stop: threading.Event
    name: str = "slow"

    def items(self) -> Iterator[Item]:
        for number, item in enumerate(self.source.items()):
            if number == 3:
                self.stop.set()
            yield item


def test_a_run_that_is_stopped_while_its_items_are_listed_is_not_finished_and_goes_on(tmp_path: Path) -> None:
    photos, sink = picture_folder(tmp_path / "photos", 8), CountingSink()
    context = context_for(photos, tmp_path / "home")
    job = job_of(context, JobSpec(str(photos), Target.IMPORT, tmp_path / "out.json", labels=LABELS))
    stop = threading.Event()
    slow = replace(job, source=SlowList(job.source, stop), sink=sink)
    run = Run(context, slow, stop=stop)
    run.work(pipeline(context, job))
    row = context.ledger.run(run.id)
    assert row is not None
    assert (row.state, row.note) == ("stopped", "not all items were listed")
    assert sink.counts == {}
    Run(context, with_sink(job, sink)).work(pipeline(context, job))
    assert list(sink.counts.values()) == [1] * 8
