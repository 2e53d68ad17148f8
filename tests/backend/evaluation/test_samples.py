"""What is compared with what: the newest prediction of the version, images by their names, and crowds that count as nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from backend.evaluation.metrics import Assumptions, match, quality
from backend.evaluation.report import compare, eval_page, numbers
from backend.evaluation.samples import Sample, coco_samples, project_samples
from backend.labelstudio.api import ListedTask, StoredPrediction, TaskDetails
from backend.values.errors import RequestError, SetupError
from prompts.geometry import BoolArray
from tests.backend.evaluation.test_review import brush
from tests.backend.pictures import square


def annotation(number: int, mask: BoolArray, category: int = 1, **others: Any) -> dict[str, Any]:
    counts = coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode("ascii")
    return {
        "id": number,
        "image_id": 7,
        "category_id": category,
        "segmentation": {"size": mask.shape, "counts": counts},
    } | others


def coco_file(path: Path, annotations: list[dict[str, Any]], name: str = "a.png") -> Path:
    body = {
        "images": [{"id": 7, "file_name": name, "height": 60, "width": 100}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(body))
    return path


def test_masks_of_every_kind_that_coco_writes_are_read(tmp_path: Path) -> None:
    """A polygon, plain run lengths and compressed ones, of an image that is wider than high."""
    wanted = square(60, 100, 70, 20, 20)
    polygon = annotation(1, wanted) | {"segmentation": [[70, 20, 90, 20, 90, 40, 70, 40]]}
    runs: list[int] = [70 * 60 + 20, *[20, 40] * 19, 20]
    plain = annotation(2, wanted) | {"segmentation": {"size": [60, 100], "counts": [*runs, 6000 - sum(runs)]}}
    truth = coco_file(tmp_path / "truth.json", [polygon, plain, annotation(3, wanted)])
    (sample,) = coco_samples(truth, coco_file(tmp_path / "found.json", []))
    assert len(sample.truth) == 3
    assert all(np.array_equal(region.mask, wanted) for region in sample.truth)


def test_what_is_found_in_a_crowd_is_neither_right_nor_wrong_and_the_crowd_is_not_missed(tmp_path: Path) -> None:
    crowd = annotation(1, square(60, 100, 0, 0, 50), iscrowd=1)
    truth = coco_file(tmp_path / "truth.json", [crowd, annotation(2, square(60, 100, 70, 20, 20))])
    inside, half, other = square(60, 100, 5, 5, 10), square(60, 100, 40, 0, 20), square(60, 100, 70, 20, 20)
    predicted = [
        annotation(1, inside, score=0.9),
        annotation(2, half, score=0.8),
        annotation(3, other, score=0.7),
        annotation(4, inside, category=2, score=0.6),
    ]
    (sample,) = coco_samples(truth, coco_file(tmp_path / "found.json", predicted))
    pairs = match(sample.truth, sample.predicted, sample.crowds)
    assert sorted((pair.label, pair.score) for pair in pairs) == [("cat", 0.7), ("cat", 0.8), ("dog", 0.6)]
    assert quality(pairs) == quality(match(sample.truth, sample.predicted[1:]))


def test_files_about_other_images_are_refused_with_the_names_that_differ(tmp_path: Path) -> None:
    truth = coco_file(tmp_path / "truth.json", [], "photos/a.png")
    with pytest.raises(RequestError, match=r"same file_name in both, not 'photos/a.png' here and 'a.png' there"):
        list(coco_samples(truth, coco_file(tmp_path / "found.json", [])))
    (tmp_path / "broken.json").write_text('{"images": []}')
    with pytest.raises(RequestError, match=r"broken.json is no COCO file of instances"):
        list(coco_samples(truth, tmp_path / "broken.json"))


GOOD = [5, 5, 30, 5, 30, 25, 5, 25]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"segmentation": None}, "without a mask"),
        ({"segmentation": []}, "without a mask"),
        ({"segmentation": [[]]}, "without a mask"),
        ({"segmentation": [[1, 1, 5, 5]]}, "without a mask"),
        ({"segmentation": "rle"}, "cannot be read"),
        ({"segmentation": {"size": [60, 100], "counts": [0, 10]}}, "cannot be read"),
        ({"segmentation": {"size": [60, 100], "counts": "0:"}}, "cannot be read"),
        ({"segmentation": [[900, 900, 950, 900, 950, 950]]}, "is empty"),
        ({"segmentation": {"size": [60, 100], "counts": ["a"]}}, "cannot be read"),
        ({"segmentation": {"size": [2, 2], "counts": [2, 2]}}, "another size"),
        ({"segmentation": {"size": [2, 2], "counts": "04"}}, "another size"),
        ({"category_id": 9}, "a category that is not listed"),
        ({"image_id": 9}, "an image that is not listed"),
        ({"image_id": [1]}, "an image that is not listed"),
        ({"score": "high"}, "score is no number"),
    ],
)
def test_one_row_that_cannot_be_used_is_left_out_and_told_and_costs_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, Any], reason: str
) -> None:
    good = {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [GOOD]}
    truth = coco_file(tmp_path / "truth.json", [{**good, "id": 2, **change}, good])
    (sample,) = coco_samples(truth, coco_file(tmp_path / "found.json", [good]))
    (pair,) = [pair for pair in match(sample.truth, sample.predicted) if pair.is_match]
    assert pair.iou == 1
    assert len(sample.truth) == 1
    assert reason in caplog.text


def test_a_row_is_read_without_an_id_and_with_one_ring_of_two_points_among_others(tmp_path: Path) -> None:
    row = {"image_id": 7, "category_id": 1, "segmentation": [[1, 1, 5, 5], GOOD]}
    truth = coco_file(tmp_path / "truth.json", [row])
    (sample,) = coco_samples(truth, coco_file(tmp_path / "found.json", [{**row, "segmentation": [GOOD]}]))
    assert np.array_equal(sample.truth[0].mask, sample.predicted[0].mask)


@dataclass
class Project:
    """A Label Studio with tasks that have annotations and predictions."""

    details: dict[int, TaskDetails]
    url: str = "http://studio"
    asked: list[int] = field(default_factory=list)

    def list_tasks(self, _project: int) -> Iterator[ListedTask]:
        for task in self.details.values():
            yield ListedTask(task.id, task.data, len(task.annotations), len(task.predictions))

    def task(self, number: int) -> TaskDetails:
        self.asked.append(number)
        return self.details[number]


def details(number: int, truth: list[Any], *predictions: tuple[int, str, list[Any]]) -> TaskDetails:
    stored = tuple(StoredPrediction(id, version, 0.5, result) for id, version, result in predictions)
    annotations = ({"id": 1, "result": truth}, {"id": 2, "result": [], "was_cancelled": True})
    return TaskDetails(number, {"image": f"/{number}.png"}, annotations, stored)


def samples(*tasks: TaskDetails, version: str | None = None) -> list[Sample]:
    return list(project_samples(Project({task.id: task for task in tasks}), 3, "image", version))  # type: ignore[arg-type]


def test_the_newest_prediction_of_the_version_is_judged_against_the_last_annotation_that_stands() -> None:
    old, new, other = brush("a", "cat", 0.1), brush("b", "cat", 0.2), brush("c", "cat", 0.3)
    (sample,) = samples(details(4, [other], (1, "v1", [old]), (2, "v1", [new]), (3, "v2", [other])), version="v1")
    assert [region.id for region in sample.predicted] == ["b"]
    assert [region.id for region in sample.truth] == ["c"]
    assert (sample.link, sample.image) == ("http://studio/projects/3/data?task=4", "/4.png")


def test_a_task_that_cannot_be_read_costs_that_task_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    broken = {**brush("a", "cat", 0.5), "original_width": 0}
    with caplog.at_level(logging.WARNING):
        found = samples(details(4, [broken], (1, "v1", [])), details(5, [], (2, "v1", [])))
    assert [sample.key for sample in found] == ["5"]
    assert "task 4 is left out: expected a region on an image of at least 1 x 1 pixel" in caplog.text


def test_a_version_that_nobody_has_is_told() -> None:
    with pytest.raises(RequestError, match="no annotated task of project 3 has a prediction of 'v9'"):
        samples(details(4, [], (1, "v1", [])), version="v9")


def unreadable(_sample: Sample) -> Any:
    raise SetupError("no image today")


def test_the_numbers_are_those_of_all_regions_and_the_mean_of_the_labels() -> None:
    """Three cats of three and no dog of one: PQ 1 and 0, of all regions 3 / (3 + 0.5 + 0.5)."""
    cats = [brush(f"cat {side}", "cat", 0.9, side) for side in (10, 20, 40)]
    (sample,) = samples(details(4, [*cats, brush("d", "dog", 1.0, 10)], (1, "v1", [*cats, brush("e", "dog", 0.9, 50)])))
    found = compare([sample], unreadable, None)
    measured = numbers(found, Assumptions())
    assert measured["all"]["pq"] == pytest.approx(3 / 4)
    assert measured["mean_of_labels"]["pq"] == pytest.approx(0.5)
    assert measured["labels"]["dog"]["recall"] == 0
    assert measured["min_score"] == "cat=0"
    assert measured["unread"] == ["4: no image today"]
    page = eval_page(found, "An evaluation", Assumptions())
    assert "mean of labels" in page
    assert "no image today" in page
