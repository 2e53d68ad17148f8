"""Fetching a bundle from a hub on the loopback interface, over real HTTP, by huggingface_hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from backend.cli import cli
from backend.engines import download
from backend.engines.bundle import verify
from backend.engines.catalogue import ENGINES, PublishedModel, Recipe, fingerprint
from backend.values.errors import RemoteError, SetupError
from tests.backend.engines.hub_double import HubDouble, serving

CONFIG = b'{"model_type": "sam"}'
WEIGHTS = bytes(range(256)) * 9000
MODELS = (PublishedModel("decoder", "us/sam", "MIT"), PublishedModel("clip", "us/clip", "MIT"))
ENGINE = Recipe("tiny", "nowhere:build", "two models", models=MODELS)
SAM = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "pytorch_model.bin": b"pickle", "a/b.json": b"{}", "README.md": b""}
CLIP = {"open_clip_config.json": b"{}", "open_clip_model.safetensors": WEIGHTS[:5000], "model.safetensors": WEIGHTS}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serving(HubDouble({"us/sam": dict(SAM), "us/clip": dict(CLIP)})) as hub:
        yield hub


def fetch(hub: HubDouble, folder: Path, token: str | None = None, recipe: Recipe = ENGINE) -> None:
    download.fetch(recipe, folder, download.Hub(hub.url, token), lambda _: None, download.pins_of(recipe, folder))


def test_a_bundle_has_every_model_in_its_place_and_a_manifest(hub: HubDouble, tmp_path: Path) -> None:
    fetch(hub, tmp_path)
    assert (tmp_path / "decoder" / "config.json").read_bytes() == CONFIG
    assert (tmp_path / "decoder" / "model.safetensors").read_bytes() == WEIGHTS
    manifest = json.loads((tmp_path / "bundle.json").read_text())
    assert manifest["models"]["decoder"]["repository"] == "us/sam"
    assert manifest["models"]["decoder"]["revision"] == hub.commit
    assert manifest["models"]["decoder"]["files"]["model.safetensors"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert verify(tmp_path) == []


def test_only_files_that_are_read_are_fetched(hub: HubDouble, tmp_path: Path) -> None:
    """No pickles, no pages, no folders, and not the weights that timm wrote beside those of open_clip."""
    fetch(hub, tmp_path)
    assert sorted(path.name for path in (tmp_path / "decoder").iterdir()) == ["config.json", "model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "clip").iterdir()) == [
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]


@pytest.mark.slow
def test_a_broken_connection_is_gone_on_with_within_a_run(hub: HubDouble, tmp_path: Path) -> None:
    hub.break_after = 500_000
    with pytest.raises(RemoteError, match=r"us/sam was not fetched; run the command again to go on"):
        fetch(hub, tmp_path)
    hub.break_after = None
    hub.asked.clear()
    fetch(hub, tmp_path)
    assert not any(path.endswith("config.json") and "/us/sam/" in path for path in hub.fetched), "it was whole already"
    assert verify(tmp_path) == []


def test_what_is_whole_is_not_fetched_again_and_the_version_stays(hub: HubDouble, tmp_path: Path) -> None:
    fetch(hub, tmp_path)
    before = fingerprint(tmp_path)
    hub.asked.clear()
    fetch(hub, tmp_path)
    assert hub.fetched == []
    assert fingerprint(tmp_path) == before


def test_a_file_that_was_changed_is_found_and_fetched_again(hub: HubDouble, tmp_path: Path) -> None:
    fetch(hub, tmp_path)
    (tmp_path / "decoder" / "config.json").write_text("{}")
    (tmp_path / "decoder" / "model.safetensors").unlink()
    assert sorted(line.rpartition("/")[2] for line in verify(tmp_path)) == [
        "config.json has changed",
        "model.safetensors is missing",
    ]
    fetch(hub, tmp_path)
    assert verify(tmp_path) == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_file_is_thrown_away(hub: HubDouble, tmp_path: Path, name: str) -> None:
    """The hub gives git's digest of small files and the sha256 of large ones."""
    hub.damaged = name
    with pytest.raises(RemoteError, match="arrived damaged"):
        fetch(hub, tmp_path)
    assert not (tmp_path / "decoder" / name).exists()


def test_a_page_in_the_place_of_the_hub_is_reported(hub: HubDouble, tmp_path: Path) -> None:
    hub.is_a_login_page = True
    with pytest.raises(RemoteError, match=f"cannot reach {hub.url}"):
        fetch(hub, tmp_path)


def test_no_network_says_what_to_do(tmp_path: Path, hub: HubDouble) -> None:
    with pytest.raises(RemoteError, match=r"cannot reach http://127\.0\.0\.1:9 .* carry the bundle over"):
        download.fetch(ENGINE, tmp_path, download.Hub("http://127.0.0.1:9"), lambda _: None, {})


def test_a_gated_model_says_where_to_agree_before_anything_is_fetched(hub: HubDouble, tmp_path: Path) -> None:
    hub.gated, hub.token = {"us/clip"}, "secret"
    with pytest.raises(SetupError, match=rf"log in at {hub.url}/us/clip and agree to it, make a token .* set HF_TOKEN to it"):
        fetch(hub, tmp_path)
    assert hub.fetched == []
    fetch(hub, tmp_path, token="secret")
    assert verify(tmp_path) == []


