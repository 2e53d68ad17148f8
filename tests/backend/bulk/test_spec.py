"""How what is typed becomes what is asked, and which images and tasks a run is about."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from backend.bulk.spec import FolderSource, Selection, StudioSource, read_min_scores
from backend.labelstudio.api import ListedTask
from backend.labelstudio.project_options import ANY_LABEL
from backend.values.errors import SetupError
from tests.backend.bulk.runs import picture_folder


def test_least_scores_are_those_of_their_labels() -> None:
    assert read_min_scores("0.3, cat=0.6,a=b=1") == {ANY_LABEL: 0.3, "cat": 0.6, "a=b": 1.0}
    assert read_min_scores("") == {}


class Studio:
    """Four tasks: none, with an annotation, with a prediction, with both; a view shows the last two."""

    url = "http://studio"

    def list_tasks(self, project: int, view: int | None = None) -> Iterator[ListedTask]:
        assert project == 3
        for number, drawn, predicted in ((1, 0, 0), (2, 1, 0), (3, 0, 1), (4, 1, 1)):
            if view is None or (view == 7 and number > 2):
                yield ListedTask(number, {"image": f"/{number}.png"}, drawn, predicted)

    def find_tasks(self, project: int, tasks: Sequence[int], model_version: str = "") -> Iterator[ListedTask]:
        """Those with predictions are of v1.2 (task 3) and of v1 (task 4)."""
        yield from (task for task in self.list_tasks(project) if task.id in tasks and (not model_version or task.predictions))

    def tasks_without_regions(self, project: int) -> Iterator[int]:
        """The prediction of task 4 shows nothing."""
        assert project == 3
        yield 4

    def prediction_ids(self, task: int, model_version: str) -> list[int]:
        assert model_version == "v1"
        return {3: [], 4: [77]}[task]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), [1, 2, 3, 4]),
        (Selection(view=7), [3, 4]),
        (Selection(unlabelled=True), [1, 3]),
        (Selection(only_missing=True), [1, 2, 4]),
        (Selection(unlabelled=True, only_missing=True), [1]),
        (Selection(view=7, unlabelled=True), [3]),
        (Selection(tasks=frozenset({2, 3})), [2, 3]),
        (Selection(tasks=frozenset()), []),
        (Selection(tasks=frozenset({1, 3, 4}), unanswered_by="v1"), [1, 3]),
    ],
)
def test_a_selection_takes_the_tasks_that_it_names(selection: Selection, expected: list[int]) -> None:
    items = list(StudioSource(Studio(), 3, selection).items())  # type: ignore[arg-type]
    assert [item.task["id"] for item in items] == expected
    assert all(item.answered == (item.task["id"] > 2) for item in items)
    assert all(item.link == f"http://studio/projects/3/data?task={item.key}" for item in items)


def test_a_folder_is_read_with_what_is_below_it_and_without_what_is_hidden(tmp_path: Path) -> None:
    for name in ("b", "a/c", ".trash", "a/.thumbnails"):
        picture_folder(tmp_path / name, 1)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "b" / "0000.png").rename(tmp_path / "b" / "0000.PNG")
    (tmp_path / ".hidden.png").write_bytes(b"")
    assert [item.key for item in FolderSource(tmp_path).items()] == ["a/c/0000.png", "b/0000.PNG"]


def test_every_format_that_the_server_reads_is_an_image_of_a_folder_and_other_files_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.avif", "b.jfif", "c.jp2", "d.ppm", "e.HEIC", "f.heic", "notes"):
        (tmp_path / name).write_bytes(b"")
    assert [item.key for item in FolderSource(tmp_path).items()] == ["a.avif", "b.jfif", "c.jp2", "d.ppm"]
    assert "3 files" in caplog.text
    assert "2 .heic, 1 notes" in caplog.text


def test_a_folder_that_is_not_there_or_has_no_images_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="there are no images and no films in"):
        list(FolderSource(tmp_path).items())
    with pytest.raises(SetupError, match=r"there is no folder .*name a folder of images, or the number of a project"):
        list(FolderSource(tmp_path / "nowhere").items())


def test_a_file_whose_name_cannot_be_stored_costs_itself_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert [item.key for item in FolderSource(tmp_path).items()] == ["a.png"]
    assert "1 with a name that is no UTF-8" in caplog.text
