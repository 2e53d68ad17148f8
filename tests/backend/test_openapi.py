"""The interface as it describes itself: whatever fits the description is answered as described, in whatever order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from pydantic import SecretStr

from backend.app import create_app
from backend.assemble import assemble
from backend.bulk import run as run_module
from backend.values.settings import Settings
from tests.backend.bulk.studio_double import TOKEN, StudioDouble, running

schemathesis = pytest.importorskip("schemathesis")
CHECKS = ("status_code_conformance", "content_type_conformance", "response_schema_conformance", "unsupported_method")
QUICKLY = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def settings_of(home: Path, double: StudioDouble) -> Settings:
    return Settings(engine="colour", home=home, label_studio_url=double.url, label_studio_token=SecretStr(TOKEN))


@pytest.fixture(scope="module")
def double() -> Iterator[StudioDouble]:
    with running(StudioDouble().with_tasks(3)) as started:
        yield started


def test_what_fits_the_description_is_answered_as_described(tmp_path: Path, double: StudioDouble) -> None:
    """Every operation with bodies and parameters of its schema; no answer is one that the description lacks, none is a 500."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(assemble(settings_of(tmp_path, double))))
    wanted = [check for check in schemathesis.checks.CHECKS.get_all() if check.__name__ in CHECKS]
    for operation in (found.ok() for found in schema.get_all_operations()):

        @QUICKLY
        @given(case=operation.as_strategy())
        def answered(case: Any) -> None:
            response = case.call()
            assert response.status_code != 500
            case.validate_response(response, checks=wanted)

        answered()


class Administration(RuleBasedStateMachine):
    """Jobs are started, watched and cancelled and engines switched, in any order; ``double`` is set by the test."""

    double: StudioDouble
    home: Callable[[], Path]
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.client = TestClient(create_app(assemble(settings_of(type(self).home(), self.double))))
        self.client.__enter__()
        self.known: dict[str, str] = {}
        self.engine = "colour-1"

    def teardown(self) -> None:
        self.client.__exit__(None, None, None)

    @rule(target=jobs, tasks=st.none() | st.lists(st.integers(-1, 5), max_size=3), limit=st.none() | st.integers(1, 10**20))
    def start(self, tasks: list[int] | None, limit: int | None) -> str:
        answer = self.client.post("/jobs", json={"project": 1, "tasks": tasks, "limit": limit})
        assert answer.status_code == 202, answer.text
        self.known[answer.json()["id"]] = "queued"
        return str(answer.json()["id"])

    @rule(job=jobs)
    def watch(self, job: str) -> None:
        stand = self.client.get(f"/jobs/{job}").json()
        assert stand["state"] in ("queued", "running", "finished", "cancelled", "failed")
        assert stand["state"] != "failed", stand["note"]
        assert 0 <= stand["done"] <= max(stand["total"], stand["done"]) <= 3

    @rule(job=consumes(jobs))
    def cancel(self, job: str) -> None:
        assert self.client.delete(f"/jobs/{job}").status_code == 200
        until = time.monotonic() + 30
        while self.client.get(f"/jobs/{job}").json()["state"] in ("queued", "running"):
            assert time.monotonic() < until
            time.sleep(0.02)

    @rule(job=st.from_regex("[a-z0-9 _-]{1,14}", fullmatch=True))
    def ask_for_nothing(self, job: str) -> None:
        for ask in (self.client.get, self.client.delete):
            assert ask(f"/jobs/{job} {job}").status_code == 404

    @rule(name=st.sampled_from(["colour", "nothing", "edgetam-cpu", ""]))
    def switch(self, name: str) -> None:
        answer = self.client.post("/engine", json={"engine": name})
        assert answer.status_code == {"colour": 200, "edgetam-cpu": 503}.get(name, 404)

    @invariant()
    def every_job_is_listed_and_the_engine_is_told(self) -> None:
        listed = [each["id"] for each in self.client.get("/jobs").json()]
        assert listed == list(reversed(self.known))
        assert self.client.get("/versions").json() == {"versions": [self.engine]}


def test_jobs_and_engines_stand_any_order(tmp_path: Path, double: StudioDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "SETTLING_S", 0.0)
    numbers = iter(range(10**6))
    monkeypatch.setattr(Administration, "double", double, raising=False)
    monkeypatch.setattr(Administration, "home", lambda: tmp_path / str(next(numbers)), raising=False)
    case = Administration.TestCase()
    case.settings = settings(QUICKLY, stateful_step_count=12)
    case.runTest()
