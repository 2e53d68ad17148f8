"""What a server says of itself under /metrics after it has answered, and what it refuses when too many wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from backend import door
from backend.app import create_app
from backend.assemble import Parts, assemble
from backend.telemetry import ANSWER_KINDS, STAGES, resident_bytes, stage
from backend.values.settings import Settings
from tests.backend.pictures import two_shapes
from tests.backend.test_app import body, data_uri, task


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return assemble(Settings(engine="colour", home=tmp_path / "home"))


@pytest.fixture
def client(parts: Parts) -> Iterator[TestClient]:
    with TestClient(create_app(parts)) as client:
        yield client


def measured(client: TestClient) -> dict[tuple[str, str], float]:
    """Every sample by its name and its stage, state or path."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return {(each.name, next(iter(each.labels.values()), "")): each.value for each in samples if "le" not in each.labels}


def test_the_stages_of_an_answer_are_measured(client: TestClient) -> None:
    before = measured(client)
    client.post("/predict", json=body(task(data_uri(two_shapes()))))
    after = measured(client)
    for name in ("load", "encode", "decode", "wait"):
        sample = ("maskloom_stage_seconds_count", name)
        assert after[sample] > before.get(sample, 0), name


def test_what_became_of_tasks_is_counted_by_kind(client: TestClient) -> None:
    """A phrase that finds nothing is a sentence, an image that is gone a failure, and what nobody can read is refused."""
    before = measured(client)
    purple = {"value": {"text": ["purple"]}, "id": "t", "from_name": "prompt", "to_name": "image", "type": "textarea"}
    client.post("/predict", json=body(task(data_uri(two_shapes()))))
    client.post("/predict", json=body(task(data_uri(two_shapes())), context={"result": [purple]}))
    client.post("/predict", json=body(task("/nowhere/gone.png")))
    client.post("/predict", json=body("no task"))
    after = measured(client)
    grown = {kind: after["maskloom_answers_total", kind] - before["maskloom_answers_total", kind] for kind in ANSWER_KINDS}
    assert grown == {"masks": 1, "nothing": 0, "sentence": 1, "failed": 1, "refused": 1}


def test_what_waits_and_what_is_held_can_be_asked_at_any_moment(client: TestClient, parts: Parts) -> None:
    idle = measured(client)
    assert idle["maskloom_feature_cache_bytes", ""] == 0
    client.post("/predict", json=body(task(data_uri(two_shapes()))))
    busy = measured(client)
    assert busy["maskloom_feature_cache_bytes", ""] == parts.engine.segmenter().cached_bytes > 0
    for name in ("requests_waiting", "images_waiting", "webhooks_waiting", "body_bytes"):
        assert busy[f"maskloom_{name}", ""] == 0
    assert 10e6 < busy["maskloom_resident_bytes", ""] == pytest.approx(resident_bytes(), rel=0.5)


def test_a_stage_that_fails_is_measured_as_well() -> None:
    def count() -> float:
        return next(each.value for each in STAGES.labels("load")._child_samples() if each.name == "_count")

    before = count()
    with pytest.raises(ValueError, match="broken"), stage("load"):
        raise ValueError("broken")
    assert count() == before + 1


def test_a_request_too_many_is_told_to_come_again(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MOST_ANSWERING", 0)
    refused = client.post("/predict", json=body(task(data_uri(two_shapes()))))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert client.get("/health").status_code == 200
    monkeypatch.undo()
    assert client.post("/predict", json=body(task(data_uri(two_shapes())))).status_code == 200
