"""Networks between us, Label Studio and a hub: whatever happens to a connection costs a stated time and a sentence, never more,
and what was asked is had as soon as the network is well again.
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image
from pydantic import SecretStr

from backend import assemble
from backend.assemble import bulk_context
from backend.bulk import run as run_module
from backend.bulk import values as to_studio
from backend.bulk.spec import JobSpec
from backend.engines import download
from backend.images import Media, sites
from backend.images.limits import MediaOptions
from backend.labelstudio import api
from backend.values.errors import RemoteError
from backend.values.settings import Settings
from tests.backend.bulk.runs import job_of, pipeline, run_of
from tests.backend.bulk.studio_double import TOKEN, StudioDouble, running
from tests.backend.engines.hub_double import HubDouble, serving
from tests.backend.engines.test_download import CLIP, ENGINE, SAM
from tests.backend.faulty_proxy import FaultyProxy, before
from tests.backend.images.servers import Server

BROKEN = ["cut", "reset", "half-open", "deaf"]
CONFIG = """<View><Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="red"/></BrushLabels></View>"""
SHORT = httpx.Timeout(0.5)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@pytest.fixture
def media(tmp_path: Path) -> Iterator[Media]:
    waits = {"connect_timeout_s": 0.5, "read_timeout_s": 0.5, "total_timeout_s": 2.0, "first_wait_s": 0.01}
    made = Media(MediaOptions(cache_dir=tmp_path / "cache", **waits))
    yield made
    made.close()


@pytest.fixture
def picture() -> Iterator[Server]:
    """A host with a picture of 300 x 200 pixels of noise."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)).save(file, "PNG")
    server = Server()
    server.serve("/a.png", file.getvalue())
    yield server
    server.close()


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 50, 50_000])
@pytest.mark.parametrize("fault", BROKEN)
def test_an_image_over_a_broken_connection_is_a_sentence_in_time_and_comes_when_it_is_whole(
    fault: str, after: int, media: Media, picture: Server
) -> None:
    with before(picture.url) as proxy:
        proxy.fault, proxy.after = fault, after
        with within(8), pytest.raises(RemoteError, match="image of task 7 cannot be had"):
            media.load(f"{proxy.url}/a.png", "1", "7")
        proxy.fault = "late"
        assert media.load(f"{proxy.url}/a.png", "1", "7").pixels.shape == (200, 300, 3)


def test_an_image_comes_through_a_connection_that_breaks_now_and_then(media: Media, picture: Server) -> None:
    with before(picture.url) as proxy:
        proxy.faults, proxy.after = deque(["reset", "cut", "late"]), 1000
        assert media.load(f"{proxy.url}/a.png", "1", "7").pixels.shape == (200, 300, 3)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "TIMEOUT", SHORT)
    monkeypatch.setattr(run_module, "SETTLING_S", 0.0)
    monkeypatch.setattr(to_studio, "FIRST_PAUSE_S", 0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", BROKEN)
def test_label_studio_behind_a_broken_connection_is_a_sentence_in_time(fault: str) -> None:
    with (
        running(StudioDouble().with_tasks(2)) as double,
        before(double.url) as proxy,
        api.LabelStudio(proxy.url, TOKEN) as studio,
    ):
        proxy.fault, proxy.after = fault, 40
        with within(4), pytest.raises(RemoteError, match=r"Label Studio (cannot be reached|did not answer)"):
            studio.project(1)
        proxy.fault = "late"
        assert studio.project(1).id == 1


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", ["reset", "cut", "half-open"])
def test_a_bulk_run_over_a_connection_that_breaks_leaves_one_prediction_each(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third connection breaks, some after Label Studio has stored what was sent."""
    patient = assemble.media_options
    monkeypatch.setattr(assemble, "media_options", lambda settings: replace(patient(settings), read_timeout_s=0.5))
    with running(StudioDouble().with_tasks(12)) as double, before(double.url) as proxy:
        where = {"label_studio_url": proxy.url, "label_studio_token": SecretStr(TOKEN)}
        settings = Settings(engine="colour", home=tmp_path, **where)
        context = bulk_context(settings, None, threading.Event())
        job = job_of(context, JobSpec("1"))
        proxy.faults, proxy.after = deque(["", "", fault] * 30), 60
        progress = run_of(context, job).work(pipeline(context, job))
        if progress.failed:
            proxy.faults.clear()
            progress = run_of(context, job).work(pipeline(context, job))
        assert (progress.done, progress.failed) == (12, 0)
        assert set(double.per_task().values()) == {1}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    monkeypatch.setattr(download, "SILENT_S", 0.5)
    with serving(HubDouble({"us/sam": dict(SAM), "us/clip": dict(CLIP)})) as hub:
        yield hub


def fetch(proxy: FaultyProxy, folder: Path) -> None:
    download.fetch(ENGINE, folder, download.Hub(proxy.url), lambda _: None, download.pins_of(ENGINE, folder))


@pytest.mark.slow
@pytest.mark.parametrize("fault", BROKEN)
def test_a_hub_behind_a_broken_connection_is_a_sentence_in_time_and_fetching_goes_on(
    fault: str, hub: HubDouble, tmp_path: Path
) -> None:
    with before(hub.url) as proxy:
        proxy.fault, proxy.after = fault, 30
        with within(15), pytest.raises(RemoteError, match=r"cannot reach .* was not fetched; run the command again"):
            fetch(proxy, tmp_path / "bundle")
        proxy.fault = ""
        fetch(proxy, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "decoder" / "model.safetensors").read_bytes() == SAM["model.safetensors"]


def test_a_deaf_host_keeps_an_annotator_no_longer_than_the_setting(picture: Server, tmp_path: Path) -> None:
    settings = Settings(engine="colour", home=tmp_path, read_timeout_s=0.3)
    with before(picture.url) as proxy:
        proxy.fault, proxy.after = "deaf", 0
        with within(6), pytest.raises(RemoteError, match="image of task 7 cannot be had"):
            assemble.assemble(settings).media.load(f"{proxy.url}/a.png", "1", "7")


@pytest.mark.slow
def test_a_server_that_is_told_to_end_cuts_its_batches_and_answers(picture: Server, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"MASKLOOM_ENGINE": "colour", "MASKLOOM_HOME": str(tmp_path), "MASKLOOM_READ_TIMEOUT_S": "1"}
    command = [sys.executable, "-c", "from backend.cli import main; main()", "serve", "--port", str(port)]
    with subprocess.Popen(command, env={**os.environ, **settings}) as server, before(picture.url) as proxy:
        try:
            proxy.fault = "deaf"
            tasks = [{"id": number, "data": {"image": f"{proxy.url}/{number}.png"}} for number in range(20)]
            asked = {"tasks": tasks, "project": "1.1", "label_config": CONFIG}
            answer = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)
            until_up(answer)
            threading.Timer(3, server.terminate).start()
            with within(12):
                assert len(answer.post("/predict", json=asked).json()["results"]) == 1
        finally:
            server.terminate()


def until_up(client: httpx.Client) -> None:
    while True:
        try:
            if client.get("/health").json()["model_loaded"]:
                return
        except httpx.ConnectError:
            time.sleep(0.2)
