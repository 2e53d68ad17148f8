"""Commands that cannot start say why in one sentence, end with exit code 2, and show no secret."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backend import cli as cli_module
from backend.cli import main
from backend.cli.terminal import read_settings, write_text
from backend.doctor.findings import check_port
from backend.values.errors import SetupError


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["maskloom", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MASKLOOM_FEATURE_CACHE_MIB", "-5"),
        ("MASKLOOM_READ_TIMEOUT_S", "soon"),
        ("MASKLOOM_CONNECT_TIMEOUT_S", "nan"),
        ("MASKLOOM_DEVICE", "tpu-secret"),
        ("MASKLOOM_ENGINE", "nope"),
        ("MASKLOOM_DATABASE", "nonsense"),
        ("MASKLOOM_DATABASE", "sqlite:////proc/nope/x.sqlite"),
        ("MASKLOOM_HOME", "/proc/x"),
        ("MASKLOOM_LABEL_STUDIO_URL", "localhost:8080"),
        ("MASKLOOM_LABEL_STUDIO_TOKEN", "a secret of two words"),
        ("MASKLOOM_REFINE", "colour"),
        ("MASKLOOM_TRACES_URL", "collector:4318"),
        ("MASKLOOM_TRACES_URL", "http://:4318/v1/traces"),
    ],
)
def test_a_setting_that_cannot_be_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, value: str
) -> None:
    monkeypatch.setenv("MASKLOOM_HOME", str(tmp_path))
    monkeypatch.setenv(name, value)
    assert run(monkeypatch, "serve", "--port", str(free_port())) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("maskloom: ")
    assert name in told or name.removeprefix("MASKLOOM_").lower() in told.lower()
    assert "secret" not in told
    assert len(told.splitlines()) == 1


SLOW = {"torch", "transformers", "sqlalchemy", "fastapi"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        (["serve"], "MASKLOOM_DEVICE", "tpu"),
        (["serve"], "MASKLOOM_ENGINE", "nope"),
        (["serve"], "MASKLOOM_REFINE", "colour"),
        (["segment", "a.png"], "MASKLOOM_WEIGHTS", "nowhere"),
        (["segment", "a.png"], "MASKLOOM_ENGINE", "sam2-tiny"),
        (["track", "a.mp4"], "MASKLOOM_ENGINE", "edgetam-cpu"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_slow_is_imported(
    command: list[str], name: str, value: str, tmp_path: Path
) -> None:
    program = f"import sys\nfrom backend.cli import main\ntry: main()\nfinally: print(*({SLOW!r} & set(sys.modules)))"
    environment = {**os.environ, "MASKLOOM_HOME": str(tmp_path), name: value}
    whole = [sys.executable, "-c", program, *command]
    done = subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (2, "")
    assert done.stderr.startswith("maskloom: ")


def test_a_home_that_is_a_file_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("x")
    monkeypatch.setenv("MASKLOOM_ENGINE", "colour")
    monkeypatch.setenv("MASKLOOM_HOME", str(tmp_path / "home"))
    assert run(monkeypatch, "serve", "--port", str(free_port())) == 2
    assert str(tmp_path / "home") in capsys.readouterr().err


def test_a_photo_that_is_not_there_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("MASKLOOM_HOME", str(tmp_path))
    assert run(monkeypatch, "segment", str(tmp_path / "a.png"), "--text", "cat") == 1
    assert f"there is no file {tmp_path / 'a.png'}" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_written_is_no_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def report() -> None:
        write_text(tmp_path / "nowhere" / "r.html", "", "--report")

    monkeypatch.setattr(cli_module, "cli", report)
    assert run(monkeypatch) == 1
    assert "cannot write" in capsys.readouterr().err


def test_who_is_told_to_end_before_the_command_has_begun_ends_as_after_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli_module, "cli", lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        assert run(monkeypatch, "prelabel", "photos") == 130
    finally:
        signal.signal(signal.SIGTERM, before)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("host", ["no.such.host.invalid", "1.2.3.4", "a" * 70, ""])
def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(SetupError, match=r"cannot listen on .* choose others with --host and --port"):
        check_port(host or "256.1.1.1", 9090)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SetupError, match=f"cannot listen on 127.0.0.1 port {taken.getsockname()[1]}"):
            check_port("127.0.0.1", taken.getsockname()[1])


def test_an_address_of_ipv6_may_stand_in_brackets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its port is taken, so that nothing is started: the message says where it would listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run(monkeypatch, "serve", "--host", "[127.0.0.1]", "--port", str(taken.getsockname()[1])) == 2
    assert "cannot listen on 127.0.0.1 port" in capsys.readouterr().err


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
@pytest.mark.parametrize("host", ["::1", "::", "localhost"])
def test_addresses_of_ipv6_and_names_can_be_listened_on(host: str) -> None:
    check_port(host, free_port())


def test_the_command_line_has_the_last_word_about_label_studio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLOOM_LABEL_STUDIO_URL", "http://elsewhere")
    assert read_settings("http://here").label_studio_url == "http://here"
    assert read_settings().label_studio_url == "http://elsewhere"
