"""Retrieve predictions, through the API of a real Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.demo.label_studio import Studio
from backend.images.sites import open_client
from backend.labelstudio.api import LabelStudio, send
from backend.values.errors import RemoteError
from tests.labelstudio.conftest import new_project, running_backend
from tests.labelstudio.oracle import decode, iou
from tests.labelstudio.pictures import save, save_truncated, three_shapes, upload_files

pytestmark = [pytest.mark.studio, pytest.mark.timeout(1200)]

LABELS = ["red disc", "blue square"]


@pytest.fixture(scope="module")
def token(studio: Studio) -> str:
    """The account's personal access token, of which Label Studio allows one, made as its account page makes it."""
    account = studio.account
    with open_client(studio.url) as session:
        session.follow_redirects = True
        send(session, "GET", "/user/login/")
        form = {"email": account.email, "password": account.password, "csrfmiddlewaretoken": session.cookies["csrftoken"]}
        send(session, "POST", "/user/login/", data=form, headers={"Referer": f"{session.base_url}user/login/"})
        headers = {"X-CSRFToken": session.cookies["csrftoken"], "Referer": str(session.base_url)}
        return str(send(session, "POST", "/api/token/", headers=headers).json()["token"])


@pytest.fixture
def personal(studio: Studio, label_studio: LabelStudio, token: str) -> Iterator[str]:
    """A personal access token, at a time when legacy tokens are refused."""
    label_studio.call("POST", "/api/jwt/settings", json={"api_tokens_enabled": True, "legacy_api_tokens_enabled": False})
    yield token
    with LabelStudio(studio.url, token) as client:
        client.call("POST", "/api/jwt/settings", json={"api_tokens_enabled": True, "legacy_api_tokens_enabled": True})


def test_one_broken_image_costs_no_other_task_its_masks(label_studio: LabelStudio, colour_backend: str, tmp_path: Path) -> None:
    picture = three_shapes()
    good = [save(picture.image, tmp_path / f"good{i}.png") for i in range(3)]
    project = new_project(label_studio, LABELS, colour_backend)
    tasks = upload_files(label_studio, project.id, [good[0], save_truncated(tmp_path / "broken.jpg"), *good[1:]])
    label_studio.retrieve_predictions(project.id, tasks)

    found = {task.id: task for task in label_studio.tasks_with_predictions(project.id)}
    broken = tasks[1]
    assert [len(prediction.result) for prediction in found[broken].predictions] in ([], [0])
    for task in (found[each] for each in tasks if each != broken):
        (prediction,) = task.predictions
        masks = {region["value"]["brushlabels"][0]: decode(region) for region in prediction.result}
        assert sorted(masks) == sorted(LABELS)
        assert all(iou(mask, picture.shapes[label]) > 0.99 for label, mask in masks.items())


def test_uploads_are_read_with_a_personal_access_token_while_legacy_tokens_are_refused(
    studio: Studio, label_studio: LabelStudio, personal: str, tmp_path: Path
) -> None:
    with pytest.raises(RemoteError, match="401"):
        list(label_studio.projects())
    picture = three_shapes()
    settings = {"MASKLOOM_ENGINE": "colour", "MASKLOOM_LABEL_STUDIO_TOKEN": personal}
    with LabelStudio(studio.url, personal) as client, running_backend(tmp_path / "backend", **settings) as backend:
        project = new_project(client, LABELS, backend)
        tasks = upload_files(client, project.id, [save(picture.image, tmp_path / "shapes.png")])
        client.retrieve_predictions(project.id, tasks)
        (task,) = client.tasks_with_predictions(project.id)
        (prediction,) = task.predictions
        assert sorted(region["value"]["brushlabels"][0] for region in prediction.result) == sorted(LABELS)


def test_without_the_token_uploads_cannot_be_read_and_the_task_stays_empty(
    studio: Studio, personal: str, tmp_path: Path
) -> None:
    with LabelStudio(studio.url, personal) as client, running_backend(tmp_path / "b", MASKLOOM_ENGINE="colour") as backend:
        project = new_project(client, LABELS, backend)
        tasks = upload_files(client, project.id, [save(three_shapes().image, tmp_path / "shapes.png")])
        client.retrieve_predictions(project.id, tasks)
        (task,) = client.tasks_with_predictions(project.id)
        assert not any(prediction.result for prediction in task.predictions)
    assert "401" in (tmp_path / "b" / "maskloom.log").read_text()
