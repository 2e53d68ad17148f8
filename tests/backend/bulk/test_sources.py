"""Which images and which tasks a run is about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.bulk.recipe import config_for
from backend.bulk.sources import FolderSource, Selection, StudioSource
from backend.labelstudio.api import ListedTask
from backend.values.errors import SetupError
from tests.backend.bulk.runs import picture_folder

CONFIG = config_for((("red", ()),))


class Studio:
    """Four tasks: none, with an annotation, with a prediction, with both; a view shows the last two."""

    url = "http://studio"

    def list_tasks(self, project: int, view: int | None = None) -> Iterator[ListedTask]:
        assert project == 3
        for number, drawn, predicted in ((1, 0, 0), (2, 1, 0), (3, 0, 1), (4, 1, 1)):
            if view is None or (view == 7 and number > 2):
                yield ListedTask(number, {"image": f"/{number}.png"}, drawn, predicted)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), [1, 2, 3, 4]),
        (Selection(view=7), [3, 4]),
        (Selection(unlabelled=True), [1, 3]),
        (Selection(only_missing=True), [1, 2]),
        (Selection(unlabelled=True, only_missing=True), [1]),
        (Selection(view=7, unlabelled=True), [3]),
        (Selection(tasks=frozenset({2, 3})), [2, 3]),
        (Selection(tasks=frozenset()), []),
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
    assert [item.key for item in FolderSource(tmp_path, CONFIG).items()] == ["a/c/0000.png", "b/0000.PNG"]


def test_a_folder_that_is_not_there_or_has_no_images_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="there are no images in"):
        list(FolderSource(tmp_path, CONFIG).items())
    with pytest.raises(SetupError, match=r"there is no folder .*name a folder of images, or the number of a project"):
        list(FolderSource(tmp_path / "nowhere", CONFIG).items())
