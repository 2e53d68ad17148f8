"""The order of review: what is least certain comes first, and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backend.evaluation.rank import SAME_BITS, difference_hash, duplicates, rank
from backend.labelstudio.shapes import brush as rle
from tests.backend.pictures import square, two_red_discs, two_shapes


def brush(name: str, label: str, score: float, side: int = 30) -> dict[str, Any]:
    return {
        "id": name,
        "type": "brushlabels",
        "original_width": 100,
        "original_height": 100,
        "score": score,
        "value": {"format": "rle", "rle": rle.encode(square(100, 100, 10, 10, side)), "brushlabels": [label]},
    }


def test_a_score_in_the_middle_is_wholly_uncertain_and_a_sure_one_is_not() -> None:
    assert rank([brush("a", "cat", 0.5)]).uncertainty == 1
    assert rank([brush("a", "cat", 1.0)]).uncertainty == 0
    assert rank([brush("a", "cat", 0.75)]).uncertainty == pytest.approx(0.5)


def test_the_reason_names_the_region_that_is_least_certain() -> None:
    found = rank([brush("a", "cat", 0.9), brush("b", "dog", 0.6)])
    assert found.reason == "dog has a score of 0.60"
    assert found.uncertainty == pytest.approx((0.8 + (0.2 + 0.8) / 2) / 2)


def test_nothing_and_nearly_nothing_come_first() -> None:
    assert rank([]).uncertainty == 1
    assert rank([brush("a", "cat", 1.0, side=2)]).reason.startswith("nearly nothing was found: 0.040%")


def test_the_same_picture_is_found_again_also_when_it_was_compressed_a_little_differently() -> None:
    picture = np.kron(np.random.default_rng(1).integers(0, 255, (12, 14, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    noisy = np.clip(picture.astype(int) + np.random.default_rng(2).integers(-3, 4, picture.shape), 0, 255).astype(np.uint8)
    images = {"a": picture, "b": two_shapes().image, "c": noisy, "d": two_red_discs().image}
    assert duplicates((key, difference_hash(image)) for key, image in images.items()) == {"c": "a"}


def test_regions_on_several_images_of_a_task_are_ranked_together() -> None:
    """Their masks have different sizes."""
    small = {**brush("b", "dog", 0.6), "original_width": 50, "original_height": 80, "item_index": 1}
    small["value"] = {"format": "rle", "rle": rle.encode(square(80, 50, 5, 5, 20)), "brushlabels": ["dog"]}
    assert rank([brush("a", "cat", 0.9), small]).reason == "dog has a score of 0.60"
    small["value"]["rle"] = rle.encode(np.zeros((80, 50), bool))
    assert rank([brush("a", "cat", 0.9), small]).uncertainty < 1


@example(0, {0, 13, 26, 39})
@example(0, {13, 26, 39, 52})
@given(st.integers(0, 2**64 - 1), st.sets(st.integers(0, 63), max_size=8))
def test_hashes_are_the_same_up_to_four_bits(value: int, flipped: set[int]) -> None:
    other = value
    for bit in flipped:
        other ^= 1 << bit
    assert bool(duplicates([("a", value), ("b", other)])) == (len(flipped) <= SAME_BITS)
