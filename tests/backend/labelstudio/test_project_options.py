"""Extra parameters of a project, as an object or as text."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.project_options import ProjectOptions, read_extra_params
from backend.options import Mode, PreannotationOptions
from backend.values.errors import ConfigError

ALL = {
    "mode": "panoptic",
    "thresholds": {"cat": 0.5},
    "threshold": 0.3,
    "max_regions": 20,
    "min_area": 64,
    "containment": 0.9,
    "stuff": ["sky"],
    "output": "polygon",
    "alternatives": 3,
    "someone": "else's",
}
READ = PreannotationOptions(Mode.PANOPTIC, {"cat": 0.5, "*": 0.3}, 20, 64, 0.9, frozenset({"sky"}), "polygon", 3)


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
    wishes.register("1", ALL)
    assert (wishes.of("1"), wishes.of("2")) == (READ, PreannotationOptions())
    wishes.register("1", None)
    assert wishes.of("1") == PreannotationOptions()


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2)


@given(st.dictionaries(st.sampled_from(sorted(ALL)), values | st.dictionaries(st.text(), values, max_size=2)))
def test_any_parameters_are_read_or_refused(given_params: dict[str, Any]) -> None:
    with suppress(ConfigError):
        read_extra_params(given_params)
