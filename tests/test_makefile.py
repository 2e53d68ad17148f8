"""The Makefile in a folder of its own, where every program is one that says how it was called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ECHO = '#!/bin/sh\nprintf "%s|" "$(basename "$0")" "$@"\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose environment is made already."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "constraints.txt").touch()
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    for name in ("maskloom", "python", "ruff", "mypy", "lint-imports"):
        (bin_folder / name).write_text(ECHO)
        (bin_folder / name).chmod(0o755)
    for what in ("run", "engines"):
        (tmp_path / ".venv" / f"for-{what}").touch()
    (tmp_path / ".venv" / "for-development").touch()
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_make_alone_lists_every_target(checkout: Path) -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (checkout / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    listed = re.findall(r"^  make (\S+)", make(checkout).stdout, re.MULTILINE)
    assert sorted(listed) == sorted(phony[1].split())


def test_make_run_without_anything_uses_the_examples_and_the_usual_ports(checkout: Path) -> None:
    said = make(checkout, "run").stdout
    assert said == "maskloom|demo|--home|.maskloom|--port|8080|--backend-port|9090|"


def test_an_engine_of_published_models_is_fetched_to_where_the_server_looks(checkout: Path) -> None:
    run = make(checkout, "run", "ENGINE=edgetam-cpu").stdout
    assert run.startswith("maskloom|fetch|--take|missing|edgetam-cpu|maskloom|demo|")
    assert make(checkout, "serve", "ENGINE=embedded").stdout.startswith("maskloom|serve|")
    (checkout / ".venv" / "bin" / "maskloom").write_text('#!/bin/sh\necho "$1 $MASKLOOM_ENGINE $MASKLOOM_HOME"\n')
    assert make(checkout, "run", "ENGINE=sam3").stdout == "fetch sam3 .maskloom/backend\ndemo sam3 \n"


def test_an_engine_of_published_models_gets_its_packages(checkout: Path) -> None:
    (checkout / ".venv" / "for-engines").unlink()
    assert "--editable|.[demo,engines]|" in make(checkout, "serve", "ENGINE=sam2-tiny").stdout
    assert "pip" not in make(checkout, "serve").stdout


def test_folders_and_labels_reach_the_command_as_they_were_typed(checkout: Path) -> None:
    said = make(checkout, "run", "IMAGES=my photos; $(HOME) & 'more'", 'LABELS=cat, person\'s "hat"', "PORT=81").stdout
    assert "|--port|81|" in said
    assert "'more'|--labels|cat, person's \"hat\"|" in said
    assert "--images|my photos; " in said


def test_the_state_folder_can_be_chosen(checkout: Path) -> None:
    assert "|--home|else where|" in make(checkout, "run", "MASKLOOM_HOME=else where").stdout


def test_nothing_is_installed_again_when_nothing_changed(checkout: Path) -> None:
    assert "pip" not in make(checkout, "check").stdout
    os.utime(checkout / "pyproject.toml", (4e9, 4e9))
    assert "pip|install|--constraint|constraints.txt|--editable|.[dev]" in make(checkout, "check").stdout


def test_other_versions_are_installed_when_the_constraints_change(checkout: Path) -> None:
    os.utime(checkout / "constraints.txt", (4e9, 4e9))
    assert "|constraints.txt|--editable|.[demo]" in make(checkout, "serve").stdout


@pytest.mark.parametrize("target", ["bench-quality", "train"])
def test_a_target_that_needs_data_says_so(target: str, checkout: Path) -> None:
    done = make(checkout, target)
    assert done.returncode != 0
    assert f"make {target} DATA=folder" in done.stdout


def test_cleaning_leaves_the_data_of_label_studio(checkout: Path) -> None:
    (checkout / ".maskloom" / "data").mkdir(parents=True)
    said = make(checkout, "clean").stdout
    assert not (checkout / ".venv").exists()
    assert (checkout / ".maskloom" / "data").exists()
    assert "stay in .maskloom" in said


def test_continuous_integration_does_what_a_developer_types() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("make")] == ["make check", "make test"]


@pytest.mark.parametrize("target", ["check", "test-fast", "test-slow", "test-long"])
def test_what_tests_import_is_compiled_once(target: str, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers ask Python for no byte code, and every process of the tests would compile all of it anew."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (checkout / ".venv" / "bin" / "python").write_text('#!/bin/sh\necho "byte code: ${PYTHONDONTWRITEBYTECODE:-wanted}"\n')
    said = make(checkout, target).stdout
    assert "byte code: wanted" in said
    assert "byte code: 1" not in said


def test_make_bench_runs_modules_that_exist(checkout: Path) -> None:
    modules = re.findall(r"-m\|(bench\.\w+)\|", make(checkout, "bench").stdout)
    assert modules
    assert all((ROOT / module.replace(".", "/")).with_suffix(".py").is_file() for module in modules)
