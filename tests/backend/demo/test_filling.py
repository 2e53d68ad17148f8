from __future__ import annotations

from pathlib import Path

from backend.demo.filling import ProjectSpec, count_masks
from backend.labelstudio.api import Prediction, Task


def wanted(root: str = "/photos", labels: tuple[str, ...] = ("cat", "cup")) -> ProjectSpec:
    return ProjectSpec("photos", Path(root), [], labels, Path("/state/photos"), "http://127.0.0.1:9090")


def test_another_folder_or_other_labels_make_another_project() -> None:
    assert wanted().key == wanted().key
    assert len({wanted().key, wanted("/more").key, wanted(labels=("cat",)).key, wanted(labels=("cat, cup",)).key}) == 4


def test_a_project_is_served_its_own_folder_only() -> None:
    assert wanted().served.parent == Path("/state/photos")
    assert wanted().served != wanted("/more").served


def test_masks_are_counted_by_label_for_one_model_version_only() -> None:
    cat, cup = ({"value": {"brushlabels": [label]}} for label in ("cat", "cup"))
    text = {"value": {"text": ["a message"]}}
    tasks = [
        Task(1, {}, (Prediction("m-2", 1.0, [cat, cat, text]), Prediction("m-1", 1.0, [cup, cup, cup]))),
        Task(2, {}, (Prediction("m-2", 0.5, [cup]), Prediction("m-2", 0.5, [cup]))),  # Label Studio sometimes stores one twice
        Task(3, {}),
    ]
    assert count_masks(tasks, "m-2") == {"cat": 2, "cup": 1}
