"""Whole runs over a folder with the colour engine: real files, a real ledger, and ends at every moment."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sql
from pycocotools import mask as rle
from pycocotools.coco import COCO

from backend.bulk import run as run_module
from backend.bulk.order import Filled, Order
from backend.bulk.recipe import Form
from backend.bulk.report import run_page
from backend.bulk.run import Plan, Progress, Run
from backend.bulk.sinks.lines import LinesSink
from backend.bulk.sources import Source
from backend.bulk.values import Answer, Target
from backend.stores.ledger import DONE, FAILED, Item
from backend.values.errors import MaskloomError, SetupError
from tests.backend.bulk.runs import answering, drawn, fill_order, parts_for, picture_folder, run_of, same

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

    def write(self, answers: Sequence[Answer]) -> Mapping[str, str]:
        for answer in answers:
            self.counts[answer.item.key] = self.counts.get(answer.item.key, 0) + 1
            if self.dies_after is not None and len(self.counts) == self.dies_after:
                raise KeyboardInterrupt
        return {}

    def finish(self) -> str:
        return ""


def with_sink(filled: Filled, sink: CountingSink) -> Plan:
    return Plan(filled.source, sink, filled.identity)


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "SETTLING_S", 0.0)


def test_a_folder_becomes_a_coco_file_that_pycocotools_loads(tmp_path: Path) -> None:
    photos, out = picture_folder(tmp_path / "photos", 20), tmp_path / "out" / "coco.json"
    parts = parts_for(photos, tmp_path / "home")
    filled = fill_order(parts, Order(str(photos), Target.COCO, out, labels=LABELS))
    progress = run_of(parts, filled).work(answering(parts, filled))
    filled.sink.finish()
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
    parts = parts_for(photos, tmp_path / "home")
    filled = fill_order(parts, Order(str(photos), Target.COCO, tmp_path / "coco.json", labels=LABELS))
    run = run_of(parts, filled)
    progress = run.work(answering(parts, filled))
    assert (progress.done, progress.failed) == (5, 1)
    (failure,) = parts.ledger.entries(run.id, FAILED)
    assert failure.key == "0003.png"
    assert "cannot be had" in failure.reason
    row = parts.ledger.run(run.id)
    assert row is not None
    page = run_page(parts.ledger, parts.album, row)
    assert "0003.png" in page
    assert "cannot be had" in page


def test_a_repaired_image_is_tried_again_and_nothing_else(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 4)
    (photos / "0001.png").write_bytes(b"no image")
    parts = parts_for(photos, tmp_path / "home")
    filled = fill_order(parts, Order(str(photos), Target.COCO, tmp_path / "coco.json", labels=LABELS))
    run_of(parts, filled).work(answering(parts, filled))
    picture_folder(photos, 2)
    progress = run_of(parts, filled).work(answering(parts, filled))
    assert (progress.worked, progress.done, progress.failed) == (1, 4, 0)


@pytest.mark.parametrize("dies_after", [1, 17, 30])
def test_a_run_that_dies_while_it_writes_goes_on_and_writes_everything_once(tmp_path: Path, dies_after: int) -> None:
    photos = picture_folder(tmp_path / "photos", 40)
    parts = parts_for(photos, tmp_path / "home")
    filled = fill_order(parts, Order(str(photos), Target.IMPORT, tmp_path / "import.json", labels=LABELS))
    sink = CountingSink(dies_after=dies_after)
    with pytest.raises(KeyboardInterrupt):
        Run(parts.ledger, parts.album, with_sink(filled, sink)).work(answering(parts, filled))
    sink.dies_after = None
    progress = Run(parts.ledger, parts.album, with_sink(filled, sink)).work(answering(parts, filled))
    assert progress.done == 40
    assert sorted(sink.counts) == [f"{number:04d}.png" for number in range(40)]
    assert set(sink.counts.values()) == {1}


def test_force_does_everything_anew_and_replaces_it(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 5)
    parts = parts_for(photos, tmp_path / "home")
    filled = fill_order(parts, Order(str(photos), Target.IMPORT, tmp_path / "import.json", labels=LABELS))
    sink = CountingSink()
    Run(parts.ledger, parts.album, with_sink(filled, sink)).work(answering(parts, filled))
    again = Plan(filled.source, sink, filled.identity, again=True)
    progress = Run(parts.ledger, parts.album, again).work(answering(parts, filled))
    assert progress.worked == 5
    assert set(sink.counts.values()) == {1}


def test_a_limit_is_kept_and_the_next_run_does_the_rest(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 9)
    parts = parts_for(photos, tmp_path / "home")
    filled = fill_order(parts, Order(str(photos), Target.PNG, tmp_path / "png", labels=LABELS))
    run = run_of(parts, filled, limit=4)
    assert run.work(answering(parts, filled)).worked == 4
    row = parts.ledger.run(run.id)
    assert row is not None
    assert (row.state, row.note) == ("stopped", "5 items are left")
    assert run_of(parts, filled).work(answering(parts, filled)).worked == 5


def test_a_stop_ends_a_run_cleanly_with_nothing_in_doubt(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 120)
    parts = parts_for(photos, tmp_path / "home")
    filled = fill_order(parts, Order(str(photos), Target.IMPORT, tmp_path / "import.json", labels=LABELS))
    run = run_of(parts, filled)

    def stop_soon(stand: Progress) -> None:
        if stand.worked:
            run.stop.set()

    run.watch = stop_soon
    progress = run.work(answering(parts, filled))
    assert 0 < progress.done < 120
    assert parts.ledger.in_doubt(run.id)[0] == []
    assert parts.ledger.counts(run.id)[DONE] == progress.done
    assert run_of(parts, filled).work(answering(parts, filled)).done == 120


def test_a_full_disk_is_told_in_plain_words_and_the_run_goes_on_once_there_is_room(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 3)
    parts = parts_for(photos, tmp_path / "home")
    filled = fill_order(parts, Order(str(photos), Target.COCO, tmp_path / "coco.json", labels=LABELS))
    assert isinstance(filled.sink, LinesSink)
    filled.sink.parts.symlink_to("/dev/full")
    run = run_of(parts, filled)
    with pytest.raises(SetupError, match="No space left on device; make room"):
        run.work(answering(parts, filled))
    row = parts.ledger.run(run.id)
    assert row is not None
    assert row.state == "broken"
    filled.sink.parts.unlink()
    assert run_of(parts, filled).work(answering(parts, filled)).done == 3


def test_a_ledger_that_another_program_holds_is_told_in_plain_words(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 2)
    parts = parts_for(photos, tmp_path / "home")
    filled = fill_order(parts, Order(str(photos), Target.COCO, tmp_path / "coco.json", labels=LABELS))
    run = run_of(parts, filled)
    with pytest.raises(SetupError, match=r"the ledger cannot be used \(database is locked\); let no other program hold it"):
        raise run._broken(sql.exc.OperationalError("INSERT", {}, Exception("database is locked")))


def test_a_full_disk_under_the_ledger_is_told_in_plain_words(tmp_path: Path) -> None:
    photos = picture_folder(tmp_path / "photos", 60)
    parts = parts_for(photos, tmp_path / "home")
    filled = fill_order(parts, Order(str(photos), Target.COCO, tmp_path / "coco.json", labels=LABELS))
    database = parts.ledger._database

    @sql.event.listens_for(database, "connect")
    def small(connection: object, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 14")  # type: ignore[attr-defined]

    database.dispose()
    with pytest.raises(MaskloomError, match="the disk of the ledger is full"):
        run_of(parts, filled).work(answering(parts, filled))


def test_many_images_are_never_in_memory_at_once(tmp_path: Path) -> None:
    """Back-pressure: a target that is slow holds up the loading of images."""
    photos = picture_folder(tmp_path / "photos", 60)
    parts = parts_for(photos, tmp_path / "home")
    filled = fill_order(parts, Order(str(photos), Target.IMPORT, tmp_path / "import.json", labels=LABELS))
    gate, loaded = threading.Event(), []
    plain = parts.images.load

    class Counted:
        def load(self, url: str, project: str, task_id: str | None) -> object:
            loaded.append(url)
            return plain(url, project, task_id)

    class Slow(CountingSink):
        def write(self, answers: Sequence[Answer]) -> Mapping[str, str]:
            gate.wait(30)
            return super().write(answers)

    def answer(items: Iterator[object]) -> Iterator[Answer]:
        from backend.bulk.work import Flow, Worker, answers

        return answers(Worker(Counted(), parts.engine.segmenter, filled.recipe), items, "colour-1", Flow())  # type: ignore[arg-type]

    def run() -> None:
        Run(parts.ledger, parts.album, with_sink(filled, Slow())).work(answer)  # type: ignore[arg-type]

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
    parts = parts_for(photos, tmp_path / "home")
    filled = fill_order(parts, Order(str(photos), Target.IMPORT, out, labels=LABELS))
    run_of(parts, filled).work(answering(parts, filled))
    filled.sink.finish()
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
    parts = parts_for(photos, tmp_path / "home")
    filled = fill_order(parts, Order(str(photos), Target.PNG, tmp_path / "png", labels=LABELS))
    assert run_of(parts, filled).work(answering(parts, filled)).done == 2


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
    parts = parts_for(photos, tmp_path / "home")
    filled = fill_order(parts, Order(str(photos), Target.IMPORT, tmp_path / "out.json", labels=LABELS))
    stop = threading.Event()
    plan = Plan(SlowList(filled.source, stop), sink, filled.identity)
    run = Run(parts.ledger, parts.album, plan, stop=stop)
    run.work(answering(parts, filled))
    row = parts.ledger.run(run.id)
    assert row is not None
    assert (row.state, row.note) == ("stopped", "not all items were listed")
    assert sink.counts == {}
    Run(parts.ledger, parts.album, with_sink(filled, sink)).work(answering(parts, filled))
    assert list(sink.counts.values()) == [1] * 8
