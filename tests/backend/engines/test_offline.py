"""Every engine of published models loads from its folder alone and asks no address, even where nothing forbids it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch

from backend.engines.catalogue import ENGINES, Placement, find_engine
from backend.engines.sam import detectors
from backend.engines.sam.detectors import load_detector
from backend.values.errors import SetupError
from prompts.geometry import Size
from tests.backend.engines import tiny_bundles, tiny_detectors

CPU = Placement("cpu", "float32")
OF_MODELS = sorted(name for name, recipe in ENGINES.items() if recipe.models and not name.startswith("seem-"))
"""SEEM's engines read one checkpoint of a layout of its own, and no configuration that could ask for anything."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # torchvision 0.28, when it is imported
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address that anybody asked for, which fails as it does without a network. The hub is not switched off."""
    asked: list[Any] = []

    def refuse(host: Any, *_: Any, **__: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "there is no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: refuse(address))
    return asked


@pytest.mark.parametrize("name", OF_MODELS)
def test_an_engine_loads_from_its_bundle_alone(name: str, tmp_path: Path, asked: list[Any]) -> None:
    """OmDet-Turbo, which nine of them have, used to ask the hub for its backbone while its configuration was read."""
    bundle = tiny_bundles.write_published_bundle(name, tmp_path)
    engine = find_engine(name).load(bundle, CPU)
    assert engine.name == name
    assert asked == []


def test_a_published_omdet_finds_what_it_finds_with_its_backbone_spelt_out(
    tmp_path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    published = tiny_detectors.write_published_omdet(tmp_path / "published")
    spelt = tmp_path / "spelt"
    spelt.mkdir()
    for path in published.iterdir():
        (spelt / path.name).symlink_to(path)
    values = json.loads((published / "config.json").read_text())
    timm = {"model_type": "timm_backbone", "backbone": values.pop("backbone"), **values.pop("backbone_kwargs")}
    (spelt / "config.json").unlink()
    (spelt / "config.json").write_text(json.dumps({**values, "backbone_config": timm}))
    image = {"pixels": torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))}
    one, other = (load_detector(folder, CPU) for folder in (published, spelt))
    monkeypatch.setattr(detectors, "OMDET_THRESHOLD", 0.001)  # random models are sure of nothing
    found, expected = (detector.detect(image, Size(40, 60), ["dog", "red cup"]) for detector in (one, other))
    assert len(found.scores)
    assert np.array_equal(found.xyxy, expected.xyxy)
    assert np.array_equal(found.scores, expected.scores)
    assert asked == []


def test_whatever_keeps_a_folder_from_loading_is_a_sentence_that_names_it(tmp_path: Path, asked: list[Any]) -> None:
    folder = tiny_detectors.write_omdet(tmp_path / "grounder")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "backbone_config": {"model_type": "no_such_backbone"}}))
    with pytest.raises(SetupError, match=rf"the weights in {folder} cannot be loaded: KeyError"):
        load_detector(folder, CPU)
