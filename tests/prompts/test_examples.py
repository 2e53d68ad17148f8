"""Examples of a label: the nearest places on either side decide, and several examples are more than one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from prompts.examples import MOST_PLACES, Examples, example_of, likeness, together

RED, GREEN, BLUE = torch.eye(3)


def striped() -> Tensor:
    """Places ``(3, 4, 9)``: a red third, a green third and a blue third."""
    places = torch.zeros(3, 4, 9)
    for k, colour in enumerate((RED, GREEN, BLUE)):
        places[:, :, 3 * k : 3 * k + 3] = colour[:, None, None]
    return places


def columns(first: int, last: int, scale: int = 10) -> np.ndarray:
    mask = np.zeros((4 * scale, 9 * scale), np.bool_)
    mask[:, first * scale : last * scale] = True
    return mask


def test_places_inside_and_outside_of_a_region_are_kept_and_those_on_its_edge_are_not() -> None:
    shown = example_of(striped(), columns(0, 3))
    assert torch.equal(shown.inside.unique(dim=0), RED[None])
    assert {tuple(row) for row in shown.outside.tolist()} == {tuple(GREEN.tolist()), tuple(BLUE.tolist())}
    half = columns(0, 4)
    half[:, 35:] = False
    assert len(example_of(striped(), half).inside) + len(example_of(striped(), half).outside) == 36 - 4


def test_what_looks_like_the_inside_is_above_zero_and_what_looks_like_the_outside_below() -> None:
    found = likeness(striped(), example_of(striped(), columns(0, 3)))
    assert (found[:, :3] > 0.5).all()
    assert (found[:, 3:] < -0.5).all()


def test_a_second_example_adds_another_look_of_the_thing() -> None:
    red, blue = example_of(striped(), columns(0, 3)), example_of(striped(), columns(6, 9))
    both = likeness(striped(), together([red, Examples(blue.inside, blue.outside[:0])]))
    assert (both[:, :3] > 0.5).all()
    assert (both[:, 6:] >= 0).all(), "shown by one, not shown by the other"
    assert (both[:, 3:6] < -0.5).all()


def test_a_refused_example_is_what_the_label_is_not() -> None:
    wanted = Examples(torch.stack([RED, GREEN]), BLUE[None])
    without = together([wanted, example_of(striped(), columns(3, 6)).refused()])
    assert (likeness(striped(), wanted)[:, 3:6] > 0).all()
    assert (likeness(striped(), without)[:, 3:6] <= 0).all()


def test_a_region_smaller_than_a_place_still_shows_one() -> None:
    speck = np.zeros((40, 90), np.bool_)
    speck[12, 14] = True
    assert len(example_of(striped(), speck)) == 1


def test_an_empty_region_shows_nothing_and_nothing_looks_like_it() -> None:
    empty = example_of(striped(), columns(0, 0))
    assert len(empty) == 0
    assert (likeness(striped(), empty) == -1).all()


def test_examples_have_a_bound_however_many_there_are() -> None:
    places = torch.nn.functional.normalize(torch.randn(3, 64, 64), dim=0)
    mask = np.ones((64, 64), np.bool_)
    mask[:8] = False
    shown = example_of(places, mask)
    assert len(shown.inside) == MOST_PLACES
    assert len(together([shown] * 9).inside) == 4 * MOST_PLACES


def test_no_example_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        together([])
