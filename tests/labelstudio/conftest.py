"""One real Label Studio for all live tests, and real backends beside it."""

from __future__ import annotations

import secrets
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from backend.demo.filling import recommended_config
from backend.demo.label_studio import REQUIREMENT, Studio, StudioFolder, wait_until_up
from backend.demo.supervised_process import Child, Program
from backend.labelstudio.api import LabelStudio, Project
from tests.labelstudio.annotator import Annotator
from tests.labelstudio.pictures import save
from tests.labelstudio.prepare import shared_folder
from tests.labelstudio.table import table

MASKLOOM = Path(sys.executable).with_name("maskloom")
SHARED = shared_folder()
UNUSED = SHARED.venv / "unused-data"
"""The database that the first Label Studio made, for those after it; it goes when another version is installed."""


def free_port() -> int:
    """A port at which nobody listens, below those that the kernel gives away: whoever is to listen there begins much later."""
    while True:
        port = secrets.choice(range(10_000, 32_768))
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def borrow_label_studio(root: Path) -> StudioFolder:
    """A folder of its own with the shared virtual environment in it; skips the test where Label Studio is not installed."""
    stamp = SHARED.venv / "installed"
    if not stamp.is_file() or stamp.read_text() != REQUIREMENT:
        pytest.skip(f"{REQUIREMENT} is not installed in {SHARED.venv}; `make test` installs it")
    root.mkdir(parents=True, exist_ok=True)
    folder = StudioFolder(root)
    folder.venv.symlink_to(SHARED.venv)
    return folder


def keep_database(studio: Studio) -> None:
    """Keep the database and the account of a Label Studio that nobody has used yet beside its program."""
    made, name = Path(tempfile.mkdtemp(dir=SHARED.venv)), "label_studio.sqlite3"
    shutil.copy(studio.folder.data / "account.json", made)
    with closing(sqlite3.connect(studio.folder.data / name)) as its, closing(sqlite3.connect(made / name)) as copied:
        its.backup(copied)
    try:
        made.rename(UNUSED)
    except OSError:  # somebody else has just done so
        shutil.rmtree(made)


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A Label Studio with nothing in it. The first of all takes a minute to make its database, which test_demo tests."""
    folder = borrow_label_studio(tmp_path_factory.mktemp("studio"))
    if UNUSED.is_dir():
        shutil.copytree(UNUSED, folder.data)
    with Studio(folder, free_port()) as started:
        started.wait_until_ready()
        if not UNUSED.is_dir():
            keep_database(started)
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


@contextmanager
def logged_in(browser: Browser, studio: Studio) -> Iterator[Annotator]:
    """An annotator whose browser remembers nothing from before."""
    context = browser.new_context(viewport={"width": 1500, "height": 950})
    context.set_default_timeout(60_000)
    annotator = Annotator(context.new_page(), studio)
    annotator.log_in()
    yield annotator
    context.close()


@pytest.fixture(scope="module")
def ann(browser: Browser, studio: Studio) -> Iterator[Annotator]:
    """One annotator for all tests of a file: each new one fetches all of the page anew."""
    with logged_in(browser, studio) as annotator:
        yield annotator


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The table, the table mirrored, and the table in a JPEG that is stored on its side (EXIF 6)."""
    folder, image = tmp_path_factory.mktemp("images"), table().image
    on_its_side = Image.fromarray(np.ascontiguousarray(np.rot90(image)))
    exif = Image.Exif()
    exif[0x0112] = 6
    on_its_side.save(folder / "side.jpg", quality=98, subsampling=0, exif=exif)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    return [save(image, folder / "table.png"), save(mirrored, folder / "mirrored.png"), folder / "side.jpg"]


def new_project(label_studio: LabelStudio, labels: list[str], backend: str) -> Project:
    """A project with the recommended config and a backend attached."""
    project = label_studio.create_project("live test", recommended_config(labels))
    assert label_studio.attach_backend(project.id, backend, "Maskloom").state == "CO"
    return project
