"""What a server says of itself under /metrics after it has answered, and what it refuses when too many wait."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from backend import door, telemetry
from backend.app import create_app
from backend.assemble import Parts, assemble
from backend.telemetry import ANSWER_KINDS, STAGES, TRACING, give_memory_back, resident_bytes, stage
from backend.values.errors import SetupError
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


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only glibc keeps what is freed and can be told to give it back"
)
def test_what_was_freed_between_blocks_that_are_used_is_given_back() -> None:
    """Blocks of 100 kB, each with a small one behind it that stays: the heap cannot shrink by itself."""
    pairs = [(bytearray(b"x") * 100_000, bytearray(b"x") * 2_000) for _ in range(1_000)]
    used = resident_bytes()
    stays = [small for _, small in pairs]
    del pairs
    assert used - resident_bytes() < 50e6
    give_memory_back()
    assert used - resident_bytes() > 90e6
    assert len(stays) == 1_000


def test_a_server_gives_memory_back_as_long_as_it_runs(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    given = threading.Semaphore(0)
    monkeypatch.setattr(telemetry, "give_memory_back", given.release)
    monkeypatch.setattr(telemetry, "GIVEN_BACK_S", 0.01)
    with TestClient(create_app(parts)):
        assert all(given.acquire(timeout=10) for _ in range(3))


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


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """A collector of spans: its address, and what was sent there."""
    sent: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", sent
    server.shutdown()
    server.server_close()


def spans_of(bodies: list[bytes]) -> list[Any]:
    trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    requests = [trace_service.ExportTraceServiceRequest.FromString(body) for body in bodies]
    return [span for each in requests for part in each.resource_spans for scope in part.scope_spans for span in scope.spans]


def test_a_collector_gets_every_request_with_its_stages_below_it(tmp_path: Path, collector: tuple[str, list[bytes]]) -> None:
    url, sent = collector
    settings = Settings(engine="colour", home=tmp_path, traces_url=url)
    with TestClient(create_app(assemble(settings))) as client:
        client.post("/predict", json=body(task(data_uri(two_shapes()))))
    spans = spans_of(sent)
    (request,) = (span for span in spans if span.name == "POST /predict")
    below = {span.name for span in spans if span.trace_id == request.trace_id} - {request.name}
    assert {"load", "wait", "encode", "decode"} <= below


def test_nobody_makes_spans_unless_told_to(client: TestClient) -> None:
    client.post("/predict", json=body(task(data_uri(two_shapes()))))
    assert TRACING.tracer is None


def test_without_the_extra_the_setting_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SetupError, match=r"MASKLOOM_TRACES_URL needs OpenTelemetry: run .*telemetry"):
        create_app(assemble(Settings(engine="colour", home=tmp_path, traces_url="http://127.0.0.1:9")))
