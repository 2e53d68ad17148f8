"""The label-studio-ml door, over the SDK of the package index in an environment of its own and over a base like that of 2.x."""

from __future__ import annotations

import importlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest

from tests.backend.pictures import two_shapes
from tests.backend.test_app import CONFIG, body, data_uri, key_point, masks_of, task

SDK = ("label-studio-ml==1.0.9", "redis==6.4.0", "rq==2.6.0")
KEPT = Path(".maskloom") / "label-studio-ml"
SERVER = """
import sys
from label_studio_ml.api import init_app
from backend.model import MaskloomModel
init_app(MaskloomModel, model_dir=sys.argv[2]).run("127.0.0.1", int(sys.argv[1]), threaded=True)
"""


@pytest.fixture(scope="module")
def sdk_python() -> Path:
    """A Python with the SDK, and with this environment's packages behind its own (the SDK pins Flask 1.1)."""
    python = KEPT / "bin" / "python"
    ready = KEPT / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(KEPT)], check=True)
        install = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *SDK],
            capture_output=True,
            text=True,
        )
        if install.returncode:
            pytest.skip(f"label-studio-ml cannot be installed here: {install.stderr.strip()[-300:]}")
        here = next(path for path in sys.path if path.endswith("site-packages"))
        (found,) = (KEPT / "lib").glob("python*/site-packages")
        (found / "zz_maskloom.pth").write_text(f"{here}\n{Path.cwd()}\n")
        ready.touch()
    return python.absolute()


@pytest.fixture(scope="module")
def sdk_server(sdk_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("sdk")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "MASKLOOM_ENGINE": "colour", "MASKLOOM_HOME": str(folder)}
    log = (folder / "log").open("w+")
    server = subprocess.Popen(
        [str(sdk_python), "-c", SERVER, str(port), str(folder)], env=environment, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_up(url, server, Path(log.name))
        yield url
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def _wait_until_up(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        try:
            if httpx.get(f"{url}/health", timeout=2).is_success:
                return
        except httpx.HTTPError:
            pass
        assert server.poll() is None, log.read_text()[-2000:]
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-2000:])


@pytest.mark.long
def test_the_sdk_s_server_answers_label_names_and_clicks_by_the_one_path(sdk_server: str) -> None:
    setup = {"project": "1.17", "schema": CONFIG, "hostname": "http://127.0.0.1:8080", "access_token": "x"}
    assert httpx.post(f"{sdk_server}/setup", json=setup, timeout=60).status_code == 200
    shapes = two_shapes().shapes
    named = httpx.post(f"{sdk_server}/predict", json=body(task(data_uri(two_shapes()))), timeout=60).json()["results"]
    assert np.array_equal(masks_of(named[0])["Ball"], shapes["red disc"])
    clicked = body(task(data_uri(two_shapes())), context={"result": [key_point(70, 40, label="Box")]})
    answered = httpx.post(f"{sdk_server}/predict", json=clicked, timeout=60).json()["results"]
    assert list(masks_of(answered[0])) == ["Box"]
    assert np.array_equal(masks_of(answered[0])["Box"], shapes["blue square"])


class BaseOfTwo:
    """What our class uses of LabelStudioMLBase 2.x, which is on no package index: one instance for each request."""

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id, self.label_config = project_id, label_config


@pytest.fixture
def model_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    package, module = ModuleType("label_studio_ml"), ModuleType("label_studio_ml.model")
    module.LabelStudioMLBase = BaseOfTwo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "label_studio_ml", package)
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", module)
    monkeypatch.delitem(sys.modules, "backend.model", raising=False)
    monkeypatch.setenv("MASKLOOM_ENGINE", "colour")
    monkeypatch.setenv("MASKLOOM_HOME", str(tmp_path))
    yield importlib.import_module("backend.model").MaskloomModel
    sys.modules.pop("backend.model", None)


def test_over_two_each_request_has_its_project_and_its_config(model_class: Any) -> None:
    """2.x hands over ``context=None`` for a pre-annotation and further keywords."""
    image = task(data_uri(two_shapes()))
    (named,) = model_class(project_id="1", label_config=CONFIG).predict([image], context=None, login=None, password=None)
    assert set(masks_of(named)) == {"Ball", "Box"}
    other = model_class(project_id="2", label_config=CONFIG.replace("Ball", "Sonne"))
    (clicked,) = other.predict([image], context={"result": [key_point(25, 50, label="Sonne")]})
    assert list(masks_of(clicked)) == ["Sonne"]
    assert isinstance(clicked["model_version"], str)
