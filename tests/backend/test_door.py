"""Who may knock at the HTTP door, what Label Studio says of itself there, and texts that are hard to write down."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend import door
from backend.app import create_app
from backend.assemble import Parts, assemble
from backend.values.errors import SetupError
from backend.values.settings import Settings
from tests.backend.labelstudio.captured import FOLDER
from tests.backend.pictures import two_shapes
from tests.backend.test_app import body, data_uri, task


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return assemble(Settings(engine="colour", home=tmp_path / "home", local_roots=str(tmp_path)))


@pytest.fixture
def client(parts: Parts) -> Iterator[TestClient]:
    with TestClient(create_app(parts)) as client:
        yield client


def captured(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))["body"]


@pytest.mark.parametrize(
    ("name", "address"), [("setup/named_host", "http://127.0.0.1:8180"), ("setup/default_host", "http://localhost:8191")]
)
def test_label_studio_says_where_it_is_and_with_which_token_it_can_be_asked(
    client: TestClient, parts: Parts, name: str, address: str
) -> None:
    """Without LABEL_STUDIO_HOST it calls itself localhost; ``extra_params`` come as an object or null."""
    assert client.post("/setup", json=captured(name)).json() == {"model_version": "colour-1"}
    site = parts.media._sites.of(parts.projects.key(captured(name)["project"]))
    assert site is not None
    assert (str(site.base), site.token) == (address, "0123456789abcdef0123456789abcdef01234567")
    assert not parts.engine.is_loaded


def test_the_webhook_of_an_annotation_comes_without_the_login_and_is_received(tmp_path: Path) -> None:
    settings = Settings(engine="colour", home=tmp_path, basic_auth_user="ann", basic_auth_pass="s3cret")  # type: ignore[arg-type]
    with TestClient(create_app(assemble(settings))) as client:
        assert client.post("/webhook", json=captured("events/annotation_without_login")).status_code == 201


@pytest.mark.slow
@pytest.mark.parametrize(
    "hostname", ["http://[", "http://[::1", "http://x:99999999", "http://x/\\ud800", "\\ud800", "no address", ""]
)
def test_a_hostname_that_is_no_address_is_left_out(client: TestClient, hostname: str) -> None:
    content = f'{{"project": "1.17", "hostname": "{hostname}"}}'
    assert client.post("/setup", content=content, headers={"content-type": "application/json"}).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    [
        {"context": {"result": [{"id": "t", "type": "textarea", "to_name": "image", "value": {"text": ["red \ud83d"]}}]}},
        {"context": {"result": [{"id": "t", "type": "textarea", "to_name": "image", "value": {"text": ["like \ud83d"]}}]}},
        {
            "context": {"result": [{"id": "t", "type": "textarea", "to_name": "image", "value": {"text": ["red"]}}]},
            "image": "/\ud83d.png",
        },
        {"image": "http://x/\ud83d.png"},
    ],
)
def test_half_a_character_in_a_text_or_an_address_is_answered(client: TestClient, broken: dict[str, Any]) -> None:
    """A page cuts an emoji in two where a text has reached its longest; JSON can write the half, UTF-8 cannot."""
    request = body(task(broken.get("image", data_uri(two_shapes()))), context=broken.get("context"))
    response = client.post("/predict", content=json.dumps(request), headers={"content-type": "application/json"})
    assert response.status_code == 200
    (answer,) = response.json()["results"]
    assert ("result" in answer) is ("context" in broken), "a pre-annotation that fails has none"
    assert "Maskloom failed" not in response.text


def test_with_a_password_only_probes_and_webhooks_pass_without_it(tmp_path: Path) -> None:
    settings = Settings(engine="colour", home=tmp_path, basic_auth_user="ann", basic_auth_pass="s3cret")  # type: ignore[arg-type]
    with TestClient(create_app(assemble(settings))) as client:
        assert client.get("/health").status_code == 200
        assert client.post("/webhook", json={}).status_code == 201
        for path in ("/setup", "/predict"):
            assert client.post(path, json=body()).status_code == 401
            assert client.post(path, json=body(), auth=("ann", "wrong")).status_code == 401
            assert client.post(path, json=body(), auth=("ann", "s3cret")).status_code == 200
        assert client.get("/versions").status_code == 401


@pytest.mark.parametrize(
    "half", [{"basic_auth_user": "ann"}, {"basic_auth_pass": "s3cret"}, {"basic_auth_user": "ann", "basic_auth_pass": ""}]
)
def test_half_a_login_is_refused_at_the_start_and_an_empty_one_is_none(tmp_path: Path, half: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match="set both"):
        create_app(assemble(Settings(engine="colour", home=tmp_path, **half)))
    with TestClient(create_app(assemble(Settings(engine="colour", home=tmp_path, **dict.fromkeys(half, ""))))) as client:
        assert client.get("/versions").status_code == 200


def secured(tmp_path: Path, **more: Any) -> TestClient:
    wanted: dict[str, Any] = {"basic_auth_user": "ann", "basic_auth_pass": "pässword", **more}
    return TestClient(create_app(assemble(Settings(engine="colour", home=tmp_path, **wanted))))


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
def test_a_password_is_known_in_both_encodings_and_under_any_spelling_of_the_scheme(
    tmp_path: Path, encoding: str, scheme: str
) -> None:
    """Label Studio sends Latin-1, browsers UTF-8."""
    login = base64.b64encode("ann:pässword".encode(encoding)).decode()
    with secured(tmp_path) as client:
        assert client.get("/versions", headers={"Authorization": f"{scheme} {login}"}).status_code == 200
        assert client.get("/versions", headers={"Authorization": f"Bearer {login}"}).status_code == 401
        for wrong in ("", "Basic", "Basic !!!", f"{scheme} {base64.b64encode(b'ann:password').decode()}"):
            assert client.get("/versions", headers={"Authorization": wrong}).status_code == 401


def test_what_the_caller_calls_the_host_opens_no_path(tmp_path: Path) -> None:
    with secured(tmp_path) as client:
        for host in ("x/health?", "x/webhook?", "x/health#"):
            assert client.get("/versions", headers={"Host": host}).status_code == 401
        for path in ("/health/../versions", "/health/", "/webhook/", "/%68ealth/x"):
            assert client.get(path).status_code in (401, 404)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/engine", "/jobs", "/jobs/1"])
def test_administration_is_closed_where_others_can_reach_the_server_without_a_login(parts: Parts, path: str) -> None:
    for host in ("0.0.0.0", "::", "10.0.0.7", "example.org"):
        with TestClient(create_app(parts, host=host)) as client:
            refused = client.post(path, json={"engine": "colour"})
            assert refused.status_code == 403
            assert "MASKLOOM_BASIC_AUTH_USER" in refused.json()["error"]
            assert client.post("/predict", json=body()).status_code == 200
    for host in ("127.0.0.1", "::1", "localhost"):
        with TestClient(create_app(parts, host=host)) as client:
            assert client.post("/engine", json={"engine": "colour"}).status_code == 200


def test_with_a_login_administration_is_open_to_those_who_know_it(tmp_path: Path) -> None:
    settings = Settings(engine="colour", home=tmp_path, basic_auth_user="ann", basic_auth_pass="s3cret")  # type: ignore[arg-type]
    with TestClient(create_app(assemble(settings), host="0.0.0.0")) as client:
        assert client.post("/engine", json={"engine": "colour"}).status_code == 401
        assert client.post("/engine", json={"engine": "colour"}, auth=("ann", "s3cret")).status_code == 200


def test_a_webhook_that_does_not_know_the_secret_is_not_heard(tmp_path: Path) -> None:
    settings = Settings(engine="colour", home=tmp_path, webhook_secret="w0rd")  # type: ignore[arg-type]
    with TestClient(create_app(assemble(settings))) as client:
        assert client.post("/webhook", json={}).status_code == 401
        assert client.post("/webhook?secret=w", json={}).status_code == 401
        assert client.post("/webhook?secret=w0rd", json={}).status_code == 201
        assert client.post("/webhook", json={}, headers={"X-Maskloom-Secret": "w0rd"}).status_code == 201
        assert client.post("/predict", json=body()).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(("path", "mebibytes"), [("/predict", 65), ("/webhook", 17), ("/setup", 2), ("/engine", 2)])
def test_a_body_beyond_its_bound_is_refused_before_it_is_held(client: TestClient, path: str, mebibytes: int) -> None:
    read = 0

    def pieces() -> Iterator[bytes]:
        nonlocal read
        for _ in range(mebibytes):
            read += 1
            yield bytes(1 << 20)

    refused = client.post(path, content=b"", headers={"Content-Length": str(mebibytes << 20)})
    assert refused.status_code == 413
    assert client.post(path, content=pieces(), headers={"content-type": "application/json"}).status_code == 413
    assert "is larger than" in refused.json()["error"]


def test_more_bodies_at_once_than_there_is_room_for_are_asked_to_come_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MOST_HELD_BYTES", 1000)
    refused = client.post("/predict", content=b" " * 1001, headers={"content-type": "application/json"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    for _ in range(5):
        assert client.post("/predict", json=body()).status_code == 200, "what was answered is held no longer"


def test_every_request_is_counted_those_that_are_refused_or_fail_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(engine="colour", home=tmp_path, basic_auth_user="ann", basic_auth_pass="s3cret")  # type: ignore[arg-type]
    parts, login = assemble(settings), ("ann", "s3cret")
    app = create_app(parts)

    def fail(*_: Any) -> None:
        raise KeyError("nobody expected this")

    monkeypatch.setattr(type(parts.service), "predict", fail)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/predict", json=body()).status_code == 401
        assert client.post("/predict", json=body(), auth=login).status_code == 500
        counted = client.get("/metrics", auth=login).text
    assert 'maskloom_requests_total{path="/predict",status="401"} 1.0' in counted
    assert 'maskloom_requests_total{path="/predict",status="500"} 1.0' in counted
    assert 'maskloom_request_seconds_count{path="/predict"} 2.0' in counted


def test_a_server_is_alive_at_once_and_ready_when_its_engine_is_loaded(client: TestClient, parts: Parts) -> None:
    assert client.get("/livez").status_code == 200
    waiting = client.get("/readyz")
    assert waiting.status_code == 503
    assert waiting.json()["reasons"] == ["the engine colour-1 is not loaded yet"]
    parts.engine.segmenter()
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"], ready.json()["reasons"]) == (200, "ready", [])


@pytest.mark.parametrize("path", ["/predict", "/webhook"])
def test_a_body_that_is_nested_too_deeply_is_refused_before_it_is_read(client: TestClient, path: str) -> None:
    """Python's own parser follows it until its stack ends; within a task it would reach whatever walks over data."""
    for nested in (b"[" * 100_000, b'{"tasks": ' + b"[" * 500 + b"]" * 500 + b"}"):
        answer = client.post(path, content=nested, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert "nested deeper than 64" in answer.json()["error"]


@pytest.mark.parametrize("value", [b"[],", b"{},", b'"a",'])
def test_a_body_of_so_many_values_that_they_take_many_times_its_bytes_is_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, value: bytes
) -> None:
    monkeypatch.setattr(door, "MOST_CONTAINERS", 1_000)
    monkeypatch.setattr(door, "MOST_QUOTES", 1_000)
    many = b'{"tasks": [' + value * 2_000 + b"0]}"
    answer = client.post("/predict", content=many, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert "too many values" in answer.json()["error"]


def test_many_flat_values_come_in(client: TestClient) -> None:
    """Brush masks are lists of a million numbers."""
    many = body(task(data_uri(two_shapes())))
    many["tasks"][0]["drafts"] = [{"result": [{"value": {"rle": [0] * 1_000_000}}]}]
    assert client.post("/predict", json=many).status_code == 200
