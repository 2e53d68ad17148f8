"""What is made of masks, and what a project's extra parameters ask for."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from backend.labelstudio.project_options import Mode, PreannotationOptions, ProjectOptions, read_extra_params
from backend.values.errors import ConfigError
from backend.values.masks import Masks, MaskSet
from prompts.geometry import Size


def bar(first: int, last: int) -> NDArray[np.bool_]:
    """Columns of a strip of 4 x 20 pixels."""
    mask = np.zeros((4, 20), np.bool_)
    mask[:, first:last] = True
    return mask


def rows(*each: tuple[NDArray[np.bool_], float, str]) -> MaskSet:
    return MaskSet(
        Masks.of_stack(np.stack([mask for mask, _, _ in each])),
        np.array([score for _, score, _ in each], np.float32),
        tuple(label for _, _, label in each),
        np.zeros((len(each), 1, 1), np.float16),
        np.zeros((len(each), 2), np.float32),
    )


def columns(masks: MaskSet) -> list[tuple[str | None, list[int]]]:
    return [(region.label, np.flatnonzero(region.mask[0]).tolist()) for region in masks]


CARS, ROADS = ((bar(0, 6), 0.9, "car"), (bar(4, 10), 0.8, "car")), ((bar(5, 20), 0.95, "road"), (bar(0, 3), 0.5, "road"))
TWO_CARS_ON_A_ROAD = rows(*CARS, *ROADS)


def test_instances_are_left_as_they_are_best_first() -> None:
    assert [label for label, _ in columns(PreannotationOptions().apply(TWO_CARS_ON_A_ROAD))] == ["road", "car", "car", "road"]


def test_semantic_regions_are_one_a_class_and_the_surest_has_a_pixel() -> None:
    found = dict(columns(PreannotationOptions(Mode.SEMANTIC).apply(TWO_CARS_ON_A_ROAD)))
    assert found == {"road": list(range(5, 20)), "car": list(range(5))}


@pytest.mark.parametrize("mode", [Mode.SEMANTIC, Mode.PANOPTIC])
def test_every_pixel_that_no_region_has_is_of_the_rest(mode: Mode) -> None:
    one_car = rows((bar(2, 6), 0.9, "car"), (bar(0, 12), 0.95, "other"))
    assert columns(PreannotationOptions(mode, rest="other").apply(one_car)) == [
        ("car", list(range(2, 6))),
        ("other", [0, 1, *range(6, 20)]),
    ]
    assert columns(PreannotationOptions(mode, rest="other").apply(one_car[[]])) == [("other", list(range(20)))]
    assert columns(PreannotationOptions(mode, rest="other").apply(rows((bar(0, 20), 0.9, "car")))) == [("car", list(range(20)))]


def test_panoptic_gives_every_pixel_once_and_things_before_stuff() -> None:
    found = PreannotationOptions(Mode.PANOPTIC, stuff=frozenset({"road"})).apply(TWO_CARS_ON_A_ROAD)
    assert sorted(columns(found), key=str) == [
        ("car", list(range(6))),
        ("car", list(range(6, 10))),
        ("road", list(range(10, 20))),
    ]


def test_a_thing_of_which_too_little_is_left_is_dropped() -> None:
    masks = rows((bar(0, 10), 0.9, "car"), (bar(4, 12), 0.8, "car"))
    assert columns(PreannotationOptions(Mode.PANOPTIC).apply(masks)) == [("car", list(range(10)))]
    half_left = rows((bar(0, 10), 0.9, "car"), (bar(6, 14), 0.8, "car"))
    assert columns(PreannotationOptions(Mode.PANOPTIC).apply(half_left)) == [
        ("car", list(range(10))),
        ("car", list(range(10, 14))),
    ]


def test_thresholds_are_by_label_with_one_for_all_others() -> None:
    wanted = PreannotationOptions(thresholds={"car": 0.85, "*": 0.6})
    assert [score for _, score, _ in map(_plain, wanted.apply(TWO_CARS_ON_A_ROAD))] == [0.95, 0.9]


def test_small_regions_and_those_beyond_the_number_are_dropped() -> None:
    assert len(PreannotationOptions(min_area=13).apply(TWO_CARS_ON_A_ROAD)) == 3
    assert [label for label, _ in columns(PreannotationOptions(max_regions=2).apply(TWO_CARS_ON_A_ROAD))] == ["road", "car"]
    assert len(PreannotationOptions(max_regions=0).apply(TWO_CARS_ON_A_ROAD)) == 0


def test_a_region_inside_a_better_one_is_dropped_whatever_its_label() -> None:
    masks = rows((bar(0, 10), 0.9, "car"), (bar(2, 6), 0.8, "wheel"), (bar(8, 14), 0.7, "car"))
    assert [label for label, _ in columns(PreannotationOptions(containment=0.9).apply(masks))] == ["car", "car"]
    assert len(PreannotationOptions(containment=0.2).apply(masks)) == 1


def test_nothing_stays_nothing_in_every_mode() -> None:
    for mode in Mode:
        assert len(PreannotationOptions(mode, {"*": 0.5}, 3, 10, 0.5).apply(MaskSet.empty(Size(4, 20)))) == 0


def test_boxes_prefer_rectangles_and_others_what_was_asked_for() -> None:
    assert (
        PreannotationOptions(Mode.BOXES).form,
        PreannotationOptions(output="polygon").form,
        PreannotationOptions().form,
    ) == ("rectangle", "polygon", "")


@given(
    st.lists(st.tuples(st.integers(0, 19), st.integers(1, 20), st.floats(0, 1, width=32), st.sampled_from("ab")), max_size=6),
    st.frozensets(st.sampled_from("ab")),
)
def test_panoptic_regions_never_overlap(spans: list[tuple[int, int, float, str]], stuff: frozenset[str]) -> None:
    masks = rows(*((bar(a, a + b), score, label) for a, b, score, label in spans)) if spans else MaskSet.empty(Size(4, 20))
    found = PreannotationOptions(Mode.PANOPTIC, stuff=stuff).apply(masks)
    assert found.masks.decode().sum(axis=0).max(initial=0) <= 1
    assert found.masks.decode().any(axis=(1, 2)).all()
    for label in stuff:
        assert found.labels.count(label) <= 1


def test_the_choice_is_a_value() -> None:
    assert replace(PreannotationOptions(), min_area=5) != PreannotationOptions()


def _plain(region: object) -> tuple[object, float, object]:
    return (None, round(float(region.score), 6), region.label)  # type: ignore[attr-defined]


ALL = {
    "mode": "panoptic",
    "thresholds": {"cat": 0.5},
    "threshold": 0.3,
    "max_regions": 20,
    "min_area": 64,
    "containment": 0.9,
    "stuff": ["sky"],
    "rest": "other",
    "output": "polygon",
    "alternatives": 3,
    "someone": "else's",
}
READ = PreannotationOptions(Mode.PANOPTIC, {"cat": 0.5, "*": 0.3}, 20, 64, 0.9, frozenset({"sky"}), "other", "polygon", 3)


def test_an_object_and_its_text_mean_the_same() -> None:
    assert read_extra_params(ALL) == READ
    assert read_extra_params(json.dumps(ALL)) == READ


@pytest.mark.parametrize("nothing", [None, "", "text", "[]", [], 5, {}, {"mode": None, "thresholds": None, "stuff": None}])
def test_nothing_is_the_default(nothing: object) -> None:
    assert read_extra_params(nothing) == PreannotationOptions()


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"mode": "panoptik"}, "can be instance, semantic"),
        ({"mode": ["x"]}, "'mode'"),
        ({"threshold": 2}, "number in 0..1"),
        ({"threshold": "0.5"}, "number in 0..1"),
        ({"thresholds": [1]}, "by label"),
        ({"thresholds": {"cat": True}}, "'cat'"),
        ({"max_regions": -1}, "'max_regions'"),
        ({"containment": float("nan")}, "'containment'"),
        ({"stuff": "sky"}, "list of labels"),
        ({"output": "video"}, "'output' can be brush"),
        ({"output": {}}, "'output'"),
    ],
)
def test_a_value_that_cannot_be_meant_is_named(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match="extra parameters") as error:
        read_extra_params(wrong)
    assert word in str(error.value)


def test_each_project_has_its_own() -> None:
    wishes = ProjectOptions()
    wishes.register("1", READ)
    assert (wishes.of("1"), wishes.of("2")) == (READ, PreannotationOptions())
    wishes.register("1", PreannotationOptions())
    assert wishes.of("1") == PreannotationOptions()


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2)


@given(st.dictionaries(st.sampled_from(sorted(ALL)), values | st.dictionaries(st.text(), values, max_size=2)))
def test_any_parameters_are_read_or_refused(given_params: dict[str, Any]) -> None:
    with suppress(ConfigError):
        read_extra_params(given_params)
