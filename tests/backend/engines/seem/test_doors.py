"""A checkpoint in the official layout behind both doors: ``maskloom segment`` and ``/predict``."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from backend.app import create_app
from backend.assemble import assemble
from backend.cli import cli
from backend.engines.base import Engine
from backend.engines.catalogue import ENGINES, Recipe
from backend.engines.seem import engine as releases
from backend.engines.seem.engine import Release, SeemConfig
from backend.engines.seem.inputs import InputSize
from backend.engines.seem.wiring import V1
from backend.labelstudio.shapes import painted as rle
from backend.values.settings import Settings
from prompts.geometry import Size
from tests.backend.engines import tiny_bundles
from tests.backend.engines.seem.checkpoints import save_checkpoint

CONFIG = """<View>
  <TextArea name="prompt" toName="image"/>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="Dog"/><Label value="Sky"/></BrushLabels>
  <KeyPointLabels name="kp" toName="image" smart="true"><Label value="Dog"/><Label value="Sky"/></KeyPointLabels>
</View>"""


@pytest.fixture
def weights(
    engine_of: Callable[[str], Engine],
    tiny_configs: dict[str, SeemConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A checkpoint of generated weights, and an engine by the name of seem-tiny that reads it."""
    release = Release(tiny_configs["focaldw"], V1, "seem_tiny_v1.pt", InputSize(96, 256, 32))
    monkeypatch.setattr(releases, "TINY", release, raising=False)
    recipe = Recipe("seem-tiny", "backend.engines.seem.engine:TINY.build", "SEEM, small", "none")
    monkeypatch.setitem(ENGINES, "seem-tiny", recipe)
    save_checkpoint(engine_of("focaldw_v1").decoder._network, tmp_path / "seem.pt")
    return tmp_path / "seem.pt"


@pytest.fixture
def files(tmp_path: Path, photo: np.ndarray) -> Path:
    """A folder with a photo and a mask of part of it."""
    Image.fromarray(photo).save(tmp_path / "photo.png")
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[20:60, 20:70] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


PROMPTS = {
    "text": ["--text", "dog, not the sky"],
    "clicks": ["--point", "50,30", "--negative-point", "100,70"],
    "boxes": ["--box", "30,20,70,50", "--box", "80,20,110,60"],
    "polygon": ["--polygon", "30,20,70,20,50,50"],
    "mask": ["--mask", "{folder}/mask.png"],
    "reference": ["--reference", "{folder}/photo.png", "--reference-mask", "{folder}/mask.png"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROMPTS)
def test_the_command_line_answers_every_kind_of_prompt(
    kind: str, weights: Path, files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MASKLOOM_ENGINE", "seem-tiny")
    monkeypatch.setenv("MASKLOOM_WEIGHTS", str(weights))
    monkeypatch.setenv("MASKLOOM_HOME", str(tmp_path / "home"))
    out, answer = files / "out.png", files / "out.json"
    options = [word.format(folder=files) for word in PROMPTS[kind]]
    result = CliRunner().invoke(cli, ["segment", str(files / "photo.png"), *options, "--out", str(out), "--json", str(answer)])
    assert result.exit_code == 0, result.output
    with Image.open(out) as overlay:
        assert overlay.size == (124, 90)
    drawn = {"clicks": 1, "boxes": 2, "polygon": 1, "mask": 1}
    assert json.loads(answer.read_text())
    if kind in drawn:
        assert result.output.count("pixels") == drawn[kind]
    assert len(list((tmp_path / "home" / "vocabulary").glob("*.npy"))) >= 134


@pytest.fixture
def client(weights: Path, tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(engine="seem-tiny", weights=weights, home=tmp_path / "home")
    with TestClient(create_app(assemble(settings))) as client:
        yield client


def test_predict_answers_two_rounds_of_clicks(client: TestClient, photo: np.ndarray) -> None:
    first = predict(client, photo, [click(40, 35)])
    again = predict(client, photo, [click(40, 35), click(80, 80, positive=False)])
    assert [region["value"]["brushlabels"] for region in (*first, *again)] == [["Dog"], ["Dog"]]
    one, two = (rle.decode(result[0]["value"]["rle"], Size(90, 124)) for result in (first, again))
    assert one.any()
    assert two.any()
    assert not np.array_equal(one, two)


def test_what_seem_proposes_is_refined_by_another_decoder(weights: Path, tmp_path: Path, photo: np.ndarray) -> None:
    """Two rounds, the second of which remembers SEEM's own logits."""
    tiny_bundles.write_bundle("edgetam-cpu", tmp_path / "home" / "engines" / "edgetam-cpu")
    settings = Settings(engine="seem-tiny", weights=weights, refine="edgetam-cpu", home=tmp_path / "home", device="cpu")
    parts = assemble(settings)
    with TestClient(create_app(parts)) as client:
        rounds = [predict(client, photo, [click(40, 35), *more]) for more in ([], [click(80, 80, positive=False)])]
    assert all(rle.decode(result[0]["value"]["rle"], Size(90, 124)).any() for result in rounds)
    assert re.fullmatch(r"seem-tiny-\w+\+edgetam-cpu-\w+", parts.engine.version)


def click(x: float, y: float, *, positive: bool = True) -> dict[str, Any]:
    """A smart click at percent of the photo."""
    return {
        "original_width": 124,
        "original_height": 90,
        "image_rotation": 0,
        "is_positive": positive,
        "id": f"click{x}{y}",
        "from_name": "kp",
        "to_name": "image",
        "type": "keypointlabels",
        "origin": "manual",
        "value": {"x": x, "y": y, "width": 0.2, "labels": ["Dog"], "keypointlabels": ["Dog"]},
    }


def predict(client: TestClient, photo: np.ndarray, result: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What Label Studio gets for these clicks on the photo."""
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    image = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    task = {"id": 1, "data": {"image": image}, "annotations": [], "predictions": [], "drafts": []}
    params = {"login": None, "password": None, "context": {"result": result}}
    body = {"tasks": [task], "project": "1.1795211212", "label_config": CONFIG, "params": params}
    response = client.post("/predict", json=body)
    assert response.status_code == 200, response.text
    regions: list[dict[str, Any]] = response.json()["results"][0]["result"]
    return regions
