"""A bulk run and the server answer the same about an image, in every mode that a project can choose."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pydantic import SecretStr

from backend.app import create_app
from backend.assemble import assemble, bulk_context
from backend.bulk.run import BulkContext
from backend.bulk.spec import JobSpec
from backend.serving.service import EngineHandle
from backend.values.errors import ConfigError, RequestError
from backend.values.settings import Settings
from tests.backend.bulk import every_shape
from tests.backend.bulk.runs import job_of, pipeline, run_of
from tests.backend.bulk.studio_double import TOKEN, StudioDouble, running
from tests.backend.pictures import BLUE, RED, Picture, disc, paint, square

LABELS = '<Label value="Ball" predicted_values="red"/><Label value="Mat" predicted_values="crimson"/><Label value="blue"/>'
CONFIG = f"""<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">{LABELS}</BrushLabels>
    <PolygonLabels name="poly" toName="image">{LABELS}</PolygonLabels>
    <RectangleLabels name="rect" toName="image">{LABELS}</RectangleLabels></View>"""
ROSE = (200, 60, 130)
"""Near crimson but not near red: the mat is crimson with the ball that lies on it."""

CHOICES: dict[str, dict[str, Any]] = {
    "semantic": {"mode": "semantic"},
    "panoptic": {"mode": "panoptic", "stuff": ["Mat"]},
    "boxes": {"mode": "boxes"},
    "everything": {"mode": "everything"},
    "a least score": {"threshold": 0.97},
    "least scores by label": {"thresholds": {"Mat": 1.0}, "threshold": 0.1},
    "the best region": {"max_regions": 1},
    "large regions": {"min_area": 200},
    "nothing inside another": {"containment": 0.3},
    "polygons": {"output": "polygon"},
}


def still_life() -> Picture:
    """Three red balls, one of them on a mat, and two blue boxes."""
    on_mat = disc(80, 120, 30, 40, 10)
    return paint(
        {
            "mat": (square(80, 120, 15, 25, 30) & ~on_mat, ROSE),
            "ball on the mat": (on_mat, RED),
            "ball": (disc(80, 120, 60, 20, 9), RED),
            "small ball": (disc(80, 120, 60, 60, 5), RED),
            "box": (square(80, 120, 80, 10, 20), BLUE),
            "small box": (square(80, 120, 80, 50, 8), BLUE),
        }
    )


@pytest.fixture
def double(tmp_path: Path) -> Iterator[StudioDouble]:
    Image.fromarray(still_life().image).save(tmp_path / "a.png")
    with running(StudioDouble(config=CONFIG, tasks={1: {"image": str(tmp_path / "a.png")}})) as started:
        yield started


def settings(double: StudioDouble, folder: Path, home: str) -> Settings:
    token = SecretStr(TOKEN)
    return Settings(
        engine="colour", home=folder / home, local_roots=str(folder), label_studio_url=double.url, label_studio_token=token
    )


def with_everything(engine: EngineHandle) -> None:
    engine.switch(every_shape.RECIPE)


def from_the_server(double: StudioDouble, folder: Path, extra_params: Any) -> dict[str, Any]:
    """What /predict answers to a project with these extra parameters."""
    context = assemble(settings(double, folder, "server"))
    with_everything(context.engine)
    body = {"tasks": [{"id": 1, "data": double.tasks[1]}], "project": "1.17", "label_config": double.config}
    with TestClient(create_app(context)) as client:
        setup = {"project": "1.17", "schema": double.config, "extra_params": extra_params}
        assert client.post("/setup", json=setup).status_code == 200
        (answer,) = client.post("/predict", json=body).json()["results"]
    return without_ids(answer)


def from_a_run(double: StudioDouble, folder: Path, spec: JobSpec | None = None) -> dict[str, Any]:
    """The prediction that a run writes to the project."""
    context = bulk(double, folder)
    job = job_of(context, spec or JobSpec("1"))
    assert run_of(context, job).work(pipeline(context, job)).done == 1
    (prediction,) = double.predictions
    return without_ids({name: prediction[name] for name in ("result", "score", "model_version")})


def bulk(double: StudioDouble, folder: Path) -> BulkContext:
    context = bulk_context(settings(double, folder, "bulk"), None, threading.Event())
    with_everything(context.engine)
    return context


def without_ids(answer: dict[str, Any]) -> dict[str, Any]:
    result = [{name: value for name, value in region.items() if name != "id"} for region in answer["result"]]
    return {**answer, "result": result}


def attach(double: StudioDouble, extra_params: Any) -> None:
    double.backends = [{"id": 1, "url": "http://127.0.0.1:9090", "state": "CO", "extra_params": extra_params}]


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_gives_the_same_prediction_and_another_one_than_none(
    double: StudioDouble, tmp_path: Path, choice: str
) -> None:
    attach(double, CHOICES[choice])
    expected = from_the_server(double, tmp_path, CHOICES[choice])
    assert from_a_run(double, tmp_path) == expected
    assert expected["result"]
    assert expected != from_the_server(double, tmp_path, None)


def test_without_extra_parameters_it_is_the_same_too(double: StudioDouble, tmp_path: Path) -> None:
    attach(double, None)
    answer = from_a_run(double, tmp_path)
    assert answer == from_the_server(double, tmp_path, {})
    assert len(answer["result"]) == 6


def test_a_task_of_several_pages_is_the_same_too(double: StudioDouble, tmp_path: Path) -> None:
    double.config = CONFIG.replace('value="$image"', 'valueList="$pages"')
    double.tasks[1] = {"pages": [str(tmp_path / "a.png"), str(tmp_path / "b.png")]}
    Image.fromarray(still_life().image[:, ::-1]).save(tmp_path / "b.png")
    attach(double, {"mode": "semantic"})
    answer = from_a_run(double, tmp_path)
    assert answer == from_the_server(double, tmp_path, {"mode": "semantic"})
    assert [region["item_index"] for region in answer["result"]] == [0, 0, 0, 1, 1, 1]


def test_choices_that_name_regions_are_the_same_too(double: StudioDouble, tmp_path: Path) -> None:
    names = '<Choice value="rot" hint="red"/><Choice value="blau" hint="blue"/>'
    double.config = (
        '<View><Image name="image" value="$image"/><Brush name="brush" toName="image"/>'
        f'<Choices name="what" toName="image" perRegion="true" maskloom="names">{names}</Choices></View>'
    )
    answer = from_a_run(double, tmp_path)
    assert answer == from_the_server(double, tmp_path, None)
    named = [region["value"]["choices"][0] for region in answer["result"] if region["type"] == "choices"]
    assert sorted(named) == ["blau", "blau", "rot", "rot", "rot"]


def test_what_is_typed_replaces_the_extra_parameters_and_least_scores_are_added(double: StudioDouble, tmp_path: Path) -> None:
    attach(double, {"mode": "semantic"})
    spec = JobSpec("1", params='{"mode": "boxes", "threshold": 0.2}', min_score="Mat=1")
    expected = from_the_server(double, tmp_path, {"mode": "boxes", "threshold": 0.2, "thresholds": {"Mat": 1}})
    assert from_a_run(double, tmp_path, spec) == expected


def test_parameters_that_cannot_be_meant_are_refused(double: StudioDouble, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="expected a JSON object of extra parameters"):
        job_of(bulk(double, tmp_path), JobSpec("1", params="semantic"))
    attach(double, {"mode": "panoptik"})
    with pytest.raises(ConfigError, match="'mode' can be instance, semantic, panoptic"):
        job_of(bulk(double, tmp_path), JobSpec("1"))


def test_another_mode_is_another_run(double: StudioDouble, tmp_path: Path) -> None:
    context = bulk(double, tmp_path)
    modes = ("instance", "semantic", "panoptic")
    runs = [job_of(context, JobSpec("1", params=f'{{"mode": "{mode}", "stuff": ["Mat", "blue"]}}')) for mode in modes]
    assert len({job.identity.digest for job in runs}) == 3
    assert job_of(context, JobSpec("1", params='{"stuff": ["blue", "Mat"]}')).identity == runs[0].identity
