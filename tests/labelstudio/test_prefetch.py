"""Which task a real Label Studio says comes next, and that its image is encoded ahead."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.assemble import assemble
from backend.demo.filling import recommended_config
from backend.demo.label_studio import Studio
from backend.labelstudio.api import LabelStudio
from backend.values.settings import Settings
from tests.backend.test_app import body, key_point
from tests.labelstudio.pictures import save, three_shapes, upload_files

pytestmark = [pytest.mark.studio, pytest.mark.timeout(1200)]


def test_the_next_task_without_annotations_is_encoded_and_annotated_ones_are_passed_over(
    studio: Studio, label_studio: LabelStudio, tmp_path: Path
) -> None:
    project = label_studio.create_project("live test", recommended_config(["Ball", "Box"]))
    image = three_shapes().image
    files = [save(image // number, tmp_path / f"{number}.png") for number in (1, 2, 3, 4)]
    first, second, third, _ = upload_files(label_studio, project.id, files)
    label_studio.call("POST", f"/api/tasks/{second}/annotations/", json={"result": []})

    token, home = studio.account.token, tmp_path / "home"
    parts = assemble(Settings(engine="colour", home=home, label_studio_url=studio.url, label_studio_token=token))
    parts.engine.segmenter()._recent_s = (0.1,)
    address = label_studio.task(first).data["image"]
    parts.prefetcher.answered(
        body({"id": first, "data": {"image": address}}, context={"result": [key_point(25, 50)]}, project=str(project.id))
    )
    parts.prefetcher.wait()
    cache = parts.engine.segmenter()._cache
    assert cache.encoded == 1
    parts.engine.segmenter().look_at(
        parts.prefetcher._images.load(label_studio.task(third).data["image"], str(project.id), str(third))
    )
    assert cache.encoded == 1, "task 3 had been encoded, not 2 or 4"
    assert third > second
