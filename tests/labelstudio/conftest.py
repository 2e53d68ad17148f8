"""One real Label Studio for all live tests, and real backends beside it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.child import Child, Program
from backend.labelstudio.client import LabelStudio, Project
from backend.labelstudio.recommended import recommended_config
from backend.labelstudio.studio import REQUIREMENT, Studio, StudioFolder, wait_until_up
from tests.labelstudio.prepare import shared_folder

MASKLOOM = Path(sys.executable).with_name("maskloom")
SHARED = shared_folder()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def borrow_label_studio(root: Path) -> StudioFolder:
    """A folder of its own with the shared virtual environment in it; skips the test where Label Studio is not installed."""
    stamp = SHARED.venv / "installed"
    if not stamp.is_file() or stamp.read_text() != REQUIREMENT:
        pytest.skip(f"{REQUIREMENT} is not installed in {SHARED.venv}; `make test` installs it")
    root.mkdir(parents=True, exist_ok=True)
    folder = StudioFolder(root)
    folder.venv.symlink_to(SHARED.venv)
    return folder


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with Studio(borrow_label_studio(tmp_path_factory.mktemp("studio")), free_port()) as started:
        started.wait_until_ready()
        yield started


@pytest.fixture(scope="session")
def label_studio(studio: Studio) -> Iterator[LabelStudio]:
    with LabelStudio(studio.url, studio.account.token) as client:
        yield client


@contextmanager
def running_backend(home: Path, **environment: str) -> Iterator[str]:
    """A `maskloom serve` with these settings; its address."""
    port = free_port()
    argv = [str(MASKLOOM), "serve", "--port", str(port)]
    child = Child(Program("Maskloom", argv, {"MASKLOOM_HOME": str(home), **environment}, home / "maskloom.log"))
    try:
        wait_until_up(child, f"http://127.0.0.1:{port}", 120)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.stop()


@pytest.fixture(scope="session")
def colour_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_backend(tmp_path_factory.mktemp("colour"), MASKLOOM_ENGINE="colour") as url:
        yield url


@pytest.fixture(scope="session")
def default_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_backend(tmp_path_factory.mktemp("default")) as url:
        yield url


def new_project(label_studio: LabelStudio, labels: list[str], backend: str) -> Project:
    """A project with the recommended config and a backend attached."""
    project = label_studio.create_project("live test", recommended_config(labels))
    assert label_studio.attach_backend(project.id, backend, "Maskloom").state == "CO"
    return project
