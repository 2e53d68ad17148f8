"""The next task's image is encoded while somebody works on this one: over HTTP, with a Label Studio of our own, counted."""

from __future__ import annotations

import json
import threading
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
from backend.serving.preannotate import MOST_WAITING
from backend.values.settings import Settings
from prompts.kinds import KeyedImage
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
    """One click on a server that goes on: it is neither started nor shut down here."""
    predict(TestClient(create_app(parts)), body(task(image, number), context={"result": [key_point(x, 50)]}))
    parts.prefetcher.wait()


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


@pytest.mark.slow
def test_after_the_last_task_nothing_is_encoded(server: Server, tmp_path: Path, images: list[str]) -> None:
    says_next(server)
    parts = parts_for(server, tmp_path)
    click(parts, images[0])
    assert len(asked(server)) == 1
    assert encoded(parts) == 1


@pytest.mark.slow
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
    for parts in (parts_for(server, tmp_path / "a", prefetch_s=0), parts_for(None, tmp_path / "b")):
        with TestClient(create_app(parts)) as client:
            predict(client, body(task("data:,"), context={"result": [key_point(25, 50)]}))
        assert parts.prefetcher is None
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
    segmenter._recent_s = (43.0,)
    return found


def test_a_pre_annotation_looks_at_nothing_ahead(server: Server, tmp_path: Path, images: list[str]) -> None:
    parts = parts_for(server, tmp_path)
    with TestClient(create_app(parts)) as client:
        predict(client, body(task(images[0])))
    parts.prefetcher.wait()
    assert asked(server) == []


def test_a_task_whose_next_one_could_not_be_told_is_looked_at_again_after_its_next_click(
    server: Server, tmp_path: Path, images: list[str]
) -> None:
    """A task counted as done before it was, so that one failure of Label Studio switched it off for that task."""
    server.says("GET /api/tasks", {"detail": "starting"}, 503)
    parts = parts_for(server, tmp_path)
    click(parts, images[0])
    says_next(server, {"id": 9, "data": {"image": images[1]}})
    click(parts, images[0], x=30)
    assert encoded(parts) == 2


def test_a_task_that_found_the_queue_full_is_looked_at_after_its_next_click(
    server: Server, tmp_path: Path, images: list[str]
) -> None:
    says_next(server, {"id": 9, "data": {"image": images[1]}})
    parts = parts_for(server, tmp_path)
    parts.engine.segmenter().look_at(KeyedImage.of(two_shapes().image))
    reached, release = threading.Event(), threading.Event()
    following = parts.prefetcher._following

    def slow(*asked: Any) -> Any:
        reached.set()
        release.wait(10)
        return following(*asked)

    parts.prefetcher._following = slow  # type: ignore[method-assign]
    clicked = [body(task(images[0], number), context={"result": [key_point(25, 50)]}) for number in range(1, MOST_WAITING + 3)]
    parts.prefetcher.answered(clicked[0])
    assert reached.wait(10)
    for each in clicked[1:]:
        parts.prefetcher.answered(each)
    release.set()
    parts.prefetcher.wait()
    assert len(asked(server)) == len(clicked) - 1, "one found no room"
    parts.prefetcher.answered(clicked[-1])
    parts.prefetcher.wait()
    assert len(asked(server)) == len(clicked)


def test_one_slow_encoding_among_quick_ones_does_not_switch_it_off(server: Server, tmp_path: Path, images: list[str]) -> None:
    says_next(server, {"id": 9, "data": {"image": images[1]}})
    parts = parts_for(server, tmp_path)
    segmenter = parts.engine.segmenter()
    for seconds in (0.1, 43.0):
        segmenter._recent_s = (*segmenter._recent_s, seconds)
    segmenter._queue._encode = lambda images: [segmenter.engine.decoder.encode_images(images)[0] for _ in images]
    click(parts, images[0])
    assert encoded(parts) == 2
