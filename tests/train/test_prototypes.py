"""Prototypes: what photos show of a name beside what it says, and where its places end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from train import prototypes
from train.prototypes import Sight, ends

SAID, LOOK, OTHER = torch.eye(3)


def sight(name: str, inside: Tensor, outside: Tensor, columns: int = 4) -> Sight:
    """A photo of 8 x 8 places whose left columns show a name."""
    share = torch.zeros(8, 8)
    share[:, :columns] = 1
    grid = torch.where(share.bool(), inside[:, None, None], outside[:, None, None])
    return Sight(name, grid.half(), share, inside)


def test_a_prototype_lies_between_what_a_name_says_and_what_was_seen_of_it_above_what_is_seen_everywhere() -> None:
    seen = torch.nn.functional.normalize(LOOK + OTHER, dim=0)
    few, many = prototypes._between(torch.stack([SAID, SAID]), [[seen] * 3, [seen] * 16], seen @ OTHER * OTHER)
    torch.testing.assert_close(few, torch.nn.functional.normalize(8 * SAID + 3 * LOOK, dim=0))
    torch.testing.assert_close(many, torch.nn.functional.normalize(SAID + 2 * LOOK, dim=0))


def test_what_is_seen_of_a_name_is_the_mean_of_the_places_that_it_covers() -> None:
    torch.testing.assert_close(sight("sky", LOOK, OTHER).inside, LOOK)


def test_places_end_between_those_that_show_a_name_and_those_that_do_not() -> None:
    near = torch.nn.functional.normalize(OTHER + 0.4 * LOOK, dim=0)
    alike = float(near @ LOOK)
    (end,) = ends(LOOK[None], [[sight("sky", LOOK, near) for _ in range(3)]])
    assert alike < end < 1


def test_one_name_ends_where_its_own_photos_say() -> None:
    close, far = (torch.nn.functional.normalize(share * LOOK + OTHER, dim=0) for share in (2.0, 0.1))
    shown = [[sight("road", LOOK, close)] * 12, [sight("cat", LOOK, far)] * 12]
    road, cat = ends(torch.stack([LOOK, LOOK]), shown)
    assert road > float(close @ LOOK) > 0.8
    assert road >= cat


@pytest.mark.parametrize("level", [0.3, 0.9])
def test_the_overlap_at_a_level_is_that_of_the_places_above_it(level: float) -> None:
    half = torch.nn.functional.normalize(LOOK + OTHER, dim=0)
    (found,) = prototypes._ious(sight("sky", LOOK, half, columns=2), LOOK, np.array([level]))
    assert found == pytest.approx(0.25 if level < 0.7 else 1.0)
