"""Jobs over HTTP, with a Label Studio over real HTTP behind them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from backend.app import create_app
from backend.assemble import assemble
from backend.bulk import jobs as jobs_module
from backend.bulk import run as run_module
from backend.bulk.jobs import ENDED_JOBS_KEPT, Job
from backend.bulk.spec import JobSpec, Selection
from backend.serving import service
from backend.values.errors import RequestError
from backend.values.settings import Settings
from tests.backend.bulk.studio_double import CONFIG, TOKEN, StudioDouble, running
from tests.backend.test_engine_switch import OTHER


@pytest.fixture
def double() -> Iterator[StudioDouble]:
    with running(StudioDouble().with_tasks(12)) as started:
        yield started


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "SETTLING_S", 0.0)


def settings_for(double: StudioDouble, home: Path, **others: Any) -> Settings:
    return Settings(engine="colour", home=home, label_studio_url=double.url, label_studio_token=SecretStr(TOKEN), **others)


@pytest.fixture
def client(double: StudioDouble, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(assemble(settings_for(double, tmp_path)))) as client:
        yield client


def ended(client: TestClient, job: str) -> dict[str, Any]:
    until = time.monotonic() + 240
    while time.monotonic() < until:
        stand: dict[str, Any] = client.get(f"/jobs/{job}").json()
        if stand["state"] not in ("queued", "running"):
            return stand
        time.sleep(0.1)
    raise AssertionError(f"job {job} did not end")


def test_a_job_predicts_a_project_and_says_how_it_stands(client: TestClient, double: StudioDouble) -> None:
    started = client.post("/jobs", json={"project": 1})
    assert started.status_code == 202
    stand = ended(client, started.json()["id"])
    assert (stand["state"], stand["total"], stand["done"], stand["failed"]) == ("finished", 12, 12, 0)
    assert set(double.per_task().values()) == {1}
    assert [job["id"] for job in client.get("/jobs").json()] == [stand["id"]]
    assert "Regions by label" in client.get(f"/jobs/{stand['id']}/report").text


def test_a_job_for_some_tasks_leaves_the_others_alone(client: TestClient, double: StudioDouble) -> None:
    ended(client, client.post("/jobs", json={"project": 1, "tasks": [2, 5]}).json()["id"])
    assert [task for task, count in double.per_task().items() if count] == [2, 5]


def test_a_job_may_have_a_limit_and_may_do_anew_what_is_done(client: TestClient, double: StudioDouble) -> None:
    stand = ended(client, client.post("/jobs", json={"project": 1, "limit": 5}).json()["id"])
    assert (stand["state"], len(double.predictions)) == ("finished", 5)
    before = {each["id"] for each in double.predictions}
    assert ended(client, client.post("/jobs", json={"project": 1, "force": True}).json()["id"])["done"] == 12
    assert set(double.per_task().values()) == {1}
    assert not before & {each["id"] for each in double.predictions}


@pytest.mark.slow
def test_a_cancelled_job_ends_and_the_same_order_does_the_rest(client: TestClient, double: StudioDouble) -> None:
    double.with_tasks(100).gate.clear()
    job = client.post("/jobs", json={"project": 1}).json()["id"]
    double.wait_for_an_import()
    client.delete(f"/jobs/{job}")
    double.gate.set()
    assert ended(client, job)["state"] == "cancelled"
    assert 0 < len(double.predictions) < 100
    assert ended(client, client.post("/jobs", json={"project": 1}).json()["id"])["state"] == "finished"
    assert set(double.per_task().values()) == {1}


def test_a_job_that_is_cancelled_before_its_turn_never_begins(client: TestClient, double: StudioDouble) -> None:
    double.gate.clear()
    first = client.post("/jobs", json={"project": 1, "tasks": [2]}).json()["id"]
    second = client.post("/jobs", json={"project": 1}).json()["id"]
    double.wait_for_an_import()
    assert client.delete(f"/jobs/{second}").json()["state"] == "cancelled"
    double.gate.set()
    assert [ended(client, job)["state"] for job in (first, second)] == ["finished", "cancelled"]
    assert "has not begun yet" in client.get(f"/jobs/{second}/report").json()["error"]
    assert [each["task"] for each in double.predictions] == [2]


@pytest.mark.slow
def test_a_job_keeps_its_engine_when_the_server_switches_and_the_next_one_has_the_new(
    double: StudioDouble, tmp_path: Path
) -> None:
    parts = assemble(settings_for(double, tmp_path))
    double.with_tasks(60).gate.clear()
    with TestClient(create_app(parts)) as client:
        first = client.post("/jobs", json={"project": 1}).json()["id"]
        second = client.post("/jobs", json={"project": 1}).json()["id"]
        double.wait_for_an_import()
        parts.engine.switch(OTHER)
        assert double.predictions == []
        double.gate.set()
        assert [ended(client, job)["state"] for job in (first, second)] == ["finished", "finished"]
    assert Counter((each["task"], each["model_version"]) for each in double.predictions) == {
        (task, version): 1 for task in double.tasks for version in ("colour-1", "other-1")
    }


def test_what_a_request_answered_before_a_switch_is_not_sold_as_the_new_engine_s(double: StudioDouble, tmp_path: Path) -> None:
    parts = assemble(settings_for(double, tmp_path))
    old = {"result": [{"old": True}], "score": 1.0, "model_version": "colour-1"}
    parts.engine.switch(OTHER)
    assert parts.jobs.hand_over("1", ["3", "4"], {"3": old})
    with TestClient(create_app(parts)) as client:
        assert ended(client, client.get("/jobs").json()[0]["id"])["state"] == "finished"
    stored = sorted((each["task"], each["model_version"]) for each in double.predictions)
    assert stored == [(3, "other-1"), (4, "other-1")]
    assert all({"old": True} not in each["result"] for each in double.predictions)


def test_a_job_honours_the_extra_parameters_of_the_project_or_its_own(client: TestClient, double: StudioDouble) -> None:
    double.backends = [{"id": 1, "url": "http://127.0.0.1:9090", "state": "CO", "extra_params": '{"max_regions": 1}'}]
    ended(client, client.post("/jobs", json={"project": 1}).json()["id"])
    assert {len(each["result"]) for each in double.predictions} == {1}
    ended(client, client.post("/jobs", json={"project": 1, "params": {"thresholds": {"red": 1}}}).json()["id"])
    assert {len(each["result"]) for each in double.predictions} == {2}
    assert set(double.per_task().values()) == {1}


def test_what_cannot_be_ordered_is_refused_at_once(client: TestClient, double: StudioDouble) -> None:
    assert "has no label cat" in client.post("/jobs", json={"project": 1, "labels": "cat"}).json()["error"]
    assert client.get("/jobs/nothing").status_code == 404
    double.config = "<View/>"
    assert "no <Image> tag" in client.post("/jobs", json={"project": 1}).json()["error"]


def test_no_limit_is_too_large(client: TestClient, double: StudioDouble) -> None:
    job = client.post("/jobs", json={"project": 1, "limit": 10**19}).json()
    assert ended(client, job["id"])["done"] == 12


def test_without_a_token_jobs_say_what_to_set(tmp_path: Path) -> None:
    with TestClient(create_app(assemble(Settings(engine="colour", home=tmp_path)))) as client:
        response = client.post("/jobs", json={"project": 1})
        assert response.status_code == 503
        assert "MASKLOOM_LABEL_STUDIO_TOKEN" in response.json()["error"]


def test_a_selection_past_its_deadline_goes_to_a_job_as_a_whole(
    double: StudioDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Label Studio stores nothing of an empty answer to several tasks; the job writes every prediction, each once."""
    monkeypatch.setattr(service, "DEADLINE_S", 1e-9)
    settings = settings_for(double, tmp_path)
    tasks = [{"id": task, "data": data} for task, data in double.tasks.items()]
    body = {"tasks": tasks, "project": "1.1795211212", "label_config": CONFIG, "params": {"context": None}}
    with TestClient(create_app(assemble(settings))) as client:
        assert client.post("/predict", json=body).json() == {"results": []}
        (job,) = client.get("/jobs").json()
        stand = ended(client, job["id"])
        stored = [each["id"] for each in double.predictions]
        assert client.post("/predict", json=body).json() == {"results": []}
        assert ended(client, client.get("/jobs").json()[0]["id"])["state"] == "finished"
        report = client.get(f"/jobs/{job['id']}/report").text
    assert (stand["done"], stand["regions"]) == (12, 24), "those count too that the request has answered"
    assert [each["id"] for each in double.predictions] == stored, "asked for twice at the same time, it is answered once"
    assert "nothing found" not in report
    assert 'base64,"' not in report, "a picture without content"
    assert set(double.per_task().values()) == {1}
    assert all(len(prediction["result"]) == 2 for prediction in double.predictions)


