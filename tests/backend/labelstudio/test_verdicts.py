"""Submitted regions are told apart by what was suggested: accepted, corrected, missed, rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from backend.labelstudio.events import Accepted, read_event
from backend.labelstudio.verdicts import Compared, compare
from backend.values.masks import RunLengths
from backend.values.session import Example, Verdict
from tests.backend.labelstudio.test_events import event
from tests.backend.pictures import disc, square

DISC, MOVED, SQUARE, SMALL = (
    RunLengths.of(mask)
    for mask in (disc(80, 120, 30, 40, 18), disc(80, 120, 33, 40, 18), square(80, 120, 75, 25, 30), disc(80, 120, 30, 40, 5))
)
CAT = Example("1", "7", "70", "mk_a", "/a.png", "Cat", DISC)
DOG = replace(CAT, region="mk_b", label="Dog", runs=SQUARE)
SUGGESTED = [replace(each, engine="engine-1") for each in (CAT, DOG)]


def told(found: Compared | Sequence[Example]) -> list[tuple[str, str | None, str]]:
    examples = found.examples if isinstance(found, Compared) else found
    return [(each.region, each.label, str(each.verdict)) for each in examples]


def test_what_is_submitted_as_it_was_suggested_is_accepted_and_names_the_engine() -> None:
    found = compare([CAT, DOG], SUGGESTED).examples
    assert told(found) == [("mk_a", "Cat", "accepted"), ("mk_b", "Dog", "accepted")]
    assert [(each.engine, each.iou) for each in found] == [("engine-1", 1.0)] * 2


def test_another_shape_under_the_same_id_is_a_correction_with_what_was_left_of_it() -> None:
    (found, _) = compare([replace(CAT, runs=MOVED), DOG], SUGGESTED).examples
    truth = (disc(80, 120, 30, 40, 18) & disc(80, 120, 33, 40, 18)).sum() / (
        disc(80, 120, 30, 40, 18) | disc(80, 120, 33, 40, 18)
    ).sum()
    assert found.verdict is Verdict.CORRECTED
    assert found.iou is not None
    assert abs(found.iou - truth) < 1e-9


def test_another_label_rejects_the_suggested_one_and_corrects_to_the_new_one() -> None:
    found = compare([replace(CAT, label="Dog"), DOG], SUGGESTED)
    assert told(found) == [("mk_a", "Dog", "corrected"), ("mk_b", "Dog", "accepted"), ("mk_a", "Cat", "rejected")]


def test_a_suggestion_that_is_gone_was_rejected_and_a_thing_that_is_new_was_missed() -> None:
    new = replace(CAT, region="drawn", runs=SMALL)
    assert told(compare([DOG, new], SUGGESTED)) == [
        ("mk_b", "Dog", "accepted"),
        ("drawn", "Cat", "missed"),
        ("mk_a", "Cat", "rejected"),
    ]


def test_an_annotation_from_which_everything_was_deleted_rejects_everything() -> None:
    assert told(compare([], SUGGESTED, was_derived=True)) == [("mk_a", "Cat", "rejected"), ("mk_b", "Dog", "rejected")]


def test_an_annotation_that_has_nothing_of_the_suggestions_says_nothing_against_them() -> None:
    """Somebody may have drawn it without having seen any; only what it shows is known to be missed."""
    assert told(compare([replace(CAT, region="x", runs=SMALL)], SUGGESTED)) == [("x", "Cat", "missed")]


def test_a_shape_under_another_id_belongs_to_the_suggestion_that_it_covers() -> None:
    """Annotations that are written by other programs bring ids of their own."""
    assert told(compare([replace(CAT, region="x"), replace(DOG, region="y", runs=SQUARE)], SUGGESTED)) == [
        ("x", "Cat", "accepted"),
        ("y", "Dog", "accepted"),
    ]


def test_where_nothing_is_known_to_have_been_suggested_a_region_was_drawn() -> None:
    assert told(compare([CAT], None)) == [("mk_a", "Cat", "drawn")]
    assert told(compare([CAT], [])) == [("mk_a", "Cat", "missed")]


def test_shapes_on_other_images_and_of_other_sizes_are_others() -> None:
    elsewhere = replace(CAT, region="x", image_url="/b.png")
    larger = replace(CAT, region="y", runs=RunLengths.of(np.ones((90, 120), np.bool_)))
    assert [str(each.verdict) for each in compare([elsewhere, larger], SUGGESTED).examples] == ["missed", "missed"]


def test_an_event_brings_the_prediction_that_was_viewed_who_submitted_when_and_how_long_it_took() -> None:
    body = event("annotation_created")
    result = body["annotation"]["result"]
    lost = {**result[0], "id": "mk_lost", "value": {**result[0]["value"], "x": 60}}
    body["annotation"]["prediction"] = {"id": 5, "model_version": "engine-1", "result": [*result, lost]}
    (found,) = read_event(body)
    assert isinstance(found, Accepted)
    assert found.suggested is not None
    assert told(compare(found.examples, found.suggested, found.was_derived)) == [
        ("r1", "Cat", "accepted"),
        ("mk_lost", "Cat", "rejected"),
    ]
    submission = found.submission
    assert (submission.annotator, submission.seconds, round(submission.made_at)) == ("1", 3.2, 1795211315)


def test_a_prediction_that_is_not_the_one_it_was_made_from_is_not_compared_with() -> None:
    """The page's own word on each region is taken then."""
    body = event("annotation_created")
    body["annotation"] |= {"prediction": {"id": 5, "model_version": "e", "result": []}, "parent_prediction": 4}
    body["annotation"]["result"][0]["origin"] = "prediction-changed"
    (found,) = read_event(body)
    assert isinstance(found, Accepted)
    assert found.suggested is None
    assert [each.verdict for each in found.examples] == [Verdict.CORRECTED]
