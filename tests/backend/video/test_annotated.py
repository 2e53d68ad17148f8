"""Exactly the annotated frames of an export become pictures, told by the numbers painted in them."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

from backend.cli import cli
from backend.values.errors import RequestError
from backend.video.annotated import annotated_numbers
from tests.backend.video.films import Recipe, numbered_film, read_number

NTSC = Recipe(rate=Fraction(30000, 1001), b_frames=2)


def keyframe(number: int, *, enabled: bool = True) -> dict[str, Any]:
    return {"frame": number, "enabled": enabled, "x": 1, "y": 1, "width": 9, "height": 9, "rotation": 0, "time": number / 24}


def task(number: int, *values: dict[str, Any], cancelled: bool = False) -> dict[str, Any]:
    results = [{"id": str(k), "type": "videorectangle", "value": value} for k, value in enumerate(values)]
    return {"id": number, "annotations": [{"was_cancelled": cancelled, "result": results}], "data": {}}


def write(path: Path, body: object) -> Path:
    path.write_text(json.dumps(body), encoding="utf-8")
    return path


def test_keyframes_and_spans_of_boxes_and_timelines(tmp_path: Path) -> None:
    box = {"framesCount": 60, "sequence": [keyframe(9, enabled=False), keyframe(4), keyframe(20)]}
    span = {"ranges": [{"start": 2, "end": 5}], "timelinelabels": ["walks"]}
    export = write(tmp_path / "e.json", [task(1, box, span), task(2, box, cancelled=True)])

    assert annotated_numbers(export, "1", "keyframes") == [2, 4, 5, 9, 20]
    assert annotated_numbers(export, "1", "all") == [*range(2, 10), *range(20, 61)]
    with pytest.raises(RequestError, match="no region in a video for task 2"):
        annotated_numbers(export, "2", "all")


@pytest.mark.parametrize(
    ("body", "asked", "sentence"),
    [
        ("{", None, "is no JSON export"),
        ("[1]", "1", "is no JSON export"),
        ('[{"id": 1}, {"id": 2}]', None, "has 2 tasks"),
        ('[{"id": 1}]', "7", "has no task 7, only 1"),
    ],
)
def test_another_file_is_refused_with_a_sentence(body: str, asked: str | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text(body)

    with pytest.raises(RequestError, match=sentence):
        annotated_numbers(path, asked, "all")


def test_the_command_writes_the_frames_that_the_annotator_saw(tmp_path: Path) -> None:
    """At 24 a second Label Studio seeks for number 21 to 20/24 s, in steps of 2 ms and one more, .836 s: frame 25 at 29.97."""
    film = numbered_film(tmp_path / "clip.mp4", 60, NTSC)
    export = write(tmp_path / "e.json", [task(5, {"framesCount": 48, "sequence": [keyframe(1), keyframe(21, enabled=False)]})])
    command = ["video", "frames", str(film), "--export", str(export), "--out", str(tmp_path / "out")]

    done = CliRunner().invoke(cli, command)

    assert done.exit_code == 0, done.output
    written = {path.name: read_number(np.asarray(Pillow.open(path))) for path in (tmp_path / "out").iterdir()}
    assert written == {"clip_000000.png": 0, "clip_000025.png": 25}


def test_frames_may_be_listed_instead(tmp_path: Path) -> None:
    film = numbered_film(tmp_path / "clip.mp4", 12)
    command = ["video", "frames", str(film), "--numbers", "2,4-5", "--out", str(tmp_path / "out")]

    assert CliRunner().invoke(cli, command).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"clip_{k:06d}.png" for k in (1, 3, 4)]
    refused = CliRunner().invoke(cli, ["video", "frames", str(film)])
    assert isinstance(refused.exception, RequestError)
    assert "--numbers" in str(refused.exception)
