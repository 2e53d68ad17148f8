"""A folder of clips becomes tasks with predictions for an import, each clip at its own frame rate."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from backend.bulk.spec import JobSpec
from backend.bulk.values import Target
from backend.values.errors import RequestError
from prompts.kinds import Image
from tests.backend.bulk.runs import context_for, job_of, pipeline, run_of
from tests.backend.video.films import Recipe, write_film
from tests.backend.video.test_keyframes import player_shows


def picture(number: int) -> Image:
    """A red square that goes right by two pixels a frame over grey."""
    image = np.full((64, 96, 3), 128, np.uint8)
    image[20:40, 4 + 2 * number : 24 + 2 * number] = (220, 30, 30)
    return image


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    (folder / "more").mkdir(parents=True)
    write_film(folder / "a.mkv", [picture(k) for k in range(24)], Recipe(codec="ffv1"))
    write_film(folder / "more" / "b c.mkv", [picture(k) for k in range(30)], Recipe(codec="ffv1", rate=Fraction(30)))
    (folder / "notes.txt").write_text("no film", encoding="utf-8")
    return folder


def test_a_folder_of_clips_is_one_import_with_boxes_through_every_clip(clips: Path, tmp_path: Path) -> None:
    context = context_for(clips, tmp_path / "home")
    job = job_of(context, JobSpec(str(clips), out=tmp_path / "import.json", labels="red, blue"))

    progress = run_of(context, job).work(pipeline(context, job))

    job.sink.finish()
    tasks = json.loads((tmp_path / "import.json").read_text(encoding="utf-8"))
    assert (progress.done, progress.failed) == (2, 0)
    assert [task["data"]["video"].partition("=")[2] for task in tasks] == ["clips/a.mkv", "clips/more/b%20c.mkv"]
    assert [float(task["data"]["frame_rate"]) for task in tasks] == pytest.approx([24, 30], abs=0.05)
    for task, count in zip(tasks, (24, 30), strict=True):
        ((region,),) = (prediction["result"] for prediction in task["predictions"])
        assert region["value"]["labels"] == ["red"]
        for k in range(count):
            shown = player_shows(region["value"]["sequence"], k + 1)
            assert shown is not None
            assert shown[0] * 96 / 100 == pytest.approx(4 + 2 * k, abs=1.5)


@pytest.mark.slow
def test_a_run_tells_on_which_frame_of_a_clip_it_is(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("backend.video.following.TOLD_EVERY_S", -1.0)
    caplog.set_level("INFO", "backend.video.following")
    context = context_for(clips, tmp_path / "home")

    job = job_of(context, JobSpec(str(clips), out=tmp_path / "import.json", labels="red"))
    run_of(context, job).work(pipeline(context, job))

    told = [record.getMessage() for record in caplog.records if "a.mkv" in record.getMessage()]
    assert told == [f"a.mkv: frame {k} of 24" for k in range(1, 25)]


def test_masks_of_a_folder_of_clips_are_refused_with_what_to_do(clips: Path, tmp_path: Path) -> None:
    context = context_for(clips, tmp_path / "home")

    for target in (Target.COCO, Target.PNG, Target.YOLO):
        with pytest.raises(RequestError, match="is a folder of films, which go to --to import"):
            job_of(context, JobSpec(str(clips), target, tmp_path / "out", labels="red"))


def test_a_damaged_clip_costs_itself_alone(clips: Path, tmp_path: Path) -> None:
    (clips / "b.mp4").write_bytes(b"no film at all")
    context = context_for(clips, tmp_path / "home")
    job = job_of(context, JobSpec(str(clips), out=tmp_path / "import.json", labels="red"))

    progress = run_of(context, job).work(pipeline(context, job))

    assert (progress.done, progress.failed) == (2, 1)
