"""The doctor beside a real Label Studio: a connected project, one whose webhook is gone, and a server without weights."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from backend.demo.label_studio import Studio
from backend.doctor.findings import Diagnosis
from backend.doctor.readiness import examine_label_studio
from backend.labelstudio.api import LabelStudio
from backend.values.errors import RemoteError
from backend.values.settings import Settings
from tests.labelstudio.conftest import new_project, running_backend

pytestmark = pytest.mark.studio


def look(studio: Studio, port: int, token: str | None = None) -> dict[str, Diagnosis]:
    settings = Settings(label_studio_url=studio.url, label_studio_token=token or studio.account.token)
    return {each.subject: each for each in examine_label_studio(settings, port)}


def test_a_project_that_is_connected_and_one_that_lost_its_webhook(
    studio: Studio, label_studio: LabelStudio, colour_backend: str
) -> None:
    port = httpx.URL(colour_backend).port
    assert port is not None
    project = new_project(label_studio, ["red"], colour_backend)
    whole = look(studio, port)
    assert {each.level for each in whole.values()} == {"ok"}, whole
    assert whole["Label Studio"].text.startswith("version 1.23")
    assert "legacy token" in whole["token"].text
    for webhook in label_studio.call("GET", "/api/webhooks/", params={"project": project.id}):
        label_studio.call("DELETE", f"/api/webhooks/{webhook['id']}/")
    assert f"add {colour_backend}/webhook" in look(studio, port)[f"project {project.id}"].text
    assert look(studio, port, "f" * 40)["token"].level == "broken"
    assert len(label_studio.backends(project.id)) == 1, "looking attaches nothing"


def test_a_server_whose_engine_cannot_answer_is_not_attached_and_the_page_says_why(
    label_studio: LabelStudio, tmp_path: Path
) -> None:
    project = label_studio.create_project("without weights", "<View/>")
    with running_backend(tmp_path, MASKLOOM_ENGINE="sam2-tiny") as url:
        assert httpx.get(f"{url}/health").json()["status"] == "UP"
        with pytest.raises(RemoteError, match="run_'maskloom_fetch_sam2-tiny'"):
            label_studio.attach_backend(project.id, url, "Maskloom")
    assert label_studio.backends(project.id) == []
