"""An annotator before two photos and the colour engine, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from backend.app import create_app
from backend.assemble import Parts, assemble
from backend.values.settings import Settings
from tests.backend.annotator import Annotator, with_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return with_images(tmp_path)


@pytest.fixture
def parts(folder: Path) -> Parts:
    return assemble(Settings(engine="colour", home=folder / "home", local_roots=str(folder)))


@pytest.fixture
def client(parts: Parts) -> Iterator[TestClient]:
    with TestClient(create_app(parts)) as client:
        yield client


@pytest.fixture
def ann(client: TestClient, folder: Path) -> Annotator:
    return Annotator(client, folder / "a.png")
