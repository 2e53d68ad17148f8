"""Images out of a real Label Studio: uploads, its local files, and what it says when it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backend.demo.filling import recommended_config
from backend.demo.label_studio import Studio
from backend.images import Media
from backend.images.limits import MediaOptions
from backend.labelstudio.api import LabelStudio
from backend.values.errors import ImageError, RemoteError
from tests.labelstudio.pictures import save, three_shapes, upload_files

pytestmark = [pytest.mark.studio, pytest.mark.timeout(1200)]


@pytest.fixture
def media(studio: Studio, tmp_path: Path) -> Iterator[Media]:
    """Media that knows this Label Studio by /setup alone, on a machine that shares no folder with it."""
    made = Media(MediaOptions(cache_dir=tmp_path / "cache"))
    made.register("1", studio.url, studio.account.token)
    yield made
    made.close()


@pytest.fixture
def upload(label_studio: LabelStudio, tmp_path: Path) -> str:
    """The address that Label Studio gave to an uploaded image."""
    project = label_studio.create_project("images", recommended_config(["red disc"]))
    upload_files(label_studio, project.id, [save(three_shapes().image, tmp_path / "shapes ü.png")])
    (task,) = label_studio.tasks(project.id)
    return str(task.data["image"])


def test_an_upload_is_the_image_that_was_uploaded(media: Media, upload: str, studio: Studio) -> None:
    for address in (upload, studio.url + upload):
        assert np.array_equal(media.load(address, "1", "7").pixels, three_shapes().image)


def test_a_local_file_comes_through_label_studio(media: Media, studio: Studio, label_studio: LabelStudio) -> None:
    folder = studio.folder.photos / "some folder"
    folder.mkdir(exist_ok=True)
    save(three_shapes().image, folder / "a ü.png")
    project = label_studio.create_project("local files", recommended_config(["red disc"]))
    label_studio.serve_folder(project.id, folder)
    for address in (
        "/data/local-files/?d=some folder/a ü.png",
        f"{studio.url}/data/local-files/?d=some%20folder/a%20%C3%BC.png",
    ):
        assert np.array_equal(media.load(address, "1", "7").pixels, three_shapes().image)


def test_what_label_studio_does_not_have_is_an_image_error(media: Media) -> None:
    for address in ("/data/local-files/?d=none.png", "s3://bucket/none.png", "/none.png"):
        with pytest.raises(ImageError, match="has no such file"):
            media.load(address, "1", "1")


def test_an_upload_that_was_deleted_is_told_from_a_broken_server(media: Media) -> None:
    """Label Studio 1.23.2 fails with 500 on it instead of saying 404."""
    with pytest.raises(RemoteError, match="answered 500, as it also does for an upload that was deleted"):
        media.load("/data/upload/1/00000000-none.png", "1", "1")


def test_a_wrong_token_is_explained(studio: Studio, upload: str, tmp_path: Path) -> None:
    for token in (None, "0" * 40):
        media = Media(MediaOptions(cache_dir=tmp_path / "other cache", label_studio_url=studio.url, token=token))
        with pytest.raises(RemoteError, match="MASKLOOM_LABEL_STUDIO_TOKEN to a personal access token") as told:
            media.load(upload, "1", "7")
        assert told.value.status in (401, 403)
        media.close()
