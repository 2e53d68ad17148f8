"""`make run` from end to end: the real command, a real Label Studio, a folder of small pictures."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from backend.demo import DemoOptions, run
from backend.demo.label_studio import Account
from backend.labelstudio.api import LabelStudio
from backend.values.errors import SetupError
from tests.labelstudio.conftest import MASKLOOM, borrow_label_studio, free_port
from tests.labelstudio.pictures import save, save_truncated, three_shapes

pytestmark = pytest.mark.timeout(1200)

LABELS = "red disc, blue square"
READY_S = 1000


@dataclass
class Demo:
    """A state folder, a folder of photos, and the command that uses them."""

    home: Path
    photos: Path
    port: int = field(default_factory=free_port)
    backend_port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> subprocess.Popen[str]:
        arguments = {
            "--home": self.home,
            "--images": self.photos,
            "--labels": LABELS,
            "--port": self.port,
            "--backend-port": self.backend_port,
        }
        argv = [str(MASKLOOM), "demo", *(str(part) for pair in arguments.items() for part in pair)]
        environment = {**os.environ, "MASKLOOM_ENGINE": "colour"}
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def tasks(self) -> dict[int, str]:
        with LabelStudio(self.url, Account.kept_in(self.home / "data" / "account.json").token) as client:
            (project,) = client.projects()
            tasks = list(client.tasks_with_predictions(project.id))
            assert all(len(task.predictions) == 1 for task in tasks)
            pictures = [httpx.get(f"{self.url}{task.data['image']}", headers=self.header()) for task in tasks]
            assert all(picture.headers["content-type"].startswith("image/") for picture in pictures)
            return {task.id: str(task.data["image"]) for task in tasks}

    def header(self) -> dict[str, str]:
        return {"Authorization": f"Token {Account.kept_in(self.home / 'data' / 'account.json').token}"}


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What a process has said until it says these words."""
    assert process.stdout is not None
    said, until = "", time.monotonic() + READY_S
    for line in process.stdout:
        said += line
        if words in line:
            return said
        assert time.monotonic() < until, said
    raise AssertionError(said)


def descendants(pid: int) -> set[int]:
    """The numbers of all processes below one, by the kernel's account."""
    children = {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return children.union(*(descendants(child) for child in children))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_all_end(pids: set[int]) -> None:
    until = time.monotonic() + 20
    while any(map(is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.2)
    assert not [pid for pid in pids if is_alive(pid)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Two good pictures, one of them below a folder and as TIFF, and a broken one."""
    folder = borrow_label_studio(tmp_path_factory.mktemp("demo"))
    photos = tmp_path_factory.mktemp("photos of mine")
    (photos / "more & more").mkdir()
    save(three_shapes().image, photos / "first.png")
    save(three_shapes().image, photos / "more & more" / "second #2.tif")
    save_truncated(photos / "broken.jpg")
    return Demo(folder.root, photos)


@pytest.fixture
def running(demo: Demo) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with demo.start() as process:
        try:
            yield process, read_until(process, "Ctrl-C")
        finally:
            process.kill()


@pytest.mark.studio
def test_the_first_run_shows_masks_and_ctrl_c_ends_everything(demo: Demo, running: tuple[subprocess.Popen[str], str]) -> None:
    process, said = running
    assert re.search(r"Open +http://127\.0\.0\.1:\d+/projects/1/data", said)
    assert "4 on 2 photos (0 of them without any): red disc 2, blue square 2" in said
    assert "broken.jpg cannot be read" in said
    assert len(demo.tasks()) == 2
    assert (demo.home / "data" / "account.json").stat().st_mode & 0o777 == 0o600

    below = descendants(process.pid)
    assert len(below) >= 4  # a leash and a program for each of the two servers
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 0
    assert_all_end(below)


@pytest.mark.studio
def test_the_second_run_makes_nothing_twice_and_ends_by_sigterm(demo: Demo, running: tuple[subprocess.Popen[str], str]) -> None:
    process, said = running
    assert "Masks (0)" in said, "masks were made again"
    assert "4 on 2 photos" in said
    assert sorted(demo.tasks()) == [1, 2]
    with pytest.raises(SetupError, match=r"uses .* already"):
        run(DemoOptions(demo.home, demo.photos, port=free_port(), backend_port=free_port()), Console(quiet=True))

    below = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0
    assert_all_end(below)


@pytest.mark.long
@pytest.mark.studio
def test_nothing_outlives_a_run_that_is_killed(demo: Demo, running: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = running
    below = descendants(process.pid)
    process.kill()
    process.wait()
    assert_all_end(below)


def quietly(options: DemoOptions) -> None:
    run(options, Console(quiet=True))


def test_a_missing_folder_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="nowhere does not exist"):
        quietly(DemoOptions(home=tmp_path / "home", images=tmp_path / "nowhere"))
    assert not (tmp_path / "home").exists()


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="holds no photos"):
        quietly(DemoOptions(home=tmp_path / "home", images=tmp_path))


@pytest.mark.parametrize("name", ["port", "backend_port"])
def test_a_busy_port_is_said_before_anything_is_installed(name: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        ports = {"port": free_port(), "backend_port": free_port()} | {name: busy}
        with pytest.raises(SetupError, match=rf"port {busy} is busy.*{name.upper()}={busy + 1}"):
            quietly(DemoOptions(home=tmp_path / "home", **ports))
    assert not (tmp_path / "home" / "label-studio").exists()


def test_the_handlers_of_signals_are_as_before(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SetupError):
        quietly(DemoOptions(home=tmp_path / "home", images=tmp_path / "nowhere"))
    assert signal.getsignal(signal.SIGINT) is before
