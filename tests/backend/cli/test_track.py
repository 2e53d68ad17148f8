"""``maskloom track``: from a box or a phrase on one frame to a film with the masks over it and the masks as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

from backend.cli import cli
from backend.values.errors import RequestError
from backend.video.film import open_film
from tests.backend.video.films import Recipe, write_film

COUNT = 12


@pytest.fixture(autouse=True)
def colour_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASKLOOM_ENGINE", "colour")
    monkeypatch.setenv("MASKLOOM_HOME", str(tmp_path / "home"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A red square that goes right by four pixels a frame over grey."""
    pictures = []
    for number in range(COUNT):
        image = np.full((64, 96, 3), 128, np.uint8)
        image[20:40, 4 + 4 * number : 24 + 4 * number] = (220, 30, 30)
        pictures.append(image)
    return write_film(tmp_path / "clip.mkv", pictures, Recipe(codec="ffv1"))


def test_a_box_on_one_frame_becomes_masks_on_all_and_an_overlay_film(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["track", str(clip), "--frame", "5", "--box", "24,20,44,40", "--out", str(out), "--format", "davis"]

    done = CliRunner().invoke(cli, [*command, "--format", "coco"])

    assert done.exit_code == 0, done.output
    assert "1  object  on 12 of 12 frames" in done.stdout
    for number in range(COUNT):
        mask = np.asarray(Pillow.open(out / "davis" / "clip" / f"{number:05d}.png")) == 1
        truth = np.zeros((64, 96), np.bool_)
        truth[20:40, 4 + 4 * number : 24 + 4 * number] = True
        assert (mask & truth).sum() / (mask | truth).sum() > 0.9
    film = open_film(out / "clip.mp4")
    assert len(film) == COUNT
    assert film.timeline.starts.tolist() == pytest.approx(open_film(clip).timeline.starts.tolist(), abs=1e-3)
    plain, painted = open_film(clip).frame(7), film.frame(7)
    assert (
        np.abs(painted[50:].astype(int) - plain[50:]).mean()
        < 4
        < np.abs(painted[22:38, 36:48].astype(int) - plain[22:38, 36:48]).mean()
    )
    assert (out / "coco" / "clip.json").is_file()


def test_a_phrase_is_found_and_followed_under_its_name(clip: Path, tmp_path: Path) -> None:
    command = ["track", str(clip), "--frame", "3", "--text", "red", "--frames", "2-6", "--out", str(tmp_path / "out")]

    done = CliRunner().invoke(cli, command)

    assert done.exit_code == 0, done.output
    assert "1  red  on 5 of 12 frames" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["click", "stroke", "outline", "mask", "reference"])
def test_an_object_is_told_in_every_way_on_a_frame_in_the_middle(kind: str, clip: Path, tmp_path: Path) -> None:
    frame, out = open_film(clip).frame(6), tmp_path / "out"
    where = np.zeros((64, 96), np.uint8)
    where[20:40, 28:48] = 255
    Pillow.fromarray(where).save(tmp_path / "mask.png")
    Pillow.fromarray(frame).save(tmp_path / "like.png")
    asked = {
        "click": ["--point", "38,30"],
        "stroke": ["--stroke", "30,30,46,30"],
        "outline": ["--polygon", "28,20,48,20,48,40,28,40"],
        "mask": ["--mask", str(tmp_path / "mask.png")],
        "reference": ["--reference", str(tmp_path / "like.png"), "--reference-mask", str(tmp_path / "mask.png")],
    }

    done = CliRunner().invoke(cli, ["track", str(clip), "--frame", "6", *asked[kind], "--out", str(out)])

    assert done.exit_code == 0, done.output
    for number in (0, COUNT - 1):
        mask = np.asarray(Pillow.open(out / "davis" / "clip" / f"{number:05d}.png")) == 1
        truth = np.zeros((64, 96), np.bool_)
        truth[20:40, 4 + 4 * number : 24 + 4 * number] = True
        assert (mask & truth).sum() / (mask | truth).sum() > 0.85


def test_the_command_says_on_which_frame_it_is(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("backend.video.following.TOLD_EVERY_S", -1.0)

    done = CliRunner().invoke(cli, ["track", str(clip), "--box", "4,20,24,40", "--out", str(tmp_path / "out")])

    told = done.output + capsys.readouterr().err
    assert [f"clip.mkv: frame {k} of 12" in told for k in (1, 6, 12)] == [True] * 3


def test_what_is_not_on_the_frame_is_told(clip: Path, tmp_path: Path) -> None:
    refused = CliRunner().invoke(cli, ["track", str(clip), "--text", "blue", "--out", str(tmp_path / "out")])

    assert isinstance(refused.exception, RequestError)
    assert "nothing of that is on frame 0" in str(refused.exception)
    assert not (tmp_path / "out").exists()