def test_a_revision_that_the_catalogue_names_is_taken_and_no_other(hub: HubDouble, tmp_path: Path) -> None:
    named = replace(ENGINE, models=tuple(replace(model, revision=hub.commit) for model in MODELS))
    fetch(hub, tmp_path, recipe=named)
    assert all(f"/resolve/{hub.commit}/" in path for path in hub.fetched)
    other = replace(ENGINE, models=tuple(replace(model, revision="b" * 40) for model in MODELS))
    with pytest.raises(RemoteError, match="no longer has the revision"):
        fetch(hub, tmp_path, recipe=other)


def test_a_bundle_stays_with_its_revision_until_it_is_updated(
    hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(hub, tmp_path)
    assert download.pins_of(ENGINE, tmp_path) == {"decoder": hub.commit, "clip": hub.commit}
    hub.commit = "c" * 40
    with pytest.raises(RemoteError, match="--take newest"):
        fetch(hub, tmp_path)
    monkeypatch.setitem(ENGINES, "tiny", ENGINE)
    monkeypatch.setenv("MASKLOOM_HUB_URL", hub.url)
    done = CliRunner().invoke(cli, ["fetch", "tiny", "--to", str(tmp_path), "--take", "newest"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "bundle.json").read_text())["models"]["clip"]["revision"] == "c" * 40


def test_a_team_stays_with_the_commits_that_it_names(hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "tiny", ENGINE)
    monkeypatch.setenv("MASKLOOM_HUB_URL", hub.url)
    named = ["fetch", "tiny", "--to", str(tmp_path), "--take", f"decoder={hub.commit}, clip={hub.commit}"]
    assert CliRunner().invoke(cli, named).exit_code == 0
    assert {path.split("/resolve/")[1].split("/")[0] for path in hub.fetched} == {hub.commit}
    hub.commit = "c" * 40
    done = CliRunner().invoke(cli, named)
    assert isinstance(done.exception, RemoteError)
    assert verify(tmp_path) == []


def test_a_hub_that_answers_with_another_commit_is_not_believed(hub: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = download.Hub(hub.url)
    look = asked._api.model_info
    monkeypatch.setattr(asked._api, "model_info", lambda name, **how: look(name, **{**how, "revision": "main"}))
    with pytest.raises(RemoteError, match=f"has commit {hub.commit} of us/sam where {'b' * 40} was asked for"):
        asked.look_up(MODELS[0], "b" * 40)


@pytest.mark.parametrize(
    "take", ["oldest", "decoder=main", "grounder=" + "a" * 40, "decoder", "decoder=" + "a" * 40 + ",clip", ""]
)
def test_what_is_not_a_commit_of_a_model_is_refused_with_the_names_of_the_models(take: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="the models of 'tiny' are decoder, clip"):
        download.pins_for(take, ENGINE, tmp_path)


def test_where_nothing_is_missing_nobody_is_asked(hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "tiny", ENGINE)
    monkeypatch.setenv("MASKLOOM_HUB_URL", hub.url)
    command = ["fetch", "tiny", "--to", str(tmp_path), "--take", "missing"]
    for asked in (True, False):
        hub.asked.clear()
        assert CliRunner().invoke(cli, command).exit_code == 0
        assert bool(hub.asked) == asked
    (tmp_path / "clip" / "open_clip_model.safetensors").unlink()
    assert CliRunner().invoke(cli, command).exit_code == 0
    assert verify(tmp_path) == []
    assert CliRunner().invoke(cli, ["fetch", "colour", "--take", "missing"]).exit_code == 0


def test_a_bundle_is_carried_over_in_one_file(hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "tiny", ENGINE)
    monkeypatch.setenv("MASKLOOM_HUB_URL", hub.url)
    carried = ["--bundle", str(tmp_path / "tiny.tar")]
    done = CliRunner().invoke(cli, ["fetch", "tiny", "--to", str(tmp_path / "here"), *carried])
    assert done.exit_code == 0, done.output
    hub.asked.clear()
    monkeypatch.setenv("MASKLOOM_OFFLINE", "1")
    there = tmp_path / "there"
    done = CliRunner().invoke(cli, ["fetch", "tiny", "--to", str(there), *carried])
    assert done.exit_code == 0, done.output
    assert hub.asked == []
    assert CliRunner().invoke(cli, ["fetch", "tiny", "--to", str(there), "--check"]).exit_code == 0
    (tmp_path / "here" / "bundle.json").unlink()
    (tmp_path / "tiny.tar").write_bytes((tmp_path / "tiny.tar").read_bytes()[:200_000])
    done = CliRunner().invoke(cli, ["fetch", "tiny", "--to", str(there), *carried])
    assert isinstance(done.exception, SetupError)


@pytest.mark.parametrize("name", sorted(name for name in ENGINES if name.startswith("seem-")))
def test_every_engine_of_seem_fetches_its_one_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (file,) = ENGINES[name].models[0].files
    with serving(HubDouble({"xdecoder/SEEM": {file: b"weights", "other.pt": b"", "README.md": b""}})) as hub:
        monkeypatch.setenv("MASKLOOM_HUB_URL", hub.url)
        monkeypatch.setenv("MASKLOOM_HOME", str(tmp_path))
        done = CliRunner().invoke(cli, ["fetch", name])
    assert done.exit_code == 0, done.output
    folder = ENGINES[name].weights_in(tmp_path)
    assert folder is not None
    assert [path.name for path in (folder / "seem").iterdir()] == [file]


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
