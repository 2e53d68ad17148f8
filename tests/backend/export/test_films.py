"""Submitted boxes come out as the masks that were kept beside them, changed ones as the engine finds them, rings as shown."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image as Pillow
from pycocotools import mask as coco
from typer.testing import CliRunner

from backend.assemble import film_masks
from backend.cli import cli
from backend.export.films import SubmittedFilm, submitted
from backend.values.errors import RequestError
from backend.values.settings import Settings
from backend.video.film import open_film
from backend.video.tracks import FrameMask
from prompts.geometry import BoolArray
from tests.backend.serving.test_films import CONFIG, COUNT, HEIGHT, WIDTH, ask, client, drawn, film, places, square, truth

__all__ = ["client", "film"]


def holed(mask: FrameMask) -> FrameMask:
    """The same with its middle left out, which no box and no engine would tell."""
    pixels, (x0, y0, x1, y1) = mask.decode(), mask.box() or (0, 0, 0, 0)
    pixels[(y0 + y1) // 2 - 2 : (y0 + y1) // 2 + 2, (x0 + x1) // 2 - 2 : (x0 + x1) // 2 + 2] = False
    return FrameMask.of(pixels, mask.score)


def overlaps(mask: BoolArray, name: str, number: int) -> bool:
    """Whether a mask is the square, but for its edges, which the film's colours blur."""
    real = square(name, number)
    return bool((real & mask).sum() >= 0.85 * (real | mask).sum())


def exported(folder: Path, result: list[dict[str, Any]]) -> Path:
    """A JSON export of one task with one annotation."""
    path = folder / "export.json"
    annotation = {"id": 1, "result": result, "was_cancelled": False, "updated_at": "2026-11-29T00:00:00Z"}
    path.write_text(json.dumps([{"id": 3, "annotations": [annotation], "data": {}}]), encoding="utf-8")
    return path


def run(film: Path, export: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *formats: str) -> None:
    monkeypatch.setenv("MASKLOOM_ENGINE", "colour")
    monkeypatch.setenv("MASKLOOM_HOME", str(out.parent / "home"))
    more = [word for each in formats for word in ("--format", each)]
    done = CliRunner().invoke(cli, ["video", "masks", str(film), "--export", str(export), "--out", str(out), *more])
    assert done.exit_code == 0, done.output


def test_what_was_found_and_submitted_comes_out_as_the_masks_that_were_found(
    client: TestClient, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ask(client, film)
    beside = film_masks(Settings(engine="colour", home=tmp_path / "home"))
    regions = {region["value"]["labels"][0]: region for region in answer["result"]}
    kept = {name: {k: holed(mask) for k, mask in (beside.get(each["id"]) or {}).items()} for name, each in regions.items()}
    for name, masks in kept.items():
        assert sorted(masks) == [number for number in range(COUNT) if name in places(number)]
        beside.put(regions[name]["id"], masks)

    run(film, exported(tmp_path, answer["result"]), tmp_path / "out", monkeypatch, "davis", "coco", "mots", "youtube-vis")

    for number in range(COUNT):
        ids = np.asarray(Pillow.open(tmp_path / "out" / "davis" / "film" / f"{number:05d}.png"))
        for name, region in regions.items():
            shown = ids == 1 + list(regions.values()).index(region)
            assert shown.any() == (number in kept[name])
            assert not shown.any() or np.array_equal(shown, kept[name][number].decode())
    body = json.loads((tmp_path / "out" / "coco" / "film.json").read_text())
    assert not any(each["is_gt"] for each in body["annotations"])
    assert all(coco.decode(each["segmentation"]).sum() == each["area"] for each in body["annotations"])


def test_a_box_that_a_person_set_is_told_and_asked_of_the_engine(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = drawn("red", 3)
    x0, y0, x1, y1 = truth("red", 3) or (0.0, 0.0, 0.0, 0.0)
    wide = {"x": x0 - 2, "y": y0 - 2, "width": x1 - x0 + 4, "height": y1 - y0 + 4}
    region["value"]["sequence"] = [{**region["value"]["sequence"][0], **wide, "enabled": False}]

    run(film, exported(tmp_path, [region]), tmp_path / "out", monkeypatch, "coco")

    (found,) = json.loads((tmp_path / "out" / "coco" / "film.json").read_text())["annotations"]
    assert (found["image_id"], found["is_gt"], found["track_id"]) == (4, True, 1)
    assert overlaps(coco.decode(found["segmentation"]) > 0, "red", 3)


def test_a_followed_box_keeps_its_masks_under_the_id_of_the_page(client: TestClient, film: Path, tmp_path: Path) -> None:
    ask(client, film, [drawn("blue", 20)])

    kept = film_masks(Settings(engine="colour", home=tmp_path / "home")).get("drawn")

    assert kept is not None
    assert [frame for frame, mask in kept.items() if mask.is_given] == [20]
    assert sorted(kept) == [number for number in range(COUNT) if "blue" in places(number)]
    assert all(overlaps(mask.decode(), "blue", frame) for frame, mask in kept.items())


def test_rings_come_out_as_the_player_shows_them(client: TestClient, film: Path, tmp_path: Path) -> None:
    config = CONFIG.replace(
        '<VideoRectangle name="box" toName="video"/>', '<VideoVector name="ring" toName="video" closable="true"/>'
    )
    answer = ask(client, film, config=config)
    given = SubmittedFilm(open_film(film), submitted(exported(tmp_path, answer["result"]), "3"), Fraction(24))

    tracks = given.tracks(lambda region: {}, lambda image, box: np.ones((HEIGHT, WIDTH), np.bool_))

    assert [track.label for track in tracks.tracks] == [region["value"]["labels"][0] for region in answer["result"]]
    for track in tracks.tracks:
        assert sorted(track.masks) == [number for number in range(COUNT) if track.label in places(number)]
        for number, mask in track.masks.items():
            assert overlaps(mask.decode(), track.label or "", number), number


def test_an_export_without_a_submitted_track_is_refused_in_a_sentence(film: Path, tmp_path: Path) -> None:
    for result, sentence in (([], "no box and no ring"), ([{**drawn("red", 1), "value": {"sequence": [{}]}}], "a keyframe")):
        given = SubmittedFilm(open_film(film), submitted(exported(tmp_path, result), None), Fraction(24))
        with pytest.raises(RequestError, match=sentence):
            given.tracks(lambda region: {}, lambda image, box: np.ones((1, 1), np.bool_))
    for body, sentence in (([{"id": 3, "annotations": []}], "no submitted annotation"), ("x", "no JSON export")):
        (tmp_path / "other.json").write_text(json.dumps(body), encoding="utf-8")
        with pytest.raises(RequestError, match=sentence):
            submitted(tmp_path / "other.json", None)
