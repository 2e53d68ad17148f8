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
from backend.telemetry import STAGES, resident_bytes, stage
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
