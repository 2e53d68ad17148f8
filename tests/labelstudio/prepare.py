"""Gets what the live tests need and cannot bring along: Label Studio in its own virtual environment, and Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from backend.demo.label_studio import StudioFolder, install
from backend.values.errors import SetupError

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
APT_GET = ("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120")


def shared_folder() -> StudioFolder:
    """Where `make run` and `make test` keep their Label Studio; tests use its virtual environment, never its data."""
    return StudioFolder(Path(os.environ.get("MASKLOOM_HOME") or ".maskloom").expanduser().resolve())


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, CHROMIUMS)), None)


def get_chromium() -> None:
    """From Debian's packages, when we may install them; otherwise say what will be skipped."""
    if find_chromium():
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print("No Chromium here, and no right to install one (apt-get as root): the browser tests will be skipped.")
        return
    print("Installing Chromium from Debian's packages ...", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (("update",), ("install", "--no-install-recommends", "chromium")):
        done = subprocess.run(
            [*APT_GET, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            print(f"apt-get {arguments[0]} failed, the browser tests will be skipped:\n{done.stdout[-500:]}")
            return


def get_label_studio() -> None:
    folder = shared_folder()
    print(f"Label Studio's virtual environment: {folder.venv}", flush=True)
    try:
        install(folder, lambda _line: None)
    except SetupError as error:
        print(f"{error}\nThe tests with a real Label Studio will be skipped.")


if __name__ == "__main__":
    get_label_studio()
    get_chromium()
