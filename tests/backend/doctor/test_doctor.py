"""The doctor names what is wrong with a broken installation, and has nothing to say of a whole one."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from backend.app import create_app
from backend.assemble import assemble
from backend.cli import cli
from backend.doctor.readiness import in_address
from backend.engines import catalogue
from backend.engines.catalogue import ENGINES
from backend.values import errors
from backend.values.settings import Settings
from tests.backend.doctor.studio import LEGACY, Studio, personal_token, running
from tests.backend.engines import tiny_bundles

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torchvision 0.28, when it is imported


@pytest.fixture
def studio() -> Iterator[Studio]:
    with running(Studio()) as studio:
        yield studio


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, studio: Studio, port: int) -> Path:
    """A whole installation: the colour engine, attached to one project of a Label Studio that takes its token."""
    home = tmp_path / "home"
    for name, value in {
        "ENGINE": "colour",
        "HOME": str(home),
        "LOCAL_ROOTS": str(tmp_path),
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_TOKEN": LEGACY,
    }.items():
        monkeypatch.setenv(f"MASKLOOM_{name}", value)
    studio.attach(port)
    return home


Told = Callable[..., list[str]]


@pytest.fixture
def told(home: Path, port: int) -> Told:
    """What is to be done, line by line; nothing when all is well."""

    def run(*options: str) -> list[str]:
        done = CliRunner().invoke(cli, ["doctor", "--port", str(port), *options])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        lines = [line.removeprefix("DO").strip() for line in done.stdout.splitlines() if line.startswith("DO")]
        assert done.exit_code == bool(lines)
        return lines

    return run


@pytest.fixture
def bundle(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole bundle of edgetam-cpu with its manifest, in its place."""
    monkeypatch.setenv("MASKLOOM_ENGINE", "edgetam-cpu")
    folder = tiny_bundles.write_published_bundle("edgetam-cpu", home / "engines" / "edgetam-cpu")
    models = {
        part.role: {
            "repository": part.repository,
            "revision": "1" * 40,
            "files": {path.name: "unread" for path in (folder / part.role).iterdir()},
        }
        for part in ENGINES["edgetam-cpu"].models
    }
    (folder / "bundle.json").write_text(json.dumps({"engine": "edgetam-cpu", "models": models}))
    return folder


def test_a_whole_installation_has_nothing_to_do(told: Told) -> None:
    assert told() == []


@pytest.mark.slow
def test_a_whole_bundle_has_nothing_to_do(told: Told, bundle: Path) -> None:
    assert told() == []


@pytest.mark.slow
def test_no_extra(told: Told, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = errors.importlib.util.find_spec
    monkeypatch.setattr(errors.importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name))
    (line,) = told()
    assert line.startswith("engine: the engine 'edgetam-cpu' needs transformers: run ")
    assert "-m pip install" in line
    assert line.endswith("[engines]'")


