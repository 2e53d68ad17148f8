from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from torch import Tensor

from prompts.geometry import FloatArray, Size
from prompts.sampler import MAX_POINTS, sample_points, visual_token

Mask = NDArray[np.bool_]
masks = array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(lambda shape: arrays(np.bool_, shape))


class ByColumn:
    """Features of an image in which the columns 0..9 point one way and all others another way."""

    size = Size(30, 40)

    def sample(self, points: FloatArray) -> Tensor:
        return torch.eye(3)[torch.from_numpy((points[:, 0] >= 10).astype(np.int64))]

    def pool(self, mask: Mask) -> Tensor:
        raise AssertionError("the sampler reads points")


def region(rows: slice, columns: slice) -> Mask:
    mask = np.zeros((30, 40), np.bool_)
    mask[rows, columns] = True
    return mask


@given(masks, st.integers(1, 200), st.integers(0, 3))
def test_points_are_different_pixel_centres_inside_the_mask(mask: Mask, most: int, seed: int) -> None:
    points = sample_points(mask, most, seed)
    columns, rows = np.floor(points).astype(int).T
    assert np.array_equal(points, np.floor(points) + 0.5)
    assert mask[rows, columns].all()
    assert len({*map(tuple, points)}) == len(points) == min(most, int(mask.sum()))


@given(masks)
def test_a_small_mask_gives_all_its_pixels(mask: Mask) -> None:
    found = np.zeros_like(mask)
    columns, rows = np.floor(sample_points(mask)).astype(int).T
    found[rows, columns] = True
    assert np.array_equal(found, mask)


@given(masks, st.integers(1, 20), st.integers(0, 5))
def test_the_choice_is_repeatable(mask: Mask, most: int, seed: int) -> None:
    assert np.array_equal(sample_points(mask, most, seed), sample_points(mask.copy(), most, seed))


def test_another_seed_chooses_other_points() -> None:
    mask = np.ones((100, 100), np.bool_)
    assert not np.array_equal(sample_points(mask, seed=0), sample_points(mask, seed=1))


def test_a_large_mask_gives_512_points_spread_over_it() -> None:
    mask = np.zeros((400, 600), np.bool_)
    mask[100:300, 200:600] = True
    points = sample_points(mask)
    assert len(points) == MAX_POINTS == 512
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=(4, 4), range=((100, 300), (200, 600)))
    assert counts.sum() == 512
    assert counts.min() >= 10, "each sixteenth of the region expects 32 points, give or take 5.5"
    assert counts.max() <= 60


def test_an_empty_mask_gives_no_points_and_no_token() -> None:
    nothing = region(slice(0), slice(0))
    assert sample_points(nothing).shape == (0, 2)
    assert visual_token(ByColumn(), nothing).shape == (0, 3)


def test_a_region_of_one_kind_is_that_kind() -> None:
    assert visual_token(ByColumn(), region(slice(5), slice(5))).tolist() == [[1, 0, 0]]
    assert visual_token(ByColumn(), region(slice(29, 30), slice(39, 40))).tolist() == [[0, 1, 0]]


def test_a_region_of_two_kinds_lies_between_them_by_their_areas() -> None:
    token = visual_token(ByColumn(), region(slice(0, 10), slice(6, 14)))
    assert torch.allclose(token, torch.tensor([[0.5**0.5, 0.5**0.5, 0]]))
    token = visual_token(ByColumn(), region(slice(0, 10), slice(4, 12)))
    assert torch.allclose(token, torch.tensor([[3.0, 1.0, 0]]) / 10**0.5)


@given(arrays(np.bool_, (30, 40)))
def test_a_token_is_one_unit_vector(mask: Mask) -> None:
    token = visual_token(ByColumn(), mask)
    assert token.shape == (int(mask.any()), 3)
    assert torch.allclose(token.norm(dim=1), torch.ones(len(token)))
