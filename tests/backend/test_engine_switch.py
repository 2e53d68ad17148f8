"""Another engine without a restart: a new version, and nothing read of the old one's memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from backend.app import create_app
from backend.assemble import assemble
from backend.engines.catalogue import Recipe
from backend.values.errors import MaskloomError
from backend.values.session import Question, Round
from backend.values.settings import Settings
from tests.backend.pictures import two_shapes
from tests.backend.test_app import body, data_uri, key_point, predict, task

OTHER = Recipe("other", "backend.engines.colour:build", "the colour engine under another name", "Apache-2.0")


def settings(tmp_path: Path) -> Settings:
    return Settings(engine="colour", home=tmp_path / "home", local_roots=str(tmp_path))


def test_the_version_changes_and_the_next_answer_bears_it(tmp_path: Path) -> None:
    parts = assemble(settings(tmp_path))
    image = task(data_uri(two_shapes()))
    with TestClient(create_app(parts)) as client:
        (before,) = predict(client, body(image, context={"result": [key_point(25, 50)]}))
        parts.engine.switch(OTHER)
        (after,) = predict(client, body(image, context={"result": [key_point(25, 50)]}))
        assert client.get("/versions").json() == {"versions": ["other-1"]}
    assert (before["model_version"], after["model_version"]) == ("colour-1", "other-1")


def test_an_answer_bears_the_version_that_made_it_when_the_engine_is_switched_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = assemble(settings(tmp_path))
    segmenter = parts.engine.segmenter()
    plain = segmenter.segment

    def segment_and_be_replaced(questions: Sequence[Question]) -> list[Round | MaskloomError]:
        found = plain(questions)
        parts.engine.switch(OTHER)
        return found

    monkeypatch.setattr(segmenter, "segment", segment_and_be_replaced)
    with TestClient(create_app(parts)) as client:
        (answer,) = predict(client, body(task(data_uri(two_shapes()))))
    assert answer["model_version"] == "colour-1"
    assert len(answer["result"]) == 2


def test_the_memory_of_the_old_engine_is_not_recalled(tmp_path: Path) -> None:
    """Two clicks on two shapes make one object of both by memory of the first; after a switch only by the prompts."""
    parts = assemble(settings(tmp_path))
    old = parts.engine.segmenter()
    parts.engine.switch(OTHER)
    assert parts.engine.segmenter() is not old
    assert parts.engine.segmenter()._cache is not old._cache
    assert parts.engine.segmenter().engine.version == "other-1"
    assert old.engine.version == "colour-1"


def test_an_engine_that_cannot_be_loaded_leaves_the_old_one(tmp_path: Path) -> None:
    parts = assemble(settings(tmp_path))
    with TestClient(create_app(parts)) as client:
        refused = client.post("/engine", json={"engine": "edgetam-cpu"})
        assert refused.status_code == 503
        assert "maskloom fetch edgetam-cpu" in refused.json()["error"]
        unknown = client.post("/engine", json={"engine": "nothing"})
        assert unknown.status_code == 404
        assert "there is no engine 'nothing'" in unknown.json()["error"]
        switched = client.post("/engine", json={"engine": "colour"})
        assert switched.json() == {"model_version": "colour-1"}
    assert parts.engine.version == "colour-1"


@pytest.mark.slow
def test_requests_during_a_switch_are_answered_under_the_version_that_answered(tmp_path: Path) -> None:
    parts = assemble(settings(tmp_path))
    image, versions = task(data_uri(two_shapes())), set()
    with TestClient(create_app(parts)) as client:

        def annotate() -> None:
            for place in range(20, 32):
                (answer,) = predict(client, body(image, context={"result": [key_point(place, 50)]}))
                versions.add(answer["model_version"])
                assert len(answer["result"]) == 1

        threads = [threading.Thread(target=annotate) for _ in range(4)]
        for thread in threads:
            thread.start()
        parts.engine.switch(OTHER)
        for thread in threads:
            thread.join()
    assert versions <= {"colour-1", "other-1"}
    assert "other-1" in versions
