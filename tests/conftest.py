"""What holds for every test: variables of the person who runs them change nothing, and a busy machine fails nothing."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
"""The last keeps pages from other hosts. (To intercept requests would do too, but then a browser keeps nothing: it fetches and
compiles megabytes of Label Studio's scripts for every task that is opened.)
"""
OTHERS = ("MASKLOOM_", "LABEL_STUDIO_", "BASIC_AUTH_", "LOCAL_FILES_")

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; read by torch when it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SLOW_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", SLOW_MACHINE, max_examples=50, derandomize=True)
settings.register_profile("search", SLOW_MACHINE, max_examples=1000, print_blob=True)
settings.load_profile("same")
"""What a change did not touch fails no property by chance; `make test-search` (profile `search`) looks for more."""


gc.disable()  # looking through what is being imported would take a third of the time


def pytest_collection_finish() -> None:
    """What is imported stays: it is looked through no more, only what tests make."""
    gc.freeze()
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tasks", default=48, help="How many tasks the bulk run has that is killed three times.")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One that reaches nothing but this machine; there can be but one of Playwright's loops in a process."""
    from playwright.sync_api import sync_playwright

    from tests.labelstudio.prepare import CHROMIUMS, find_chromium

    executable = find_chromium()
    if executable is None:
        pytest.skip(f"none of {', '.join(CHROMIUMS)} is installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(OTHERS)]:
        monkeypatch.delenv(name)
