"""Releases: the published files in whatever they are wrapped, and the variants that they make."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.engines.base import Engine
from backend.engines.catalogue import ENGINES, Placement
from backend.engines.seem.engine import CONFIGS, Release, SeemConfig, assemble, find_checkpoint, load_weights, read_checkpoint
from backend.engines.seem.inputs import InputSize, SeemNetwork
from backend.engines.seem.wiring import DEMO, V0, V1
from backend.values.errors import SetupError
from backend.values.masks import MaskSet
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


@pytest.mark.slow
def test_a_checkpoint_comes_back_the_same(network: SeemNetwork, config: SeemConfig, tmp_path: Path) -> None:
    save_checkpoint(network, tmp_path / "seem.pt")
    again = empty_network(config)
    load_weights(again, read_checkpoint(tmp_path / "seem.pt"), "seem.pt")
    for key, value in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)


def test_an_older_file_format_is_read_as_well(network: SeemNetwork, config: SeemConfig, tmp_path: Path) -> None:
    torch.save(dict(network.state_dict()), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    load_weights(empty_network(config), read_checkpoint(tmp_path / "old.pt"), "old.pt")


@pytest.mark.slow
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


def test_a_checkpoint_is_read_from_a_bundle_or_by_its_own_name(tmp_path: Path) -> None:
    in_bundle = tmp_path / "bundle" / "seem" / "seem_focalt_v1.pt"
    in_bundle.parent.mkdir(parents=True)
    in_bundle.touch()
    assert find_checkpoint(tmp_path / "bundle", "seem_focalt_v1.pt") == in_bundle
    assert find_checkpoint(in_bundle, "seem_focall_v1.pt") == in_bundle
    with pytest.raises(SetupError, match=r"holds no seem_focall_v1\.pt"):
        find_checkpoint(tmp_path / "bundle", "seem_focall_v1.pt")


def test_without_a_checkpoint_nobody_asks_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("somebody asked the network"))
    recipe = ENGINES["seem-focal-t"]
    with pytest.raises(SetupError, match="run 'maskloom fetch seem-focal-t'"):
        recipe.load(recipe.weights_in(tmp_path))


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
