"""Which annotation of a task is exported, and how far annotators agree."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.export.gather import AnnotationFilter, Pick, Review, Scope, agreement
from backend.export.lines import FileNames
from backend.export.run import Format
from backend.labelstudio.verdicts import Canaries
from backend.values.masks import Region, RunLengths
from tests.backend.bulk.runs import drawn, same
from tests.backend.export.projects import ProjectDouble, annotation, region
from tests.backend.export.test_run import exported, read_coco
from tests.backend.pictures import square


def box(x: int, label: str = "red", side: int = 10) -> Region:
    return Region(RunLengths.of(square(48, 64, x, 10, side)), 1.0, label)


def test_agreement_is_panoptic_quality() -> None:
    """Boxes of 10 x 10: equal, moved by two (IoU 80 / 120), moved by nine (too little to match), one more, another label."""
    assert agreement([], []) == 1.0
    assert agreement([box(5)], [box(5)]) == 1.0
    assert agreement([box(5)], [box(7)]) == pytest.approx(80 / 120)
    assert agreement([box(5)], [box(14)]) == 0.0
    assert agreement([box(5)], [box(5), box(30)]) == pytest.approx(2 / 3)
    assert agreement([box(5)], [box(5, "blue")]) == 0.0


def three_annotators() -> ProjectDouble:
    """Annotator 1 and 2 draw nearly the same, 3 something else; 1 drew nonsense before."""
    double = ProjectDouble()
    boxes = {1: square(48, 64, 10, 10, 20), 2: square(48, 64, 11, 10, 20), 3: square(48, 64, 14, 10, 20)}
    made = [annotation(1, region("x", "blue", square(48, 64, 0, 0, 5)), by=1, at="2026-10-01T00:00:00Z")]
    days = {1: 10, 2: 11, 3: 12}
    made += [
        annotation(10 + by, region("a", "red", mask), by=by, at=f"2026-11-{days[by]}T00:00:00Z") for by, mask in boxes.items()
    ]
    double.add(1, *made)
    return double


def chosen_of(tmp_path: Path, scope: Scope, double: Any = None) -> np.ndarray | None:
    exported(double or three_annotators(), tmp_path, Format.COCO, scope)
    found = read_coco(tmp_path)
    return found["1.png"][0][1] if found else None


def test_the_newest_counts_or_the_ground_truth(tmp_path: Path) -> None:
    assert same(chosen_of(tmp_path / "a", Scope()), square(48, 64, 14, 10, 20))
    double = three_annotators()
    double.tasks[1]["annotations"][1]["ground_truth"] = True
    assert same(chosen_of(tmp_path / "b", Scope(pick=Pick.GROUND_TRUTH), double), square(48, 64, 10, 10, 20))
    report = exported(three_annotators(), tmp_path / "c", Format.COCO, Scope(pick=Pick.GROUND_TRUTH))
    assert [each.reason for each in report.left_out] == ["no annotation of it counts"]


def test_of_annotators_who_agree_the_one_in_the_middle_counts_and_others_are_left_out(tmp_path: Path) -> None:
    scope = Scope(pick=Pick.AGREED, least_agreement=0.5)
    assert same(chosen_of(tmp_path / "a", scope), square(48, 64, 11, 10, 20))
    report = exported(three_annotators(), tmp_path / "b", Format.COCO, Scope(pick=Pick.AGREED, least_agreement=0.9))
    assert report.exported == 0
    assert "agree by 0.7" in report.left_out[0].reason
    alone = ProjectDouble()
    alone.add(1, annotation(1, region("a", "red", square(48, 64, 1, 1, 9))))
    report = exported(alone, tmp_path / "c", Format.COCO, scope)
    assert "only one annotator" in report.left_out[0].reason


def test_a_damaged_suggestion_that_nobody_has_changed_is_left_out(tmp_path: Path) -> None:
    drawn_again, whole = square(48, 64, 5, 5, 10), square(48, 64, 30, 5, 10)
    regions = [region("mk_0123456789_0", "red", drawn_again), region("mk_0123456789_1", "blue", drawn_again)]
    canaries = Canaries(1.0, np.random.default_rng(0)).among({"result": regions})["result"]
    double = ProjectDouble()
    origins = ("prediction", "prediction-changed")
    kept = [{**each, "origin": origin} for each, origin in zip(canaries, origins, strict=True)]
    double.add(1, annotation(1, *kept, region("mine", "red", whole)))
    report = exported(double, tmp_path, Format.COCO, Scope())
    assert sorted(label for label, _ in read_coco(tmp_path)["1.png"]) == ["blue", "red"]
    assert [(each.region, "damaged on purpose" in each.reason) for each in report.left_out] == [(kept[0]["id"], True)]


def test_a_region_that_lies_on_no_image_is_left_out_with_the_reason(tmp_path: Path) -> None:
    double, lost = ProjectDouble(), region("lost", "red", square(48, 64, 5, 5, 10))
    del lost["original_width"], lost["original_height"]
    double.add(1, annotation(1, lost, region("kept", "blue", square(48, 64, 30, 5, 10))))
    report = exported(double, tmp_path, Format.COCO, Scope())
    assert report.regions == {"blue": 1}
    assert [(each.region, "how large its image is" in each.reason) for each in report.left_out] == [("lost", True)]


@pytest.mark.parametrize(
    ("filters", "x"),
    [
        (AnnotationFilter(until=datetime(2026, 11, 12, tzinfo=UTC)), 11),
        (AnnotationFilter(since=datetime(2026, 11, 12, tzinfo=UTC)), 14),
        (AnnotationFilter(annotators=frozenset({1})), 10),
        (AnnotationFilter(reviews=frozenset({Review.ACCEPTED})), 11),
    ],
)
def test_filters_take_annotations_by_date_annotator_and_review(tmp_path: Path, filters: AnnotationFilter, x: int) -> None:
    double = three_annotators()
    double.tasks[1]["annotations"][2]["reviews"] = [{"id": 1, "accepted": False}, {"id": 2, "accepted": True}]
    assert same(chosen_of(tmp_path, Scope(annotations=filters), double), square(48, 64, x, 10, 20))


def test_skipped_tasks_and_other_labels_and_views_are_left_out(tmp_path: Path) -> None:
    double = ProjectDouble()
    shapes = drawn(1).shapes
    double.add(
        1,
        annotation(1, region("a", "red", shapes["red"]), was_cancelled=True),
        annotation(2, region("b", "red", shapes["red"])),
    )
    double.add(2, annotation(3, region("a", "red", shapes["red"]), region("b", "blue", shapes["blue"])))
    double.add(4, annotation(4, region("a", "red", shapes["red"]), was_cancelled=True))
    report = exported(double, tmp_path / "a", Format.COCO, Scope(labels=frozenset({"blue"})))
    assert report.regions == {"blue": 1}
    assert {(each.task, each.annotation) for each in report.left_out} == {(1, 1), (4, 0)}
    assert exported(double, tmp_path / "b", Format.COCO, Scope(view=2)).tasks == 2


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/data/local-files/?d=a/b%20c/photo%201.JPG", "photo_1.jpg"),
        ("s3://bucket/deep/cat.webp", "cat.webp"),
        ("https://host/picture?id=3", "picture"),
        ("data:image/png;base64,AAAA", "task-7.png"),
        ("/data/upload/3/../../etc/passwd", "passwd"),
    ],
)
def test_a_file_is_named_after_its_address(url: str, name: str) -> None:
    assert FileNames.over([url]).of(url, "7") == name


def test_equal_names_are_told_apart_even_from_names_that_look_so() -> None:
    urls = ["/a/x.png", "/b/x.jpg", "/c/X-1.png", "/d/y.png"]
    names = FileNames.over(urls)
    found = [names.of(url, str(place)) for place, url in enumerate(urls, 1)]
    assert len({Path(name).stem.lower() for name in found}) == 4
    assert found[3] == "y.png"
