"""The demo: one call from nothing to a Label Studio with a backend beside it and photos that already carry labelled masks."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from backend.demo.filling import FilledProject, Filling, ProjectSpec, Steps, example_folder, find_examples, find_photos
from backend.demo.label_studio import HOST, Studio, StudioFolder, install, wait_until_up
from backend.demo.supervised_process import Child, Program
from backend.labelstudio.api import LabelStudio
from backend.values.errors import SetupError

DEFAULT_LABELS = ("person", "cat", "cup", "motorcycle", "rocket")
BACKEND_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What a person may choose; ``images`` None stands for the photos that scikit-image ships."""

    home: Path = Path(".maskloom")
    images: Path | None = None
    labels: tuple[str, ...] = DEFAULT_LABELS
    port: int = 8080
    backend_port: int = 9090


def run(options: DemoOptions, console: Console) -> None:
    """Start everything, say where it is, and stay until Ctrl-C, SIGTERM or SIGHUP; whatever was started has ended then.

    Raises SetupError for a busy port, a missing or empty folder, or a program that fails, and RemoteError when Label Studio
    does not do as asked.
    """
    try:
        with _told_to_stop():
            _start_and_stay(options, Steps(console))
    except _Stopped:
        console.print("Stopped.")


def _start_and_stay(options: DemoOptions, steps: Steps) -> None:
    name, root, photos = _photos_of(options)
    folder = StudioFolder(options.home.expanduser().resolve())
    with _sole_user(folder.root):
        check_ports(options)
        with steps.step("Label Studio is installed") as tell:
            install(folder, tell)
        studio = Studio(folder, options.port)
        first = " (the first start takes half a minute)" if studio.is_new else ""
        with studio, _backend(options, studio) as backend:
            with steps.step(f"Label Studio and Maskloom are up{first}"):
                wait_until_up(backend, _backend_url(options), BACKEND_PATIENCE_S)
                studio.wait_until_ready()
            with LabelStudio(studio.url, studio.account.token) as label_studio:
                wanted = ProjectSpec(name, root, photos, options.labels, folder.photos, _backend_url(options))
                filled = Filling(label_studio, wanted, steps).fill()
            _say_where(studio, filled, options, steps)
            _stay([studio.child, backend])


def _photos_of(options: DemoOptions) -> tuple[str, Path, list[Path]]:
    """A name for the photos, their folder, and the photos in it, found before anything is started."""
    if options.images is None:
        return "Examples", example_folder(), find_examples()
    root = options.images.expanduser().resolve()
    return root.name, root, find_photos(root)


def check_ports(options: DemoOptions) -> None:
    """Raises SetupError when a port is taken: Label Studio would silently choose another one."""
    for name, port in (("PORT", options.port), ("BACKEND_PORT", options.backend_port)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise SetupError(f"port {port} is busy ({error.strerror}); choose another with {name}={port + 1}") from error


@contextmanager
def _backend(options: DemoOptions, studio: Studio) -> Iterator[Child]:
    """Maskloom itself, which reads the photos from the disk that it shares with Label Studio."""
    program = Path(sys.executable).with_name("maskloom")
    environment = {
        "MASKLOOM_HOME": str(studio.folder.root / "backend"),
        "MASKLOOM_LOCAL_ROOTS": str(studio.folder.photos),
        "MASKLOOM_LABEL_STUDIO_URL": studio.url,
        "MASKLOOM_LABEL_STUDIO_TOKEN": studio.account.token,
    }
    argv = [str(program), "serve", "--host", HOST, "--port", str(options.backend_port)]
    child = Child(Program("Maskloom", argv, environment, studio.folder.logs / "maskloom.log"))
    try:
        yield child
    finally:
        child.stop()


def _backend_url(options: DemoOptions) -> str:
    return f"http://{HOST}:{options.backend_port}"


def _say_where(studio: Studio, filled: FilledProject, options: DemoOptions, steps: Steps) -> None:
    counts = ", ".join(f"{label} {filled.masks[label]}" for label in options.labels)
    if filled.unanswered:
        steps.warn(f"{filled.unanswered} photos got no answer; see {studio.folder.logs / 'maskloom.log'}")
    steps.say(f"""
  Open    {studio.url}/projects/{filled.project.id}/data
  Log in  {studio.account.email}   password {studio.account.password}
  Masks   {filled.masks.total()} on {filled.photos} photos ({filled.without_masks} of them without any): {counts}
  State   {studio.folder.root} (delete it to start anew)
  Stop    Ctrl-C
""")


def _stay(children: Sequence[Child]) -> None:
    while True:
        for child in children:
            if child.exit_code() is not None:
                raise SetupError(f"{child.program.name} ended; the end of {child.program.log} says:\n{child.last_words()}")
        time.sleep(0.5)


@contextmanager
def _sole_user(root: Path) -> Iterator[None]:
    """Raises SetupError when another run uses the same state folder."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "in-use").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = f"process {lock.read()} uses {root} already"
            raise SetupError(f"{holder}; stop it, or choose another folder with MASKLOOM_HOME=folder") from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class _Stopped(BaseException):
    """Somebody wants us to end."""


@contextmanager
def _told_to_stop() -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into _Stopped, once: while we clean up, further ones are ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(_number: int, _frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise _Stopped

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
