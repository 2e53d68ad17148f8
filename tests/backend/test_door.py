"""Who may knock at the HTTP door, what Label Studio says of itself there, and texts that are hard to write down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

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
    site = parts.media._sites.of("1")
    assert site is not None
    assert (str(site.base), site.token) == (address, "0123456789abcdef0123456789abcdef01234567")
    assert not parts.engine.is_loaded


def test_the_webhook_of_an_annotation_comes_without_the_login_and_is_received(tmp_path: Path) -> None:
    settings = Settings(engine="colour", home=tmp_path, basic_auth_user="ann", basic_auth_pass="s3cret")  # type: ignore[arg-type]
    with TestClient(create_app(assemble(settings))) as client:
        assert client.post("/webhook", json=captured("events/annotation_without_login")).status_code == 201


@pytest.mark.parametrize(
    "hostname", ["http://[", "http://[::1", "http://x:99999999", "http://x/\\ud800", "\\ud800", "no address", ""]
)
def test_a_hostname_that_is_no_address_is_left_out(client: TestClient, hostname: str) -> None:
    content = f'{{"project": "1.17", "hostname": "{hostname}"}}'
    assert client.post("/setup", content=content, headers={"content-type": "application/json"}).status_code == 200


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
    assert bool(answer["result"]) is ("context" in broken)
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
