"""What holds for every test: variables of the person who runs them change nothing."""

from __future__ import annotations

import os

import pytest

OTHERS = ("MASKLOOM_", "LABEL_STUDIO_", "BASIC_AUTH_", "LOCAL_FILES_")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(OTHERS)]:
        monkeypatch.delenv(name)
