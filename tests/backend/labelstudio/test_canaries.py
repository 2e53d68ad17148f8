"""Suggestions that are damaged on purpose: how many, what is left of them, who knows them, and what people made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backend.labelstudio.shapes import SHAPES, read_regions, runs_of, size_of_item
from backend.labelstudio.shapes.base import Answer, number_regions
from backend.labelstudio.verdicts import Canaries, compare, cut, has_canaries, is_canary
from backend.values.masks import RunLengths
from backend.values.session import Example, Verdict
from tests.backend.pictures import disc

CIRCLE = disc(80, 120, 40, 60, 20)


def answer(form: str, regions: int = 1) -> Answer:
    """So many discs, each with a second result that names it."""
    size = {"original_width": 120, "original_height": 80}
    (shape,) = SHAPES[form].write(RunLengths.of(CIRCLE))
    result: list[dict[str, Any]] = []
    for row in range(regions):
        head = {"id": f"mk_{row}", "to_name": "image", **size}
        result.append({**head, "type": f"{form}labels", "value": {**shape.value, f"{form}labels": ["Cat"]}})
        result.append({**head, "type": "choices", "value": {"choices": ["Cat"]}})
    return number_regions({"result": result, "score": 0.9, "model_version": "e"}, "0123456789")


def every(share: float = 1.0) -> Canaries:
    return Canaries(share, np.random.default_rng(0))


@pytest.mark.parametrize("form", ["brush", "polygon", "bitmask", "vector", "rectangle", "ellipse"])
def test_about_two_thirds_of_a_damaged_region_are_left_in_every_shape_under_its_label(form: str) -> None:
    plain, damaged = answer(form), every().among(answer(form))
    (before,), (after,) = read_regions(plain["result"]), read_regions(damaged["result"])
    assert 0.5 < (before.mask & after.mask).sum() / (before.mask | after.mask).sum() < 0.75
    assert after.label == "Cat"
    shape, choice = damaged["result"]
    assert shape["id"] == choice["id"]
    assert choice["value"] == {"choices": ["Cat"]}
    assert is_canary(shape["id"])


def test_so_many_are_damaged_as_was_said_and_no_other_one_is_taken_for_one() -> None:
    found = every(0.1).among(answer("rectangle", 2000))
    ids = {item["id"] for item in found["result"]}
    assert 150 < sum(map(is_canary, ids)) < 250
    assert has_canaries(found)
    whole = every(0.0).among(answer("rectangle", 2000))
    assert whole == answer("rectangle", 2000)
    assert not has_canaries(whole)
    assert not any(is_canary(name) for name in ("", "mk_", "mk__abcd", "r1", "mk_0123456789_abcde", "mk_0123456789_0beef"))


def test_a_region_of_a_few_pixels_stays() -> None:
    (shape,) = SHAPES["brush"].write(RunLengths.of(disc(80, 120, 40, 60, 3)))
    small = answer("brush")
    small["result"][0]["value"] |= shape.value
    assert every().among(small) == small


def test_the_end_of_the_longer_side_is_lost() -> None:
    wide = np.zeros((10, 30), np.bool_)
    wide[2:8, 0:20] = True
    assert cut(wide)[2:8, :13].all()
    assert not cut(wide)[:, 13:].any()
    assert np.array_equal(cut(wide.T), cut(wide).T)


def suggested() -> tuple[Example, Example]:
    """A damaged suggestion and a whole one elsewhere."""
    item = every().among(answer("brush"))["result"][0]
    canary = Example("1", "7", "70", item["id"], "/a.png", "Cat", runs_of(item, size_of_item(item)), engine="e")
    return canary, replace(canary, region="mk_b", label="Dog", runs=RunLengths.of(disc(80, 120, 15, 15, 10)))


def test_one_that_is_left_as_it_was_is_overlooked_and_no_example() -> None:
    canary, other = suggested()
    for label in ("Cat", "Dog"):
        found = compare([replace(canary, label=label), other], [canary, other])
        assert [(each.region, each.verdict) for each in found.examples] == [("mk_b", Verdict.ACCEPTED)]
        assert found.noticed == (("Cat", False),)
    without = compare([replace(canary, verdict=Verdict.ACCEPTED)], None)
    assert (without.examples, without.noticed) == ((), (("Cat", False),)), "the page's word where the prediction is gone"


def test_one_that_is_put_right_deleted_or_drawn_anew_is_noticed_and_says_nothing_about_the_engine() -> None:
    canary, other = suggested()
    right = replace(canary, runs=RunLengths.of(CIRCLE))
    for drawn in ([right, other], [other], [replace(right, region="mine"), other]):
        found = compare(drawn, [canary, other])
        assert found.noticed == (("Cat", True),)
        told = [(each.label, each.verdict, each.engine) for each in found.examples]
        assert told == [("Cat", Verdict.DRAWN, "")] * (len(drawn) - 1) + [("Dog", Verdict.ACCEPTED, "e")]


def test_an_annotation_that_has_nothing_of_the_suggestions_says_nothing_about_them() -> None:
    canary, other = suggested()
    assert compare([replace(other, region="mine", runs=RunLengths.of(disc(80, 120, 15, 100, 5)))], [canary]).noticed == ()
