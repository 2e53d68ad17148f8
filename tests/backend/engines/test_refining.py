"""MASKLOOM_REFINE: the masks of one engine with the edges of another one's decoder, by every door."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from backend.app import create_app
from backend.assemble import assemble, bulk_context
from backend.cli import cli
from backend.engines.catalogue import ENGINES, Recipe
from backend.engines.sam import refine
from backend.values.errors import SetupError
from backend.values.settings import Settings
from tests.backend.engines import tiny_bundles
from tests.backend.pictures import two_shapes
from tests.backend.test_app import body, data_uri, key_point, masks_of, predict, task

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torchvision 0.28, when it is imported


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two bundles of random weights, where ``maskloom fetch`` puts them."""
    home = tmp_path_factory.mktemp("home")
    for name in ("edgetam-cpu", "sam-base"):
        tiny_bundles.write_bundle(name, home / "engines" / name)
    return home


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """How many masks were refined each time, and under how many clicks.

    Whatever the refining decoder says is taken, as random weights never agree.
    """
    asked: list[tuple[int, int]] = []
    plain = refine.refine_masks

    def refine_masks(decoding: Any, features: Any, masks: np.ndarray, clicks: Any) -> np.ndarray:
        asked.append((len(masks), len(clicks)))
        return plain(decoding, features, masks, clicks)

    monkeypatch.setattr(refine, "refine_masks", refine_masks)
    monkeypatch.setattr(refine, "_agree", lambda proposed, refined, clicks: True)
    return asked


def settings(home: Path, **others: Any) -> Settings:
    return Settings(**{"engine": "colour", "refine": "sam-base", "home": home, "device": "cpu", **others})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edgetam-cpu", "sam-base"])
def test_a_click_over_http_is_answered_with_the_refined_mask_under_both_versions(
    home: Path, watched: list[tuple[int, int]], name: str
) -> None:
    asked, answers = body(task(data_uri(two_shapes())), context={"result": [key_point(25, 50)]}), []
    for refiner in (None, name):
        parts = assemble(settings(home, refine=refiner))
        with TestClient(create_app(parts)) as client:
            answers += predict(client, asked)
    plain, fine = answers
    assert plain["model_version"] == "colour-1"
    assert fine["model_version"].startswith(f"colour-1+{name}-")
    assert watched == [(1, 1)]
    if name == "sam-base":  # the other one may take it for no object
        assert not np.array_equal(masks_of(fine)["Ball"], masks_of(plain)["Ball"])


def test_the_version_changes_with_either_engine(home: Path, tmp_path: Path) -> None:
    by_one, by_other = (assemble(settings(home, refine=name)).engine.version for name in ("edgetam-cpu", "sam-base"))
    bundle = tiny_bundles.write_bundle("sam-base", tmp_path / "engines" / "sam-base")
    (bundle / "decoder" / "config.json").write_text((bundle / "decoder" / "config.json").read_text() + " ")
    assert len({by_one, by_other, assemble(settings(tmp_path)).engine.version, "colour-1"}) == 4


def test_a_run_and_a_switch_refine_as_well(home: Path, tmp_path: Path, watched: list[tuple[int, int]]) -> None:
    bulk = bulk_context(settings(home, database=f"sqlite:///{tmp_path / 'run.sqlite'}"), tmp_path, threading.Event())
    assert bulk.engine.version.startswith("colour-1+sam-base-")
    parts = assemble(settings(home, engine="embedded"))
    before = parts.engine.version
    with TestClient(create_app(parts)) as client:
        switched = client.post("/engine", json={"engine": "colour"}).json()["model_version"]
        (answer,) = predict(client, body(task(data_uri(two_shapes())), context={"result": [key_point(25, 50)]}))
    assert before.startswith("embedded-")
    assert before.partition("+")[2] == switched.partition("+")[2] != ""
    assert answer["model_version"] == switched
    assert watched == [(1, 1)]


def test_the_command_line_refines_too(
    home: Path, tmp_path: Path, watched: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ENGINE", "colour"), ("REFINE", "sam-base"), ("HOME", str(home)), ("DEVICE", "cpu")):
        monkeypatch.setenv(f"MASKLOOM_{name}", value)
    Image.fromarray(two_shapes().image).save(tmp_path / "photo.png")
    said = ["segment", str(tmp_path / "photo.png"), "--text", "red", "--json", str(tmp_path / "out.json")]
    result = CliRunner().invoke(cli, [*said, "--out", str(tmp_path / "out.png")])
    assert result.exit_code == 0, result.output
    assert len(json.loads((tmp_path / "out.json").read_text())) >= 1
    assert watched == [(1, 0)]


def test_an_engine_is_not_refined_by_itself(home: Path) -> None:
    assert "+" not in assemble(settings(home, engine="sam-base")).engine.version


def test_nothing_is_refined_when_the_setting_is_empty(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLOOM_REFINE", "")
    assert assemble(Settings(engine="colour", home=home)).engine.version == "colour-1"


def test_an_engine_that_cannot_refine_is_refused_with_those_that_can(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "mine", Recipe("mine", "nowhere:build", "", ""))
    for name in ("colour", "seem-focal-l", "mine"):
        with pytest.raises(
            SetupError, match=rf"'{name}' cannot refine masks; .* can be edgetam-cpu, .*sam-base, .*sam2-tiny, sam3"
        ):
            assemble(settings(home, refine=name))
    with pytest.raises(SetupError, match="there is no engine 'sam9'"):
        assemble(settings(home, refine="sam9"))


def test_missing_models_are_named_with_the_command_that_gets_them(home: Path) -> None:
    with pytest.raises(SetupError, match=r"MASKLOOM_REFINE=sam2-tiny needs the models in .*: run 'maskloom fetch sam2-tiny'"):
        assemble(settings(home, refine="sam2-tiny")).engine.segmenter()
