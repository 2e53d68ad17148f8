"""What ``maskloom video check`` says about films that are off, and that its advice mends them."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli import cli
from backend.video.check import check_film
from backend.video.film import open_film
from backend.video.timeline import parse_frame_rate
from tests.backend.video.films import Recipe, numbered_film

COUNT = 60


def sentences(path: Path, rate: str) -> list[str]:
    return [f"{found.kind}: {found.text}" for found in check_film(open_film(path), parse_frame_rate(rate))]


def test_a_film_at_its_own_rate_has_nothing_to_say(tmp_path: Path) -> None:
    path = numbered_film(tmp_path / "a.mp4", COUNT, Recipe(rate=Fraction(24000, 1001), b_frames=2))

    assert sentences(path, "23.976024") == []


@pytest.mark.parametrize(
    ("recipe", "rate", "expected"),
    [
        (Recipe(rate=Fraction(30000, 1001)), "24", r'cannot show \d+ of 60 frames.*frameRate="29.970030"'),
        (Recipe(rate=Fraction(24000, 1001)), "24", r'cannot show \d+ of 60 frames.*"23.976024"'),
        (Recipe(rate=Fraction(24)), "48", r'frame \d+ shows frame \d+ of the file instead of \d+.*frameRate="24"'),
        (Recipe(rate=Fraction(24)), "25", r'cannot show \d of 60 frames.*frameRate="24"'),
    ],
)
def test_a_wrong_rate_is_named_with_the_right_one_and_that_one_is_right(
    recipe: Recipe, rate: str, expected: str, tmp_path: Path
) -> None:
    path = numbered_film(tmp_path / "a.mp4", COUNT, recipe)

    (said,) = sentences(path, rate)

    assert re.search(expected, said)
    advised = re.search(r'set frameRate="([\d.]+)"', said)
    assert advised is not None
    assert sentences(path, advised[1]) == []


def test_a_variable_rate_gets_a_rate_at_which_no_frame_is_lost(tmp_path: Path) -> None:
    ticks = [k * 1001 + (400 if k % 3 == 1 else 0) for k in range(COUNT)]
    path = numbered_film(tmp_path / "a.mp4", COUNT, Recipe(ticks=ticks, base=Fraction(1, 24000)))

    said = sentences(path, "24")

    assert any("the rate varies around 23.97" in line for line in said)
    advised = re.search(r'set frameRate="([\d.]+)"', " ".join(said))
    assert advised is not None
    assert not any(line.startswith("wrong") for line in sentences(path, advised[1]))


def test_codec_rotation_and_missing_frames_are_told(tmp_path: Path) -> None:
    turned = numbered_film(tmp_path / "turned.mp4", 5, Recipe(rotation=90))
    odd = numbered_film(tmp_path / "odd.avi", 5, Recipe(codec="mpeg4"))
    short = numbered_film(tmp_path / "short.mp4", COUNT, Recipe(options=(("movflags", "faststart"),)))
    short.write_bytes(short.read_bytes()[: short.stat().st_size * 7 // 10])

    assert "turned by 270 degrees for display: masks have 64 x 192 pixels" in sentences(turned, "24")[0]
    assert sentences(odd, "24")[0].startswith("wrong: browsers do not play the codec mpeg4")
    assert re.search(r"wrong: the file breaks off: \d+ of 60 frames are missing", sentences(short, "24")[0])


def test_the_command_says_what_is_wrong_and_fails_so_that_scripts_notice(tmp_path: Path) -> None:
    path = numbered_film(tmp_path / "a.mp4", COUNT, Recipe(rate=Fraction(30000, 1001)))

    wrong = CliRunner().invoke(cli, ["video", "check", str(path)])
    right = CliRunner().invoke(cli, ["video", "check", str(path), "--frame-rate", "29.97003"])

    assert wrong.exit_code == 1
    assert "60 frames of 192 x 64, h264" in wrong.stdout
    assert 'set frameRate="29.970030"' in wrong.stdout
    assert right.exit_code == 0, right.output
    assert "is right" in right.stdout
