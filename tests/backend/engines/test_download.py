"""Fetching a bundle from a hub on the loopback interface, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli import cli
from backend.engines import download as hub
from backend.engines.catalogue import PublishedModel, Recipe
from backend.values.errors import RemoteError, SetupError

CONFIG = b'{"model_type": "sam"}'
WEIGHTS = bytes(range(256)) * 9000
MODELS = (PublishedModel("decoder", "us/sam", "MIT"), PublishedModel("clip", "us/clip", "MIT"))
ENGINE = Recipe("tiny", "nowhere:build", "two models", models=MODELS)


class FakeHub(ThreadingHTTPServer):
    """A hub with two repositories; it can break off, damage a file and want a token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "pytorch_model.bin": b"pickle", "a/b.json": b"{}"}
        self.asked: list[tuple[str, str | None]] = []
        self.encodings: set[str | None] = set()
        self.is_a_login_page = False
        self.knows_ranges = True
        self.break_after: int | None = None
        self.damaged = ""
        self.token: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range")))
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.send_response(401)
            self.end_headers()
        elif self.server.is_a_login_page:
            self._send(200, b"<html>Welcome to our network</html>")
        elif self.path.startswith("/api/"):
            self._send(
                200, json.dumps({"sha": "abc", "siblings": [self._sibling(name) for name in self.server.files]}).encode()
            )
        else:
            self._file(self.server.files[self.path.split("/resolve/abc/")[1]])

    def _sibling(self, name: str) -> dict[str, object]:
        content = self.server.files[name]
        if name.endswith(".safetensors"):
            lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            return {"rfilename": name, "size": len(content), "blobId": "pointer", "lfs": lfs}
        return {
            "rfilename": name,
            "size": len(content),
            "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
        }

    def _file(self, content: bytes) -> None:
        self.server.encodings.add(self.headers.get("Accept-Encoding"))
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if self.server.knows_ranges else 0
        sent = content[start:]
        if self.path.endswith(self.server.damaged or "/"):
            sent = b"x" * len(sent)
        if self.server.break_after is not None and len(content) > 1000:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(sent[: self.server.break_after])
            self.server.break_after = None
            self.close_connection = True
        else:
            self._send(206 if start else 200, sent)

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with FakeHub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server: FakeHub, folder: Path, token: str | None = None) -> None:
    hub.fetch(ENGINE, folder, hub.Hub(server.url, token), lambda _: None)


def test_a_bundle_has_every_model_in_its_place_and_a_manifest(server: FakeHub, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    for role in ("decoder", "clip"):
        assert (tmp_path / role / "config.json").read_bytes() == CONFIG
        assert (tmp_path / role / "model.safetensors").read_bytes() == WEIGHTS
    manifest = json.loads((tmp_path / "bundle.json").read_text())
    assert manifest["models"]["clip"]["repository"] == "us/clip"
    assert manifest["models"]["clip"]["revision"] == "abc"
    assert manifest["models"]["clip"]["files"]["model.safetensors"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert hub.verify(tmp_path) == []


def test_pickles_and_files_in_folders_are_not_fetched(server: FakeHub, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    assert sorted(path.name for path in (tmp_path / "clip").iterdir()) == ["config.json", "model.safetensors"]


def test_a_broken_connection_is_resumed_from_where_it_broke(server: FakeHub, tmp_path: Path) -> None:
    server.break_after = 500_000
    with pytest.raises(RemoteError, match="run the command again"):
        fetch(server, tmp_path)
    assert (tmp_path / "decoder" / "model.safetensors.part").stat().st_size == 500_000
    server.asked.clear()
    fetch(server, tmp_path)
    assert ("/us/sam/resolve/abc/model.safetensors", "bytes=500000-") in server.asked
    assert hub.verify(tmp_path) == []


def test_a_hub_that_sends_the_whole_file_again_is_followed(server: FakeHub, tmp_path: Path) -> None:
    server.break_after, server.knows_ranges = 500_000, False
    with pytest.raises(RemoteError, match="run the command again"):
        fetch(server, tmp_path)
    fetch(server, tmp_path)
    assert hub.verify(tmp_path) == []


def test_an_empty_file_is_fetched_as_well(server: FakeHub, tmp_path: Path) -> None:
    """Nothing arrived of it, so that there was no part to move into its place."""
    server.files["added_tokens.json"] = b""
    fetch(server, tmp_path)
    assert (tmp_path / "clip" / "added_tokens.json").read_bytes() == b""
    assert hub.verify(tmp_path) == []


def test_files_come_as_they_are(server: FakeHub, tmp_path: Path) -> None:
    """A part of a compressed answer cannot be gone on from where it broke."""
    fetch(server, tmp_path)
    assert server.encodings == {"identity"}


def test_a_page_in_the_place_of_the_hub_is_reported(server: FakeHub, tmp_path: Path) -> None:
    server.is_a_login_page = True
    with pytest.raises(RemoteError, match="is no model hub"):
        fetch(server, tmp_path)


def test_what_is_whole_is_not_fetched_again(server: FakeHub, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    server.asked.clear()
    fetch(server, tmp_path)
    assert all(path.startswith("/api/") for path, _ in server.asked)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_file_is_thrown_away(server: FakeHub, tmp_path: Path, name: str) -> None:
    """The hub gives git's digest of small files and the sha256 of large ones."""
    server.damaged = name
    with pytest.raises(RemoteError, match="arrived damaged"):
        fetch(server, tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def test_a_file_that_was_changed_later_is_found(server: FakeHub, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    (tmp_path / "clip" / "config.json").write_text("{}")
    (tmp_path / "decoder" / "model.safetensors").unlink()
    assert sorted(line.rpartition("/")[2] for line in hub.verify(tmp_path)) == [
        "config.json has changed",
        "model.safetensors is missing",
    ]


def test_a_gated_model_says_how_to_get_access_and_a_token_opens_it(server: FakeHub, tmp_path: Path) -> None:
    server.token = "secret"
    with pytest.raises(SetupError, match=r"us/sam is behind a licence.*HF_TOKEN"):
        fetch(server, tmp_path)
    fetch(server, tmp_path, token="secret")
    assert hub.verify(tmp_path) == []


def test_no_network_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match=r"cannot reach http://127\.0\.0\.1:9"):
        hub.fetch(ENGINE, tmp_path, hub.Hub("http://127.0.0.1:9"), lambda _: None)


def test_the_command_writes_a_bundle_and_checks_it(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLOOM_HUB_URL", server.url)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    done = CliRunner().invoke(cli, ["fetch", "sam2-tiny", "--to", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle.json", "clip", "decoder", "dino", "grounder"]
    assert CliRunner().invoke(cli, ["fetch", "sam2-tiny", "--to", str(tmp_path), "--check"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["fetch", "sam2-tiny"], {"HF_HUB_OFFLINE": "1"}, "offline mode is on"),
        (["fetch", "colour"], {}, "has no models to fetch"),
        (["fetch", "nothing"], {}, "there is no engine 'nothing'"),
    ],
)
def test_the_command_refuses(
    arguments: list[str], environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, SetupError)
    assert message in str(done.exception)
