"""A Label Studio of our own: its virtual environment, its account, the variables it needs, its start and its end."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from backend.demo.supervised_process import Child, Program
from backend.labelstudio.api import is_up
from backend.values.errors import SetupError

REQUIREMENT = "label-studio==1.23.2"
HOST = "127.0.0.1"
EMAIL = "you@example.com"
FIRST_START_PATIENCE_S = 900.0  # half a minute on an idle machine

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Account:
    """Who may log in; made once and kept for the owner's eyes only."""

    email: str
    password: str
    token: str
    secret_key: str

    @classmethod
    def random(cls) -> Account:
        return cls(EMAIL, secrets.token_urlsafe(12), secrets.token_hex(20), secrets.token_urlsafe(50))

    @classmethod
    def kept_in(cls, file: Path) -> Account:
        """The account of a file, made anew with mode 600 when there is no such file."""
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        account = cls.random()
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(asdict(account), out, indent=2)
        return account


@dataclass(frozen=True, slots=True)
class StudioFolder:
    """Where a Label Studio keeps everything; the whole folder can be deleted."""

    root: Path

    @property
    def venv(self) -> Path:
        return self.root / "label-studio"

    @property
    def data(self) -> Path:
        """Its database, its uploads, and the account."""
        return self.root / "data"

    @property
    def photos(self) -> Path:
        """Its document root: files below it are shown to projects that serve their folder."""
        return self.root / "photos"

    @property
    def logs(self) -> Path:
        return self.root / "logs"


def install(folder: StudioFolder, report: Report) -> None:
    """Make the virtual environment of Label Studio unless it is there; ``report`` hears pip's latest line.

    Raises SetupError with the end of pip's output when it fails.
    """
    folder.root.mkdir(parents=True, exist_ok=True)
    stamp = folder.venv / "installed"
    with _only_one(folder.root / "label-studio.lock"):
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == REQUIREMENT:
            return
        for name, argv in _installation(folder).items():
            report(f"running {name}")
            _run_to_end(name, argv, folder, report)
        stamp.write_text(REQUIREMENT, encoding="utf-8")


def _installation(folder: StudioFolder) -> Mapping[str, Sequence[str]]:
    """The commands that make the virtual environment, by name; what is never imported need not be compiled."""
    python = str(folder.venv / "bin" / "python")
    return {
        "venv": [sys.executable, "-m", "venv", "--clear", str(folder.venv)],
        "pip": [python, "-m", "pip", "install", "--no-compile", "--progress-bar", "off", REQUIREMENT],
    }


def _run_to_end(name: str, argv: Sequence[str], folder: StudioFolder, report: Report) -> None:
    log = folder.logs / f"install-{name}.log"
    child = Child(Program(name, argv, {}, log))
    try:
        while child.exit_code() is None:
            time.sleep(0.3)
            report(child.last_words(1))
    finally:
        child.stop()
    if child.exit_code():
        raise SetupError(f"installing {REQUIREMENT} failed; the end of {log} says:\n{child.last_words()}")


@contextmanager
def _only_one(file: Path) -> Iterator[None]:
    """Wait until no other process installs into the same place."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Studio:
    """One Label Studio on SQLite that listens on the loopback address; leave the ``with`` block and it is gone."""

    def __init__(self, folder: StudioFolder, port: int) -> None:
        self.folder = folder
        self.port = port
        self.url = f"http://{HOST}:{port}"
        for each in (folder.data, folder.photos, folder.logs):
            each.mkdir(parents=True, exist_ok=True)
        folder.data.chmod(0o700)
        self.account = Account.kept_in(folder.data / "account.json")
        self._child: Child | None = None

    @property
    def is_new(self) -> bool:
        """Whether the next start makes the database, which takes half a minute."""
        return not (self.folder.data / "label_studio.sqlite3").exists()

    def __enter__(self) -> Studio:
        executable = str(self.folder.venv / "bin" / "label-studio")
        argv = [executable, "start", "--no-browser", "--port", str(self.port), "--internal-host", HOST]
        log = self.folder.logs / "label-studio.log"
        self._child = Child(Program("Label Studio", argv, self.environment(), log))
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.stop()

    @property
    def child(self) -> Child:
        if self._child is None:
            raise SetupError("this Label Studio has not been started")
        return self._child

    def environment(self) -> dict[str, str]:
        """The variables that Label Studio 1.23 needs here.

        It refuses backends on a local network unless ML_BLOCK_LOCAL_IP and SSRF_PROTECTION_ENABLED are both false, creates
        the account and reads ENABLE_LEGACY_API_TOKEN on its first start only, and tells /setup its own address by HOST.
        """
        return {
            "DJANGO_DB": "sqlite",
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder.data),
            "SECRET_KEY": self.account.secret_key,
            "LABEL_STUDIO_USERNAME": self.account.email,
            "LABEL_STUDIO_PASSWORD": self.account.password,
            "LABEL_STUDIO_USER_TOKEN": self.account.token,
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_HOST": self.url,
            "LABEL_STUDIO_ML_BLOCK_LOCAL_IP": "false",
            "SSRF_PROTECTION_ENABLED": "false",
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(self.folder.photos),
            "NO_PROXY": "127.0.0.1,localhost",
            **NO_OUTGOING_TRAFFIC,
        }

    def wait_until_ready(self, patience_s: float = FIRST_START_PATIENCE_S) -> None:
        """Raises SetupError when it ends instead or takes too long."""
        wait_until_up(self.child, self.url, patience_s)


NO_OUTGOING_TRAFFIC = {
    "COLLECT_ANALYTICS": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "LATEST_VERSION_CHECK": "false",
}


def wait_until_up(child: Child, url: str, patience_s: float) -> None:
    """Wait until a server answers its health check. Raises SetupError when it ends instead or takes too long."""
    name, log = child.program.name, child.program.log
    until = time.monotonic() + patience_s
    while not is_up(url):
        if child.exit_code() is not None:
            raise SetupError(f"{name} ended while starting; the end of {log} says:\n{child.last_words()}")
        if time.monotonic() > until:
            raise SetupError(f"{name} did not answer at {url} within {patience_s:.0f} s; see {log}")
        time.sleep(0.3)
