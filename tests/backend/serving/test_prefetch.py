"""The next task's image is encoded while somebody works on this one: over HTTP, with a Label Studio of our own, counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from backend.app import create_app
from backend.assemble import Parts, assemble
from backend.values.settings import Settings
from tests.backend.labelstudio.test_client import LEGACY, Server
from tests.backend.pictures import two_red_discs, two_shapes
from tests.backend.test_app import body, key_point, predict, task


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.says("GET /api/version", {})
    yield server
    server.close()


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path, picture in zip(paths, (two_shapes(), two_red_discs()), strict=True):
        Image.fromarray(np.ascontiguousarray(picture.image)).save(path)
    return [str(path) for path in paths]


def parts_for(server: Server | None, tmp_path: Path, **settings: Any) -> Parts:
    where = {"label_studio_url": server.url, "label_studio_token": LEGACY} if server else {}
    return assemble(Settings(engine="colour", home=tmp_path / "home", local_roots=str(tmp_path), **where, **settings))


def encoded(parts: Parts) -> int:
    return parts.engine.segmenter()._cache.encoded


def says_next(server: Server, *tasks: dict[str, Any]) -> None:
    server.says("GET /api/tasks", {"tasks": list(tasks), "total": len(tasks)})


def asked(server: Server) -> list[str]:
    return [path for _, path, _, _ in server.asked if path.startswith("/api/tasks")]


def click(parts: Parts, image: str, number: int = 1, x: float = 25) -> None:
    with TestClient(create_app(parts)) as client:
        predict(client, body(task(image, number), context={"result": [key_point(x, 50)]}))
    parts.ahead.wait()


def test_the_next_task_is_encoded_before_anybody_opens_it(server: Server, tmp_path: Path, images: list[str]) -> None:
    says_next(server, {"id": 9, "data": {"image": images[1]}})
    parts = parts_for(server, tmp_path)
    click(parts, images[0])
    assert encoded(parts) == 2
    says_next(server)
    click(parts, images[1], number=9)
    assert encoded(parts) == 2


def test_label_studio_is_asked_once_for_each_task_for_the_first_one_after_it_without_annotations(
    server: Server, tmp_path: Path, images: list[str]
) -> None:
    says_next(server, {"id": 9, "data": {"image": images[1]}})
    parts = parts_for(server, tmp_path)
    for x in (25, 30, 35):
        click(parts, images[0], number=7, x=x)
    (path,) = asked(server)
    question = {key: values[0] for key, values in parse_qs(urlsplit(path).query).items()}
    filters = json.loads(question["query"])["filters"]["items"]
    assert (question["project"], question["page_size"]) == ("1", "1")
    assert [(one["filter"], one["operator"], one["value"]) for one in filters] == [
        ("filter:tasks:id", "greater", 7),
        ("filter:tasks:total_annotations", "equal", 0),
    ]


def test_after_the_last_task_nothing_is_encoded(server: Server, tmp_path: Path, images: list[str]) -> None:
    says_next(server)
    parts = parts_for(server, tmp_path)
    click(parts, images[0])
    assert len(asked(server)) == 1
    assert encoded(parts) == 1


@pytest.mark.parametrize("answer", [({"detail": "no"}, 403), ({"nothing": 1}, 200), ("rubbish", 200)])
def test_a_label_studio_that_does_not_tell_harms_nothing(
    server: Server, tmp_path: Path, images: list[str], answer: tuple[Any, int]
) -> None:
    server.says("GET /api/tasks", *answer)
    parts = parts_for(server, tmp_path)
    click(parts, images[0])
    click(parts, images[1], number=2)
    assert encoded(parts) == 2


def test_a_next_image_that_cannot_be_had_harms_nothing(server: Server, tmp_path: Path, images: list[str]) -> None:
    says_next(server, {"id": 9, "data": {"image": str(tmp_path / "missing.png")}})
    parts = parts_for(server, tmp_path)
    click(parts, images[0])
    assert encoded(parts) == 1


def test_it_can_be_switched_off_and_needs_a_token(server: Server, tmp_path: Path, images: list[str]) -> None:
    says_next(server, {"id": 9, "data": {"image": images[1]}})
    for parts in (parts_for(server, tmp_path / "a", ahead_s=0), parts_for(None, tmp_path / "b")):
        with TestClient(create_app(parts)) as client:
            predict(client, body(task("data:,"), context={"result": [key_point(25, 50)]}))
        parts.ahead.wait()
    assert asked(server) == []


def test_an_engine_that_is_slow_is_not_kept_from_its_clicks(server: Server, tmp_path: Path, images: list[str]) -> None:
    says_next(server, {"id": 9, "data": {"image": images[1]}})
    parts = parts_for(server, tmp_path)
    segmenter = parts.engine.segmenter()
    segmenter._queue._encode = lambda images: slow(segmenter, images)
    click(parts, images[0])
    assert asked(server) == []
    assert encoded(parts) == 1


def slow(segmenter: Any, images: Any) -> Any:
    found = segmenter._encode(images)
    segmenter.encode_s = 43.0
    return found


def test_a_pre_annotation_looks_at_nothing_ahead(server: Server, tmp_path: Path, images: list[str]) -> None:
    parts = parts_for(server, tmp_path)
    with TestClient(create_app(parts)) as client:
        predict(client, body(task(images[0])))
    parts.ahead.wait()
    assert asked(server) == []