def test_a_selection_that_goes_to_a_job_keeps_the_extra_parameters_of_the_setup(
    double: StudioDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "DEADLINE_S", 1e-9)
    tasks = [{"id": task, "data": data} for task, data in double.tasks.items()]
    body = {"tasks": tasks, "project": "1.1795211212", "label_config": CONFIG, "params": {"context": None}}
    with TestClient(create_app(assemble(settings_for(double, tmp_path)))) as client:
        client.post("/setup", json={"project": "1.1795211212", "schema": CONFIG, "extra_params": {"max_regions": 1}})
        assert client.post("/predict", json=body).json() == {"results": []}
        assert ended(client, client.get("/jobs").json()[0]["id"])["done"] == 12
    assert [len(prediction["result"]) for prediction in double.predictions] == [1] * 12


def test_a_selection_of_a_large_project_is_handed_over_without_listing_the_project(
    double: StudioDouble, tmp_path: Path
) -> None:
    """Label Studio asks for 10,000 tasks in batches of 100: each lists its own tasks, and asks about none by itself."""
    double.with_tasks(1_200)
    jobs = assemble(settings_for(double, tmp_path)).jobs
    chosen = [str(task) for task in range(900, 920)]
    double.predictions = [{"id": 1, "task": 905, "model_version": "colour-1-older", "score": 0.5, "result": []}]
    assert jobs.hand_over("1", chosen, {})
    (job,) = jobs.all()
    wait_for_the_end(job)
    assert (job.state, job.progress.total, job.progress.done) == ("finished", 20, 20)
    assert double.asked["/api/tasks"] == 2, "those that were chosen, and those of them that may be answered"
    assert double.asked["/api/predictions/"] <= 3, "about task 905 alone: whether it is, and what its new prediction replaces"
    jobs.close()


