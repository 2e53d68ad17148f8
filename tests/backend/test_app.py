"""The HTTP door over the colour engine: what Label Studio sends, with real files and a real database."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from backend.app import create_app
from backend.assemble import Parts, assemble
from backend.labelstudio.shapes import painted as rle
from backend.serving import service
from backend.serving.preannotate import Preannotator
from backend.stores.database import Database
from backend.stores.projects import ProjectTable
from backend.values.settings import Settings
from prompts.geometry import Size
from tests.backend.pictures import Picture, two_red_discs, two_shapes

CONFIG = """<View>
  <TextArea name="prompt" toName="image"/>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="Ball" alias="red"/><Label value="Box" alias="blue"/></BrushLabels>
  <KeyPointLabels name="kp" toName="image" smart="true"><Label value="Ball"/><Label value="Box"/></KeyPointLabels>
  <RectangleLabels name="rect" toName="image" smart="true"><Label value="Ball"/><Label value="Box"/></RectangleLabels>
</View>"""


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return assemble(Settings(engine="colour", home=tmp_path / "home", local_roots=str(tmp_path)))


@pytest.fixture
def client(parts: Parts) -> Iterator[TestClient]:
    with TestClient(create_app(parts)) as client:
        yield client


def data_uri(picture: Picture) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture.image).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def task(image: str, number: int = 1) -> dict[str, Any]:
    return {"id": number, "data": {"image": image}, "annotations": [], "predictions": [], "drafts": []}


def body(*tasks: Any, context: Any = None, config: str = CONFIG, project: str = "1.1795211212") -> dict[str, Any]:
    params = {"login": None, "password": None, "context": context}
    return {"tasks": list(tasks), "project": project, "label_config": config, "params": params}


def key_point(x: float, y: float, label: str = "Ball", positive: bool = True, number: int = 0) -> dict[str, Any]:
    """A smart click at percent of the two-shapes picture."""
    return {
        "original_width": 120,
        "original_height": 80,
        "image_rotation": 0,
        "value": {"x": x, "y": y, "width": 0.2, "labels": [label], "keypointlabels": [label]},
        "is_positive": positive,
        "id": f"point{number}",
        "from_name": "kp",
        "to_name": "image",
        "type": "keypointlabels",
        "origin": "manual",
    }


def predict(client: TestClient, request: dict[str, Any]) -> list[dict[str, Any]]:
    response = client.post("/predict", json=request)
    assert response.status_code == 200, response.text
    results: list[dict[str, Any]] = response.json()["results"]
    return results


def masks_of(prediction: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        region["value"]["brushlabels"][0]: rle.decode(
            region["value"]["rle"], Size(region["original_height"], region["original_width"])
        )
        for region in prediction["result"]
    }


def test_health_setup_and_versions_answer_without_loading_the_model(client: TestClient, parts: Parts) -> None:
    assert client.get("/health").json()["status"] == "UP"
    assert client.get("/").status_code == 200
    setup = {"project": "1.17", "schema": CONFIG, "hostname": "http://127.0.0.1:8080", "access_token": "x"}
    for extra in ({}, {"a": 1}, "text", None):
        assert client.post("/setup", json={**setup, "extra_params": extra}).json() == {"model_version": parts.engine.version}
    assert client.get("/versions").json() == {"versions": [parts.engine.version]}
    assert not parts.engine.is_loaded


def test_setup_tells_what_the_labels_of_a_project_are_called(client: TestClient, parts: Parts) -> None:
    table = ProjectTable(Database(parts.settings.database_url))
    for schema in (CONFIG, "<View>", None):
        assert client.post("/setup", json={"project": "1.17", "schema": schema}).status_code == 200
        parts.projects.wait()
        known = table.vocabulary(parts.projects.key("1.17"))
        assert [(each.label, each.phrases) for each in known.entries] == [("Ball", ("ball", "red")), ("Box", ("box", "blue"))]
    assert not len(table.vocabulary("2@1"))


@pytest.mark.slow
@pytest.mark.parametrize("context", [None, {}, {"result": []}, {"unknown": 1}])
def test_predict_works_before_setup_and_finds_what_the_labels_name(client: TestClient, context: Any) -> None:
    (prediction,) = predict(client, body(task(data_uri(two_shapes())), context=context))
    found = masks_of(prediction)
    assert np.array_equal(found["Ball"], two_shapes().shapes["red disc"])
    assert np.array_equal(found["Box"], two_shapes().shapes["blue square"])
    assert prediction["model_version"] == "colour-1"
    assert 0 <= prediction["score"] <= 1


def test_a_smart_click_is_answered_with_the_mask_under_it(client: TestClient) -> None:
    (prediction,) = predict(client, body(task(data_uri(two_shapes())), context={"result": [key_point(25, 50)]}))
    assert list(masks_of(prediction)) == ["Ball"]
    assert np.array_equal(masks_of(prediction)["Ball"], two_shapes().shapes["red disc"])


def test_the_points_of_a_session_accumulate_and_the_image_is_encoded_once(client: TestClient, parts: Parts) -> None:
    one, two = key_point(25, 50), key_point(70, 40, number=1)
    minus = key_point(71, 41, positive=False, number=2)
    image = task(data_uri(two_shapes()))
    predict(client, body(image, context={"result": [one]}))
    (both,) = predict(client, body(image, context={"result": [one, two]}))
    shapes = two_shapes().shapes
    assert np.array_equal(masks_of(both)["Ball"], shapes["red disc"] | shapes["blue square"])
    (less,) = predict(client, body(image, context={"result": [one, two, minus]}))
    assert np.array_equal(masks_of(less)["Ball"], shapes["red disc"])
    assert parts.engine.segmenter()._cache.encoded == 1


def test_a_typed_phrase_finds_every_instance(client: TestClient) -> None:
    typed = {"value": {"text": ["red"]}, "id": "t", "from_name": "prompt", "to_name": "image", "type": "textarea"}
    (prediction,) = predict(client, body(task(data_uri(two_red_discs())), context={"result": [typed]}))
    assert [region["value"]["brushlabels"] for region in prediction["result"]] == [["Ball"], ["Ball"]]


def test_projects_do_not_mix(client: TestClient) -> None:
    other = CONFIG.replace("Ball", "Sonne").replace("Box", "Kiste")
    first = body(task(data_uri(two_shapes())), project="1.1")
    second = body(task(data_uri(two_shapes())), project="2.1", config=other)
    assert set(masks_of(predict(client, first)[0])) == {"Ball", "Box"}
    assert set(masks_of(predict(client, second)[0])) == {"Sonne", "Kiste"}
    assert set(masks_of(predict(client, first)[0])) == {"Ball", "Box"}


def test_every_task_gets_one_answer_and_a_broken_one_costs_only_itself(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image at all")
    Image.fromarray(two_shapes().image).save(tmp_path / "good.png")
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0" + b"0" * 50)
    good = task("/data/local-files/?d=good.png")
    bad: list[Any] = [
        task("/data/local-files/?d=broken.png"),
        task("/data/local-files/?d=cut.jpg"),
        task("/data/local-files/?d=gone.png"),
        task("/data/local-files/?d=../../etc/passwd"),
        {"id": 5, "data": {}},
        {"id": 6, "data": {"image": 7}},
        {"id": 7, "data": {"image": ""}},
        "no task",
        None,
    ]
    answers = predict(client, body(good, *bad, good))
    assert len(answers) == len(bad) + 2
    assert len(answers[0]["result"]) == len(answers[-1]["result"]) == 2
    assert all("result" not in answer and answer["score"] == 0 for answer in answers[1:-1]), "an empty one would be stored"
    assert all(isinstance(answer["error"], str) for answer in answers[1:-1])
    assert all(isinstance(answer["model_version"], str) for answer in answers)


def test_an_error_of_an_interactive_request_is_told_in_the_text_area(client: TestClient) -> None:
    (answer,) = predict(client, body(task("/data/local-files/?d=gone.png"), context={"result": [key_point(25, 50)]}))
    (message,) = answer["result"]
    assert message["type"] == "textarea"
    assert "gone.png" in message["value"]["text"][0]


def test_a_task_that_a_request_names_many_times_is_answered_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = body(task(data_uri(two_shapes())), task(data_uri(two_shapes()), 2))
    first, second = predict(client, asked)
    counted, find = Counter[str](), Preannotator.find
    monkeypatch.setattr(Preannotator, "find", lambda self, each: counted.update([each.task_id]) or find(self, each))
    answers = predict(client, {**asked, "tasks": asked["tasks"] * 300})
    assert len(answers) == 600
    assert counted == {"1": 1, "2": 1}
    assert [masks_of(each).keys() for each in answers[:2]] == [masks_of(first).keys(), masks_of(second).keys()]


def test_a_one_pixel_image_is_an_image(client: TestClient) -> None:
    dot = Picture(np.full((1, 1, 3), (255, 0, 0), np.uint8), {})
    (answer,) = predict(client, body(task(data_uri(dot))))
    assert answer["result"] == []
    (answer,) = predict(client, body(task(data_uri(dot)), context={"result": [key_point(50, 50)]}))
    assert masks_of(answer)["Ball"].all()


@pytest.mark.slow
@pytest.mark.parametrize("config", ["<View><Image", "", "no xml", "<View></View>", None, 7])
def test_a_config_that_cannot_be_used_costs_the_answers_and_not_the_server(client: TestClient, config: Any) -> None:
    response = client.post("/predict", json={**body(task(data_uri(two_shapes()))), "label_config": config})
    assert response.status_code in (200, 400)
    if response.status_code == 200:
        assert ["error" in answer and "result" not in answer for answer in response.json()["results"]] == [True]
    assert client.get("/health").status_code == 200


def test_labels_with_xml_entities_come_back_as_they_are_in_the_config(client: TestClient) -> None:
    config = CONFIG.replace('value="Ball"', 'value="Bälle &amp; &quot;Co&quot; &lt;1&gt;"')
    (answer,) = predict(client, body(task(data_uri(two_shapes())), config=config))
    assert 'Bälle & "Co" <1>' in masks_of(answer)


def test_an_unknown_label_is_refused_in_words_that_the_page_shows(client: TestClient) -> None:
    (answer,) = predict(client, body(task(data_uri(two_shapes())), context={"result": [key_point(25, 50, label="Giraffe")]}))
    (message,) = answer["result"]
    assert (message["type"], message["from_name"], message["to_name"]) == ("textarea", "prompt", "image")
    assert "the label 'Giraffe' is not in the labelling config" in message["value"]["text"][0]


@pytest.mark.parametrize("content", [b"", b"no json", b"[]", b"7", b'{"tasks": 5}', b"{}", b"\xff\xfe"])
def test_a_body_that_cannot_be_read_is_refused_with_a_reason(client: TestClient, content: bytes) -> None:
    response = client.post("/predict", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "cannot be used" in response.json()["error"]
    assert client.get("/health").status_code == 200


def test_scores_are_finite_and_nothing_is_null(client: TestClient) -> None:
    answers = predict(client, body(task(data_uri(two_shapes())), task("/gone")))
    assert "null" not in json.dumps([answer["model_version"] for answer in answers])
    assert all(0 <= region["score"] <= 1 for answer in answers for region in answer.get("result", []))


def test_identical_requests_at_the_same_time_are_answered_together(
    client: TestClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []
    segmenter = parts.engine.segmenter()
    plain = segmenter.segment

    def slow(questions: Any) -> Any:
        calls.append(time.monotonic())
        time.sleep(0.5)
        return plain(questions)

    monkeypatch.setattr(segmenter, "segment", slow)
    request = body(task(data_uri(two_shapes())), context={"result": [key_point(25, 50)]})
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(predict(client, request))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    regions = [region for (answer,) in answers for region in answer["result"]]
    assert len({json.dumps(region["value"]) for region in regions}) == 1
    assert len({region["id"] for region in regions}) == 4, "the page takes two regions of one id for one"


def test_a_batch_past_its_deadline_is_answered_with_its_first_answer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Label Studio then asks task by task; what was answered already is not computed again."""
    monkeypatch.setattr(service, "DEADLINE_S", 1e-9)
    parts = assemble(Settings(engine="colour", home=tmp_path / "home"))
    with TestClient(create_app(parts)) as client:
        tasks = [task(data_uri(two_shapes()), 1), task(data_uri(two_red_discs()), 2), task(data_uri(two_shapes()), 3)]
        assert len(predict(client, body(*tasks))) == 1
        one_by_one = [predict(client, body(each)) for each in tasks]
        assert [len(answer[0]["result"]) for answer in one_by_one] == [2, 3, 2]


