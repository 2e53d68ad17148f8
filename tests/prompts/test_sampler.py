"""The visual sampler: regions as tokens, and as prototypes of their parts and surroundings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from torch import Tensor

from prompts.geometry import FloatArray, Size
from prompts.space import (
    MAX_POINTS,
    find_parts,
    margin,
    matches_back,
    prototypes_of,
    sample_points,
    stratified_points,
    surroundings,
    visual_token,
)
from tests.backend.pictures import disc, square

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


def patches_of(numbers: list[list[int]]) -> Tensor:
    """A map whose cells are unit vectors along the axes that the numbers name."""
    return torch.nn.functional.one_hot(torch.tensor(numbers), 5).permute(2, 0, 1).float()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1), st.integers(1, 64))
def test_stratified_points_lie_inside_and_are_few_and_always_the_same(h: int, w: int, seed: int, most: int) -> None:
    mask = np.random.default_rng(seed).random((h, w)) < 0.4
    points = stratified_points(mask, most)
    assert len(points) <= most
    assert bool(mask.any()) == bool(len(points))
    assert mask[points[:, 1].astype(int), points[:, 0].astype(int)].all()
    assert len(np.unique(points, axis=0)) == len(points)
    assert np.array_equal(points, stratified_points(mask, most))


def test_stratified_points_reach_every_part_of_a_region() -> None:
    mask = disc(200, 300, 100, 100, 80) | square(200, 300, 280, 180, 4)
    points = stratified_points(mask, 64)
    quarters = [(points[:, 0] < 100, points[:, 1] < 100), (points[:, 0] > 100, points[:, 1] > 100)]
    assert all((x & y).sum() >= 8 for x, y in quarters)
    assert ((points[:, 0] > 279) & (points[:, 1] > 179)).any()


def test_a_small_region_is_all_its_pixels() -> None:
    mask = square(50, 50, 10, 20, 3)
    assert sorted(map(tuple, stratified_points(mask) - 0.5)) == [(x, y) for x in range(10, 13) for y in range(20, 23)]


def test_surroundings_touch_the_region_and_lie_outside() -> None:
    mask = square(100, 100, 40, 40, 20)
    ring = surroundings(mask)
    assert not (ring & mask).any()
    assert ring[38, 50]
    assert not ring[30, 50]


def test_parts_find_the_kinds_in_a_region() -> None:
    vectors = torch.nn.functional.one_hot(torch.tensor([0] * 30 + [1] * 5 + [2]), 5).float()
    parts = find_parts(vectors)
    assert sorted(parts.argmax(dim=1).tolist()) == [0, 1, 2]


def test_the_mean_of_two_kinds_would_be_neither_but_parts_are_both() -> None:
    there = patches_of([[0, 0, 0, 0], [0, 1, 2, 0], [0, 0, 0, 0]])
    mask = np.zeros((30, 40), np.bool_)
    mask[10:20, 10:30] = True
    found = prototypes_of(there, mask)
    assert found is not None
    here = patches_of([[0, 2, 3], [1, 0, 4]])
    assert (margin(here, found) > 0).tolist() == [[False, True, False], [True, False, False]]


def test_a_large_region_is_known_by_512_of_its_patches_from_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def count(vectors: Tensor) -> Tensor:
        seen.append(len(vectors))
        return find_parts(vectors)

    monkeypatch.setattr("prompts.space.find_parts", count)
    kinds = np.zeros((50, 50), np.int64)
    kinds[5:45, 5:45], kinds[5:15, 5:15], kinds[38:45, 38:45] = 1, 2, 3
    found = prototypes_of(patches_of(kinds.tolist()), square(500, 500, 50, 50, 400))
    assert found is not None
    assert sorted(found.parts.argmax(dim=1).tolist()) == [1, 2, 3]
    assert 100 < seen[0] <= 512


def test_what_looks_like_the_surroundings_too_has_no_margin() -> None:
    there = patches_of([[1, 1, 1], [1, 1, 1], [1, 1, 1]])
    mask = square(30, 30, 10, 10, 10)
    found = prototypes_of(there, mask)
    assert found is not None
    assert not (margin(there, found) > 0).any()


def test_a_patch_matches_back_only_into_the_region() -> None:
    there = patches_of([[0, 0, 0], [0, 1, 0], [0, 0, 2]])
    found = prototypes_of(there, square(30, 30, 10, 10, 10))
    assert found is not None
    assert matches_back(patches_of([[1, 2, 0]]), found).tolist() == [[True, False, False]]


def test_an_empty_region_has_no_prototypes() -> None:
    assert prototypes_of(patches_of([[0]]), np.zeros((5, 5), np.bool_)) is None


def test_a_region_smaller_than_a_patch_is_the_patch_under_it() -> None:
    found = prototypes_of(patches_of([[0, 1], [2, 3]]), square(20, 20, 15, 3, 2))
    assert found is not None
    assert found.inside.tolist() == [[False, True], [False, False]]
