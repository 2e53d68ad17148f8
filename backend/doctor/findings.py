"""What the doctor says of one thing, and of the machine itself: engine, disk, database, folders, network policy, device."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import httpx
import sqlalchemy as sql

from backend.engines.bundle import differences, fetch_command
from backend.engines.catalogue import Placement
from backend.stores.database import CLICK_WAIT_S, Database
from backend.values.errors import SetupError, StoreError
from backend.values.settings import MEBIBYTE, Settings

if TYPE_CHECKING:  # networks: whoever starts is told of a busy port before they are imported
    from backend.serving.service import EngineHandle

Level = Literal["ok", "advice", "broken"]
LEAST_FREE_BYTES = 256 * MEBIBYTE
"""Below this much room on the disk, stores and caches soon fail."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at: ``text`` says how it is and, unless the level is ok, what to do. What is broken keeps
    somebody from being answered; advice does not.
    """

    subject: str
    level: Level
    text: str


def examine_machine(settings: Settings, engine: EngineHandle) -> list[Diagnosis]:
    """This machine by the settings; loads no model, asks nobody else."""
    checks: tuple[Callable[[], Iterator[Diagnosis]], ...] = (
        lambda: _engine(engine),
        lambda: _bundle(engine),
        lambda: _device(settings),
        lambda: _disk(settings),
        lambda: _database(settings),
        lambda: _folders(settings),
        lambda: _policy(settings),
    )
    return [finding for check in checks for finding in check()]


def examine_port(host: str, port: int) -> Diagnosis:
    """Whether a server can listen at a place, or Maskloom answers there already."""
    try:
        answer = httpx.get(f"http://{host}:{port}/health", timeout=2.0, trust_env=False)
        if answer.is_success and answer.json().get("model_class") == "Maskloom":
            return Diagnosis("port", "ok", f"Maskloom answers on {host}:{port}, engine {answer.json()['model_version']}")
    except (httpx.HTTPError, ValueError, AttributeError, KeyError):
        pass  # whoever is there, it is not Maskloom
    try:
        check_port(host, port)
    except SetupError as error:
        return Diagnosis("port", "broken", str(error))
    return Diagnosis("port", "ok", f"{host}:{port} is free")


def check_port(host: str, port: int) -> None:
    """Raises SetupError where a server cannot listen, at an address of IPv4 or IPv6 or at a name."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SetupError(f"cannot listen on {host} port {port} ({reason}); choose others with --host and --port") from error


def _engine(engine: EngineHandle) -> Iterator[Diagnosis]:
    problem = engine.problem
    if problem is not None:
        yield Diagnosis("engine", "broken", problem)
    else:
        yield Diagnosis("engine", "ok", f"{engine.version}, {'loaded' if engine.is_loaded else 'not loaded yet'}")


def _bundle(engine: EngineHandle) -> Iterator[Diagnosis]:
    """Only of an engine that can be loaded: otherwise the line above says what is missing."""
    folder = engine.weights
    if not engine.recipe.models or folder is None or engine.problem is not None:
        return
    told = differences(engine.recipe, folder)
    if told:
        cure = fetch_command(engine.recipe, folder)
        yield Diagnosis("bundle", "advice", f"{folder}: {'; '.join(told)}; {cure} for what this release was made for")
    else:
        pinned = all(model.revision for model in engine.recipe.models)
        yield Diagnosis("bundle", "ok", f"{folder}{'' if pinned else ', of revisions that this release does not name'}")


def _device(settings: Settings) -> Iterator[Diagnosis]:
    from backend.engines.device import resolve

    try:
        device, dtype = resolve(Placement(settings.device, settings.dtype))
        yield Diagnosis("device", "ok", f"{device.type}, images in {str(dtype).removeprefix('torch.')}")
    except SetupError as error:
        yield Diagnosis("device", "broken", str(error))


def _disk(settings: Settings) -> Iterator[Diagnosis]:
    folder = settings.home_folder
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        yield Diagnosis("disk", "broken", f"{there} cannot be used: {error.strerror}; choose another folder with MASKLOOM_HOME")
        return
    if free < LEAST_FREE_BYTES:
        text = f"{free / MEBIBYTE:.0f} MiB are free for {folder}; make room, or choose another folder with MASKLOOM_HOME"
        yield Diagnosis("disk", "broken", text)
    else:
        yield Diagnosis("disk", "ok", f"{free / MEBIBYTE / 1024:.1f} GiB are free for {folder}")


def _database(settings: Settings) -> Iterator[Diagnosis]:
    """Whether a click could write into it: a transaction that is rolled back."""
    try:
        with Database(settings.database_url, CLICK_WAIT_S).writing() as connection:
            connection.execute(sql.text("SELECT 1"))
        yield Diagnosis("database", "ok", "it can be written")
    except (SetupError, StoreError) as error:
        cure = "" if isinstance(error, SetupError) else "; end what holds it, or name another with MASKLOOM_DATABASE"
        yield Diagnosis("database", "broken", f"{error}{cure}")


def _folders(settings: Settings) -> Iterator[Diagnosis]:
    missing = [str(root) for root in settings.allowed_roots if not root.is_dir()]
    if missing:
        yield Diagnosis("local folders", "broken", f"{', '.join(missing)}: no such folder; mend MASKLOOM_LOCAL_ROOTS")
    else:
        yield Diagnosis("local folders", "ok", ", ".join(map(str, settings.allowed_roots)) or "none")


def _policy(settings: Settings) -> Iterator[Diagnosis]:
    hosts = settings.image_hosts.strip()
    if hosts == "*":
        text = "images of every host are fetched, those that only this network reaches too; name them in MASKLOOM_IMAGE_HOSTS"
        yield Diagnosis("image hosts", "advice", text)
    else:
        yield Diagnosis("image hosts", "ok", f"public addresses, Label Studio's own, and {hosts or 'no others'}")