def wait_for_the_end(job: Job) -> None:
    until = time.monotonic() + 240
    while not job.has_ended:
        assert time.monotonic() < until, f"job {job.id} did not end"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_running_job_is_known_and_can_be_stopped_however_many_come_after_it(double: StudioDouble, tmp_path: Path) -> None:
    jobs = assemble(settings_for(double.with_tasks(100), tmp_path)).jobs
    double.gate.clear()
    first = jobs.start(JobSpec("1"))
    double.wait_for_an_import()
    others = [jobs.start(JobSpec("1", selection=Selection(tasks=frozenset({1})))) for _ in range(ENDED_JOBS_KEPT + 5)]
    assert jobs.get(first.id) is first
    for each in others:
        jobs.cancel(each.id)
    last = jobs.start(JobSpec("1", selection=Selection(tasks=frozenset({1}))))
    assert jobs.get(first.id) is first
    assert len(jobs.all()) == ENDED_JOBS_KEPT + 2, "of those that have ended, only the newest are kept"
    closing = threading.Thread(target=jobs.close)
    closing.start()
    assert first.stop.wait(30), "whoever closes tells the running job to stop"
    double.gate.set()
    closing.join(60)
    assert not closing.is_alive()
    assert first.state == "cancelled"
    assert last.stop.is_set()
    assert len(double.predictions) < 100


def test_jobs_that_wait_have_a_bound(double: StudioDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "MOST_WAITING", 2)
    jobs = assemble(settings_for(double, tmp_path)).jobs
    double.gate.clear()
    for _ in range(2):
        jobs.start(JobSpec("1"))
    with pytest.raises(RequestError, match="2 jobs are waiting already"):
        jobs.start(JobSpec("1"))
    assert not jobs.hand_over("1", ["1"], {})
    double.gate.set()
    jobs.close()
