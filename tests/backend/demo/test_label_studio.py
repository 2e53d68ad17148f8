from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backend.demo import label_studio as studio
from backend.demo.label_studio import Account, Studio, StudioFolder, install, wait_until_up
from backend.demo.supervised_process import Child, Program
from backend.values.errors import SetupError


def test_the_account_is_made_once_and_for_the_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    made = Account.kept_in(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert Account.kept_in(file) == made


def test_two_folders_have_different_secrets() -> None:
    one, other = Account.random(), Account.random()
    assert one.email == other.email
    assert not {one.password, one.token, one.secret_key} & {other.password, other.token, other.secret_key}


def test_a_token_has_the_form_of_a_legacy_token() -> None:
    assert len(bytes.fromhex(Account.random().token)) == 20


def test_label_studio_is_told_its_own_address_and_the_folder_with_the_photos(tmp_path: Path) -> None:
    environment = Studio(StudioFolder(tmp_path), 8123).environment()
    assert environment["LABEL_STUDIO_HOST"] == "http://127.0.0.1:8123"
    assert environment["LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"] == str(tmp_path / "photos")


def test_what_is_installed_is_not_installed_again(tmp_path: Path) -> None:
    folder = StudioFolder(tmp_path)
    folder.venv.mkdir()
    (folder.venv / "installed").write_text(studio.REQUIREMENT)
    install(folder, lambda line: pytest.fail(f"installs: {line}"))
    assert [path.name for path in folder.venv.iterdir()] == ["installed"]


@pytest.mark.slow
def test_an_installation_that_fails_says_what_pip_said_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = [sys.executable, "-m", "pip", "install", str(tmp_path / "no-such-package.whl")]
    monkeypatch.setattr(studio, "_installation", lambda _: {"pip": pip})
    folder = StudioFolder(tmp_path / "state")
    with pytest.raises(SetupError, match=r"failed[\s\S]*install-pip\.log[\s\S]*no-such-package"):
        install(folder, lambda _: None)
    assert not (folder.venv / "installed").exists()


@pytest.mark.slow
def test_an_installation_is_done_in_order_and_then_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = StudioFolder(tmp_path / "state")
    commands = {name: [sys.executable, "-c", f"print('{name} did it')"] for name in ("venv", "pip")}
    monkeypatch.setattr(studio, "_installation", lambda _: commands)
    folder.venv.mkdir(parents=True)
    heard: list[str] = []
    install(folder, heard.append)
    assert [line for line in heard if line.startswith("running")] == ["running venv", "running pip"]
    assert "pip did it" in heard
    heard.clear()
    install(folder, heard.append)
    assert heard == []


@pytest.mark.slow
def test_a_server_that_ends_while_starting_is_said_with_its_last_words(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "raise SystemExit('no database for me')"]
    child = Child(Program("The server", argv, {}, tmp_path / "log"))
    with pytest.raises(SetupError, match=r"The server ended while starting[\s\S]*no database for me"):
        wait_until_up(child, "http://127.0.0.1:9", 30)
    child.stop()


@pytest.mark.slow
def test_a_server_that_never_answers_is_said(tmp_path: Path) -> None:
    child = Child(Program("The server", [sys.executable, "-c", "import time; time.sleep(60)"], {}, tmp_path / "log"))
    with pytest.raises(SetupError, match="The server did not answer at http://127"):
        wait_until_up(child, "http://127.0.0.1:9", 0.5)
    child.stop()