def test_no_weights(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLOOM_ENGINE", "sam2-tiny")
    (line,) = told()
    assert "there is no such folder: run 'maskloom fetch sam2-tiny'" in line


@pytest.mark.slow
def test_half_a_bundle(told: Told, bundle: Path) -> None:
    (bundle / "clip" / "open_clip_model.safetensors").unlink()
    (line,) = told()
    assert "half a bundle lies in" in line
    assert "without clip/open_clip_model.safetensors: run 'maskloom fetch edgetam-cpu'" in line
    (bundle / "bundle.json").unlink()
    (line,) = told()
    assert "without clip: run" in line


@pytest.mark.slow
def test_weights_that_cannot_be_loaded(told: Told, bundle: Path) -> None:
    (bundle / "decoder" / "model.safetensors").write_bytes(b"not weights")
    (line,) = told()
    assert f"the weights in {bundle / 'decoder'} cannot be loaded" in line


@pytest.mark.slow
def test_wrong_revision(home: Path, bundle: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    recipe = ENGINES["edgetam-cpu"]
    pinned = tuple(replace(model, revision="2" * 40) for model in recipe.models)
    monkeypatch.setitem(catalogue.ENGINES, "edgetam-cpu", replace(recipe, models=pinned))
    done = CliRunner().invoke(cli, ["doctor", "--port", str(port), "--no-load"])
    assert "yonigozlan/EdgeTAM-hf is revision 1111111111, not 2222222222" in done.stdout
    assert "run 'maskloom fetch edgetam-cpu' for what this release was made for" in done.stdout


def test_no_token(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASKLOOM_LABEL_STUDIO_TOKEN")
    (line,) = told()
    assert line.startswith("token: MASKLOOM_LABEL_STUDIO_TOKEN is not set")


def test_expired_token(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLOOM_LABEL_STUDIO_TOKEN", personal_token(-86_400))
    (line,) = told()
    assert "token: a personal access token that ended on " in line
    assert "make a new one" in line


def test_token_of_somebody_else(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLOOM_LABEL_STUDIO_TOKEN", "f" * 40)
    (line,) = told()
    assert line.startswith("token: Label Studio answered 401")
    assert "check the token" in line


def test_wrong_url(told: Told, monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("MASKLOOM_LABEL_STUDIO_URL", f"http://127.0.0.1:{port}")
    (line,) = told()
    assert f"nothing answers at http://127.0.0.1:{port}" in line
    assert "mend MASKLOOM_LABEL_STUDIO_URL" in line


def test_url_of_something_else(told: Told, monkeypatch: pytest.MonkeyPatch, studio: Studio) -> None:
    monkeypatch.setenv("MASKLOOM_LABEL_STUDIO_URL", f"{studio.url}/below")
    (line,) = told()
    assert "is no Label Studio (401)" in line


def test_full_disk(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 << 20))
    (line,) = told()
    assert line.startswith("disk: 5 MiB are free for ")
    assert "MASKLOOM_HOME" in line


def test_locked_database(told: Told, home: Path) -> None:
    assert told() == []
    holder = sqlite3.connect(home / "maskloom.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    (line,) = told()
    holder.close()
    assert line.startswith("database: somebody else holds the database")


@pytest.mark.slow
def test_port_busy(told: Told, port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        (line,) = told()
    assert line.startswith(f"port: cannot listen on 127.0.0.1 port {port}")
    assert "choose others with --host and --port" in line


def test_loopback_refused_by_label_studio(told: Told, studio: Studio) -> None:
    studio.refuses_loopback = True
    studio.backends[0]["state"] = "DI"
    refused, disconnected = told()
    assert "LABEL_STUDIO_ML_BLOCK_LOCAL_IP=false" in refused
    assert disconnected.startswith("project 7: Label Studio has no connection to")


def test_no_webhook(told: Told, studio: Studio, port: int) -> None:
    studio.webhooks.clear()
    (line,) = told()
    assert line.startswith("project 7: no webhook")
    assert f"add http://127.0.0.1:{port}/webhook" in line


def test_a_folder_of_images_that_is_gone(told: Told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASKLOOM_LOCAL_ROOTS", str(tmp_path / "gone"))
    (line,) = told()
    assert line.startswith(f"local folders: {tmp_path / 'gone'}: no such folder")


def serve(home: Path, **settings: Any) -> TestClient:
    return TestClient(create_app(assemble(Settings(home=home, **settings))))


def test_readyz_has_the_same_lines_and_health_looks_at_none(home: Path, studio: Studio, port: int) -> None:
    parts = assemble(Settings())
    with TestClient(create_app(parts, port=port)) as client:
        assert client.get("/readyz").status_code == 503
        parts.engine.segmenter()
        ready = client.get("/readyz").json()
        assert (ready["status"], ready["reasons"]) == ("ready", [])
        assert {line["level"] for line in ready["findings"]} == {"ok"}
        assert {"engine", "disk", "database", "token", "project 7"} <= {line["subject"] for line in ready["findings"]}
        assert client.get("/health").json()["status"] == "UP"


def test_readyz_names_no_folders_to_strangers(home: Path) -> None:
    with TestClient(create_app(assemble(Settings()), host="0.0.0.0")) as client:
        assert "text" not in {name for line in client.get("/readyz").json()["findings"] for name in line}


@pytest.mark.slow
def test_attaching_a_server_whose_engine_cannot_answer_fails_and_says_why(home: Path) -> None:
    """Label Studio shows the status and the address of a setup that failed, so that the address says what is wrong."""
    with serve(home, engine="sam2-tiny") as client:
        answer = client.post("/setup", json={"project": "1.1"})
        assert answer.status_code == 503
        assert "run_'maskloom_fetch_sam2-tiny'" in str(answer.url)
        assert "run 'maskloom fetch sam2-tiny'" in answer.json()["error"]
        (reason,) = client.get("/readyz").json()["reasons"]
        assert "run 'maskloom fetch sam2-tiny'" in reason
        tiny_bundles.write_bundle("sam2-tiny", home / "engines" / "sam2-tiny")
        assert client.post("/setup", json={"project": "1.1"}).status_code == 200


def test_a_problem_of_several_lines_is_one_address() -> None:
    assert in_address("two\nlines, and a %") == "two_lines,_and_a_%25"
