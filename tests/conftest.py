"""What holds for every test: variables of the person who runs them change nothing, and a busy machine fails nothing."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

OTHERS = ("MASKLOOM_", "LABEL_STUDIO_", "BASIC_AUTH_", "LOCAL_FILES_")

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; read by torch when it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("any machine", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


gc.disable()  # looking through what is being imported would take a third of the time


def pytest_collection_finish() -> None:
    """What is imported stays: it is looked through no more, only what tests make."""
    gc.freeze()
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tasks", default=48, help="How many tasks the bulk run has that is killed three times.")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(OTHERS)]:
        monkeypatch.delenv(name)
