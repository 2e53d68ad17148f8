"""Releases: the published files in whatever they are wrapped, and the variants that they make."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.engines.base import Engine
from backend.engines.seem.engine import CONFIGS, Release, SeemConfig, assemble, load_weights, read_checkpoint
from backend.engines.seem.frame import InputSize, SeemNetwork
from backend.engines.seem.wiring import DEMO, V0, V1
from backend.values.errors import SetupError
from backend.values.masks import MaskSet
from backend.values.placement import Placement
from prompts.kinds import BoxPrompt
from tests.backend.engines.seem.checkpoints import save_checkpoint


@pytest.fixture
def network(engine_of: Callable[[str], Engine]) -> SeemNetwork:
    return engine_of("focaldw_v1").decoder._network


def empty_network(config: SeemConfig) -> SeemNetwork:
    with torch.device("meta"):
        return assemble(config, V1)


@pytest.fixture
def config(tiny_configs: dict[str, SeemConfig]) -> SeemConfig:
    return tiny_configs["focaldw"]


def test_a_checkpoint_comes_back_the_same(network: SeemNetwork, config: SeemConfig, tmp_path: Path) -> None:
    save_checkpoint(network, tmp_path / "seem.pt")
    again = empty_network(config)
    load_weights(again, read_checkpoint(tmp_path / "seem.pt"), "seem.pt")
    for key, value in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)


def test_an_older_file_format_is_read_as_well(network: SeemNetwork, config: SeemConfig, tmp_path: Path) -> None:
    torch.save(dict(network.state_dict()), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    load_weights(empty_network(config), read_checkpoint(tmp_path / "old.pt"), "old.pt")


def test_what_training_programs_save_around_a_network_is_taken_off(
    network: SeemNetwork, config: SeemConfig, tmp_path: Path
) -> None:
    state = dict(network.state_dict())
    wrapped = {f"module.{key}": value for key, value in state.items()}
    for content in (
        {"model": wrapped, "iteration": 3},
        {"state_dict": {"model": state}},
        {"model_ema": state, "epoch": 1},
        wrapped,
    ):
        torch.save(content, tmp_path / "wrapped.pt")
        again = empty_network(config)
        load_weights(again, read_checkpoint(tmp_path / "wrapped.pt"), "wrapped.pt")
        assert all(torch.equal(again.state_dict()[key], value) for key, value in state.items())


def test_tensors_that_the_network_has_no_place_for_are_told_and_left_out(
    network: SeemNetwork, config: SeemConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """SEEM's own code reads such files as well; the two entries of official files that are no weights are not worth a word."""
    state = {**network.state_dict(), "sem_seg_head.predictor.extra": torch.zeros(3), "criterion.empty_weight": torch.ones(134)}
    again = empty_network(config)
    load_weights(again, state, "newer.pt")
    assert all(torch.equal(again.state_dict()[key], value) for key, value in network.state_dict().items())
    assert "newer.pt: 1 tensors are not used, such as sem_seg_head.predictor.extra" in caplog.text


def test_every_difference_is_named(network: SeemNetwork, config: SeemConfig) -> None:
    state = dict(network.state_dict())
    del state["sem_seg_head.predictor.class_embed"]
    state["sem_seg_head.predictor.query_feat.weight"] = torch.zeros(20, 64)
    with pytest.raises(SetupError) as said:
        load_weights(empty_network(config), state, "broken.pt")
    text = str(said.value)
    assert "broken.pt does not fit this network (2 differences)" in text
    assert "missing: sem_seg_head.predictor.class_embed (64, 64)" in text
    assert "mis-shaped: sem_seg_head.predictor.query_feat.weight, expected (21, 64), got (20, 64)" in text


class _Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.folder,)


def test_code_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    torch.save({"weight": _Trap(str(tmp_path / "ran"))}, tmp_path / "evil.pt")
    with pytest.raises(SetupError, match="plain tensors"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "photo.pt").write_bytes(content)
    with pytest.raises(SetupError, match=r"photo\.pt"):
        read_checkpoint(tmp_path / "photo.pt")


def test_a_file_of_other_things_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(SetupError, match="expected names and tensors, got list"):
        read_checkpoint(tmp_path / "list.pt")
    torch.save({"optimizer": {"lr": 0.1}, "step": 7}, tmp_path / "run.pt")
    with pytest.raises(SetupError, match="expected names and tensors, got a dict with optimizer, step"):
        read_checkpoint(tmp_path / "run.pt")