def test_a_batch_is_cut_when_the_server_ends(parts: Parts, client: TestClient) -> None:
    tasks = [task(data_uri(two_shapes()), 1), task(data_uri(two_red_discs()), 2)]
    parts.service.ending.set()
    assert [len(answer["result"]) for answer in predict(client, body(*tasks))] == [2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "event",
    [
        {"action": "ANNOTATION_CREATED", "annotation": {}, "project": {}, "task": {}},
        {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 1}], "project": {}},
        {"action": "SOMETHING_NEW"},
        [1, 2],
        "text",
    ],
)
def test_every_webhook_is_received(client: TestClient, event: Any) -> None:
    assert client.post("/webhook", json=event).status_code == 201
    assert client.post("/webhook", content=b"no json").status_code == 201


def test_metrics_count_requests_and_docs_show_the_routes(client: TestClient) -> None:
    client.get("/health")
    assert 'maskloom_requests_total{path="/health",status="200"} 1.0' in client.get("/metrics").text
    assert client.get("/docs").status_code == 200
    assert {"/predict", "/setup", "/health", "/versions", "/webhook"} <= set(client.get("/openapi.json").json()["paths"])


def test_projects_of_two_label_studios_with_one_number_have_their_own_parameters(client: TestClient) -> None:
    for project, host, extra in (("1.17", "http://one.example", {"max_regions": 0}), ("1.18", "http://two.example", None)):
        client.post("/setup", json={"project": project, "hostname": host, "access_token": host, "extra_params": extra})
    counts = []
    for project in ("1.17", "1.18"):
        asked = body(task(data_uri(two_shapes())), project=project)
        (answer,) = client.post("/predict", json=asked).json()["results"]
        counts.append(len(answer["result"]))
    assert counts[0] == 0
    assert counts[1] > 0


def test_a_foreign_setup_is_told_whose_the_project_is(client: TestClient) -> None:
    client.post("/setup", json={"project": "1.17", "hostname": "http://one.example", "access_token": "a"})
    told = client.post("/setup", json={"project": "1.17", "hostname": "http://two.example", "access_token": "b"})
    assert told.status_code == 400
    assert "belongs to the Label Studio at http://one.example" in told.json()["error"]
