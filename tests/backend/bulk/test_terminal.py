"""``maskloom prelabel`` at the terminal: dry, as a sample, stopped by Ctrl-C, and what is said when it breaks off."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from backend.bulk.order import Order
from backend.bulk.run import Progress
from backend.bulk.sources import Selection
from backend.bulk.values import Target
from backend.cli import bulk
from backend.cli.bulk import STOPPED, Way, run_order
from backend.values.errors import RequestError, SetupError
from tests.backend.bulk.runs import picture_folder
from tests.backend.bulk.studio_double import TOKEN, StudioDouble, running


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASKLOOM_ENGINE", "colour")
    monkeypatch.setenv("MASKLOOM_HOME", str(tmp_path / "home"))


@pytest.fixture
def order(tmp_path: Path) -> Order:
    photos = picture_folder(tmp_path / "photos", 120)
    return Order(str(photos), Target.COCO, tmp_path / "coco.json", labels="red, blue")


@pytest.fixture
def way(tmp_path: Path) -> Way:
    return Way(
        url=None, token=None, limit=None, dry_run=False, sample=0, resume=False, force=False, batch=4, workers=0, ray=None,
        report=tmp_path / "run.html",
    )  # fmt: skip


def test_ctrl_c_ends_a_run_with_what_is_there_and_the_same_command_does_the_rest(
    order: Order, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def interrupting(_gpu: Callable[[], str]) -> Iterator[Callable[[Progress], None]]:
        sent: list[Progress] = []

        def watch(stand: Progress) -> None:
            if stand.worked and not sent:
                sent.append(stand)
                signal.raise_signal(signal.SIGINT)

        yield watch

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(bulk, "shown", interrupting)
        with pytest.raises(typer.Exit) as ended:
            run_order(order, way)
    assert ended.value.exit_code == STOPPED
    assert signal.getsignal(signal.SIGINT) is before
    assert "the same command goes on from here" in capsys.readouterr().err
    assert 0 < len(json.loads((tmp_path / "coco.json").read_text())["images"]) < 120
    run_order(order, replace(way, resume=True))
    assert len(json.loads((tmp_path / "coco.json").read_text())["images"]) == 120
    assert "Regions by label" in way.report.read_text()


def test_why_a_run_broke_off_is_told_also_when_its_page_cannot_be_written(
    order: Order, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk takes both: whoever hears of the page alone makes no room."""

    def fill_up(*_: object) -> None:
        raise SetupError("cannot write coco.json: No space left on device; make room")

    monkeypatch.setattr("backend.bulk.sinks.lines.LinesSink.write", fill_up)
    with pytest.raises(SetupError, match="make room"):
        run_order(order, replace(way, report=tmp_path / "nowhere" / "run.html"))
    assert "choose another place with --report" in capsys.readouterr().err


def test_a_sample_of_nothing_is_refused(way: Way) -> None:
    with running(StudioDouble().with_tasks(3)) as double:
        chosen = Order("1", selection=Selection(tasks=frozenset()))
        with pytest.raises(RequestError, match="there is nothing to try: project 1 of"):
            run_order(chosen, replace(way, url=double.url, token=TOKEN, sample=20))


def test_a_sample_and_a_dry_run_write_nothing_but_a_page(
    order: Order, way: Way, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_order(order, replace(way, dry_run=True))
    assert not way.report.exists()
    told = capsys.readouterr().out
    assert ": 120 images" in told
    assert "label    red: red" in told
    assert "can be read" in told
    run_order(order, replace(way, sample=7))
    assert way.report.read_text().count("<figure>") == 7
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("coco")] == []
    with pytest.raises(RequestError, match="there is no earlier run of this command"):
        run_order(order, replace(way, resume=True))


def test_an_image_that_fails_makes_the_command_fail(order: Order, way: Way) -> None:
    (Path(order.source) / "0007.png").write_bytes(b"no image")
    with pytest.raises(typer.Exit) as ended:
        run_order(order, way)
    assert ended.value.exit_code == 1
    assert "0007.png" in way.report.read_text()