def test_an_engine_is_built_from_a_file_and_answers(
    network: SeemNetwork,
    config: SeemConfig,
    tmp_path: Path,
    photo: np.ndarray,
    ask: Callable[..., MaskSet],
    engine_of: Callable[[str], Engine],
) -> None:
    release = Release(config, V1, "seem_tiny_v1.pt", InputSize(96, 256, 32))
    save_checkpoint(network, tmp_path / "seem.pt")
    placement = Placement("cpu", "float32", tmp_path / "vocabulary")
    engine = release.build(tmp_path / "seem.pt", placement)
    box = BoxPrompt((30.0, 20.0, 70.0, 50.0))
    expected = ask(engine_of("focaldw_v1"), photo, box)
    np.testing.assert_array_equal(ask(engine, photo, box).masks, expected.masks)
    assert len(list((tmp_path / "vocabulary").glob("*.npy"))) == 134


class _Hub(http.server.BaseHTTPRequestHandler):
    """A hub with one file of five bytes."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()
        self.wfile.write(b"hello")

    def _answer(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        for name, value in (("ETag", '"5d41402a"'), ("X-Repo-Commit", "a" * 40), ("Content-Length", "5")):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    """The address of a hub on the loopback, and what it was asked."""
    asked: list[str] = []
    handler = type("Hub", (_Hub,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


FIND = """
import json, sys
from backend.engines.seem.engine import find_checkpoint
from backend.values.errors import SetupError
try:
    print(json.dumps({"read": find_checkpoint("seem_focalt_v1.pt").read_text()}))
except SetupError as error:
    print(json.dumps({"refused": str(error)}))
"""


def find_in_a_fresh_process(address: str, home: Path, offline: str) -> dict[str, str]:
    """huggingface_hub reads its settings when it is imported, so each case has a process of its own."""
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": offline, "HF_HUB_DISABLE_XET": "1"}
    environment = {**os.environ, **settings, "NO_PROXY": "*", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", FIND], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    answer: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_a_file_is_downloaded_once_and_then_read_from_the_cache(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = hub
    assert find_in_a_fresh_process(address, tmp_path, "0") == {"read": "hello"}
    assert any(path.startswith("/xdecoder/SEEM/resolve/main/seem_focalt_v1.pt") for path in asked)
    asked.clear()
    assert find_in_a_fresh_process(address, tmp_path, "0") == {"read": "hello"}
    assert asked == []


def test_offline_mode_never_tries_the_network(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = hub
    answer = find_in_a_fresh_process(address, tmp_path, "1")
    assert "cannot get seem_focalt_v1.pt" in answer["refused"]
    assert "MASKLOOM_WEIGHTS" in answer["refused"]
    assert asked == []


Keys = dict[str, dict[str, list[int]]]
WIRINGS = {wiring.name: wiring for wiring in (V0, V1, DEMO)}
NOT_PARAMETERS = {"dilation_kernel", "criterion.empty_weight"}
NAMES = {"focalt": "focal-t", "focall": "focal-l"}
NAMES |= {"samvitb": "samvit-b", "samvitl": "samvit-l"}
OFFICIAL = [
    *("focalt_unicl_lang_v0", "focalt_unicl_lang_v1", "focalt_unicl_lang_demo"),
    *("focall_unicl_lang_v0", "focall_unicl_lang_v1"),
    *("samvitb_unicl_lang_v1", "samvitl_unicl_lang_v1"),
]


@pytest.mark.parametrize("official", OFFICIAL)
def test_the_parameters_are_those_of_the_official_checkpoint(
    official: str, official_keys: dict[str, dict[str, list[int]]]
) -> None:
    backbone, *_, wiring = official.split("_")
    with torch.device("meta"):
        network = assemble(CONFIGS[NAMES[backbone]], WIRINGS[wiring])
    mine = {key: list(value.shape) for key, value in network.state_dict().items()}
    expected = {key: shape for key, shape in official_keys[official].items() if key not in NOT_PARAMETERS}
    assert mine == expected


def test_every_published_configuration_is_checked(official_keys: Keys) -> None:
    assert set(official_keys) == set(OFFICIAL)
