"""A project is warmed: every image is encoded onto disk once, within the bound, and a server finds it there."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from backend.assemble import engine_handle, feature_spill, warmer
from backend.bulk.warm import Warmer
from backend.images import Media
from backend.values.errors import SetupError
from backend.values.settings import Settings
from tests.backend.bulk.runs import picture_folder
from tests.backend.export.projects import ProjectDouble


def settings(folder: Path, mib: int = 10) -> Settings:
    return Settings(engine="colour", home=folder / "home", local_roots=str(folder), feature_spill_mib=mib)


def project_of(folder: Path, count: int) -> ProjectDouble:
    double = ProjectDouble()
    for number, path in enumerate(sorted(picture_folder(folder / "photos", count).iterdir()), 1):
        double.add(number, image=str(path))
    return double


def warmer_of(folder: Path) -> Warmer:
    return warmer(settings(folder), threading.Event())


def test_every_image_is_encoded_once_and_a_server_does_not_encode_it_again(tmp_path: Path) -> None:
    double = project_of(tmp_path, 5)
    double.add(6, image=str(tmp_path / "photos" / "gone.png"))
    done = warmer_of(tmp_path).warm(double, double.project(1))  # type: ignore[arg-type]
    assert (done.tasks, done.encoded, done.known, list(done.failures)) == (6, 5, 0, [6])
    again = warmer_of(tmp_path).warm(double, double.project(1))  # type: ignore[arg-type]
    assert (again.encoded, again.known) == (0, 5)

    handle = engine_handle(settings(tmp_path))
    segmenter, media = handle.segmenter(), warmer_of(tmp_path).images
    assert isinstance(media, Media)
    for task in range(1, 6):
        image = media.load(double.tasks[task]["data"]["image"], "1", str(task))
        assert image.key in feature_spill(settings(tmp_path), handle.version)
        segmenter.look_at(image)
    assert segmenter.encode_s == float("inf"), "nothing was encoded anew"


def test_the_bound_is_kept_and_the_rest_is_told(tmp_path: Path) -> None:
    double = project_of(tmp_path, 6)
    worker = warmer_of(tmp_path)
    one = worker.warm(double, double.project(1)).image_bytes  # type: ignore[arg-type]
    bounded = replace(warmer(settings(tmp_path / "other"), threading.Event()), most_bytes=int(3.5 * one), images=worker.images)
    done = bounded.warm(double, double.project(1))  # type: ignore[arg-type]
    assert (done.encoded, done.beyond_bound) == (3, 3)


def test_a_stop_ends_it_after_the_task_at_hand(tmp_path: Path) -> None:
    double, worker = project_of(tmp_path, 6), warmer_of(tmp_path)
    stopped = replace(worker, watch=lambda done, tasks: worker.stop.set() if tasks == 2 else None)
    assert stopped.warm(double, double.project(1)).encoded == 2  # type: ignore[arg-type]


def test_without_room_on_disk_it_says_which_setting_gives_some(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="MASKLOOM_FEATURE_SPILL_MIB"):
        warmer(settings(tmp_path, mib=0), threading.Event())
