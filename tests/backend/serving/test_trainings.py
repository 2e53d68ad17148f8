"""Trainings are processes of their own: what they say is logged, and there is one at a time for a project."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from backend.assemble import Parts
from backend.serving.trainings import Trainings
from backend.values.settings import Settings
from tests.backend.annotator import CONFIG, Annotator, click

ECHO = (sys.executable, "-c", "import sys; print(sys.argv[1], 'is trained with', sys.stdin.read())")


def test_what_a_training_says_is_logged_and_it_gets_the_settings_where_no_list_of_processes_shows_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainings = Trainings("secret settings", ECHO)
    with caplog.at_level(logging.INFO):
        trainings.start("3.17@1")
        trainings.wait()
    assert "training of project 3.17@1: 3.17@1 is trained with secret settings" in caplog.text


def test_a_second_training_of_a_project_is_not_begun_while_one_is_under_way_and_one_that_fails_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waits = "import sys; sys.stdin.read(); sys.exit(3)"
    trainings = Trainings("", (sys.executable, "-c", f"import time; time.sleep(0.5); {waits}"))
    with caplog.at_level(logging.INFO):
        for project in ("a", "a", "b"):
            trainings.start(project)
        trainings.wait()
    assert caplog.text.count("project a is not trained: 1 trainings are under way") == 1
    assert caplog.text.count("ended with exit code 3") == 2
    trainings.start("a")
    trainings.close()
    trainings.wait()


def test_start_training_of_label_studio_trains_a_project_that_is_remembered_by_its_key(
    client: TestClient, parts: Parts, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(parts.webhooks, "_train", started.append)
    annotator = Annotator(client, folder / "a.png", 1)
    annotator.drawn = annotator.ask(click(35, 45))
    annotator.submit()
    for number in (1, 2):
        event = {"action": "START_TRAINING", "project": {"id": number, "label_config": CONFIG}}
        assert client.post("/webhook", json=event).status_code == 201
    parts.webhooks.wait()
    assert started == [parts.projects.key("1")]


def test_the_settings_of_a_server_make_the_same_settings_in_another_process(tmp_path: Path) -> None:
    settings = Settings(engine="colour", home=tmp_path, label_studio_token="secret")  # type: ignore[arg-type]
    again = Settings(**json.loads(settings.as_json()))
    assert again == settings
