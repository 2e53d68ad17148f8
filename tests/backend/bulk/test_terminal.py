"""``maskloom prelabel`` at the terminal: dry, as a sample, stopped by Ctrl-C, and what is said when it breaks off."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from backend.bulk.run import Progress
from backend.bulk.spec import JobSpec, Selection
from backend.bulk.values import Target
from backend.cli import bulk
from backend.cli.bulk import STOPPED, RunOptions, run_job
from backend.cli.terminal import read_settings
from backend.values.errors import RequestError, WriteError
from backend.values.settings import Settings
from tests.backend.bulk.runs import picture_folder
from tests.backend.bulk.studio_double import TOKEN, StudioDouble, running


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASKLOOM_ENGINE", "colour")
    monkeypatch.setenv("MASKLOOM_HOME", str(tmp_path / "home"))


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    photos = picture_folder(tmp_path / "photos", 120)
    return JobSpec(str(photos), Target.COCO, tmp_path / "coco.json", labels="red, blue")


@pytest.fixture
def options(tmp_path: Path) -> RunOptions:
    return RunOptions(dry_run=False, sample=0, resume=False, batch=4, workers=0, ray=None, report=tmp_path / "run.html")


@pytest.mark.slow
def test_ctrl_c_ends_a_run_with_what_is_there_and_the_same_command_does_the_rest(
    spec: JobSpec, options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
            run_job(spec, options, Settings())
    assert ended.value.exit_code == STOPPED
    assert signal.getsignal(signal.SIGINT) is before
    assert "the same command goes on from here" in capsys.readouterr().err
    assert 0 < len(json.loads((tmp_path / "coco.json").read_text())["images"]) < 120
    run_job(spec, replace(options, resume=True), Settings())
    assert len(json.loads((tmp_path / "coco.json").read_text())["images"]) == 120
    assert "Regions by label" in options.report.read_text()


def test_why_a_run_broke_off_is_told_also_when_its_page_cannot_be_written(
    spec: JobSpec, options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk takes both: whoever hears of the page alone makes no room."""

    def fill_up(*_: object) -> None:
        raise WriteError("cannot write coco.json: No space left on device; make room")

    monkeypatch.setattr("backend.bulk.to_files.LinesSink.write", fill_up)
    with pytest.raises(WriteError, match="make room"):
        run_job(spec, replace(options, report=tmp_path / "nowhere" / "run.html"), Settings())
    assert "choose another place with --report" in capsys.readouterr().err


def test_a_sample_of_nothing_is_refused(options: RunOptions) -> None:
    with running(StudioDouble().with_tasks(3)) as double:
        chosen = JobSpec("1", selection=Selection(tasks=frozenset()))
        with pytest.raises(RequestError, match="there is nothing to try: project 1 of"):
            run_job(chosen, replace(options, sample=20), read_settings(double.url, TOKEN))


def test_a_sample_and_a_dry_run_write_nothing_but_a_page(
    spec: JobSpec, options: RunOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_job(spec, replace(options, dry_run=True), Settings())
    assert not options.report.exists()
    told = capsys.readouterr().out
    assert ": 120 images" in told
    assert "label    red: red" in told
    assert "can be read" in told
    run_job(spec, replace(options, sample=7), Settings())
    assert options.report.read_text().count("<figure>") == 7
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("coco")] == []
    with pytest.raises(RequestError, match="there is no earlier run of this command"):
        run_job(spec, replace(options, resume=True), Settings())


def test_the_last_line_of_a_run_that_goes_on_counts_regions_beside_the_images_of_now(
    spec: JobSpec, options: RunOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = replace(spec, source=str(picture_folder(tmp_path / "few", 3)))
    run_job(few, options, Settings())
    assert re.search(
        r"3 of 3 images done, 0 failed; 3 now in .*, 6 regions on these", " ".join(capsys.readouterr().err.split())
    )
    run_job(few, options, Settings())
    assert re.search(
        r"3 of 3 images done, 0 failed; 0 now in .*, 0 regions on these", " ".join(capsys.readouterr().err.split())
    )
    assert len(json.loads((tmp_path / "coco.json").read_text())["annotations"]) == 6


@pytest.mark.slow
def test_an_image_that_fails_makes_the_command_fail(spec: JobSpec, options: RunOptions) -> None:
    (Path(spec.source) / "0007.png").write_bytes(b"no image")
    with pytest.raises(typer.Exit) as ended:
        run_job(spec, options, Settings())
    assert ended.value.exit_code == 1
    assert "0007.png" in options.report.read_text()
