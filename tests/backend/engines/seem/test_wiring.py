"""The rows of the decoder: tokens of what was drawn and of the last mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.engines.seem.wiring import (
    TOKENS,
    MaskMemory,
    SpatialSampler,
    choose_points,
    merge_tokens,
    read_points,
    repeat_tokens,
    stack_tokens,
)

FEW = st.integers(1, 3).flatmap(lambda n: arrays(np.bool_, (n, 6, 9)))


@given(FEW)
def test_few_pixels_are_all_taken_in_order(masks: np.ndarray) -> None:
    points = choose_points(torch.from_numpy(masks), most=500)
    expected = np.argwhere(masks)
    np.testing.assert_array_equal(points.owner.numpy(), expected[:, 0])
    np.testing.assert_allclose(points.xy.numpy() * (9, 6), expected[:, [2, 1]], atol=1e-5)


@given(FEW)
def test_more_pixels_than_the_budget_are_thinned_to_it_without_repeats(masks: np.ndarray) -> None:
    points = choose_points(torch.from_numpy(masks), most=5)
    assert len(points.owner) == min(5, int(masks.sum()))
    rows = torch.cat([points.owner[:, None].float(), points.xy], dim=1)
    assert len(torch.unique(rows, dim=0)) == len(rows)


def test_the_choice_of_points_is_seeded() -> None:
    masks = torch.ones(2, 40, 40, dtype=torch.bool)
    first, again, other = (choose_points(masks, most=64, seed=seed) for seed in (0, 0, 1))
    torch.testing.assert_close(first.xy, again.xy)
    assert not torch.equal(first.xy, other.xy)


def test_a_small_prompt_gets_as_many_points_as_a_large_one() -> None:
    masks = torch.zeros(2, 100, 100, dtype=torch.bool)
    masks[0] = True
    masks[1, :20, :20] = True
    share = torch.bincount(choose_points(masks, most=200).owner) / 200
    assert 0.35 < float(share[1]) < 0.65


def test_features_are_read_between_pixels() -> None:
    ramp = torch.arange(5.0).expand(1, 1, 3, 5)
    points = choose_points(torch.ones(1, 1, 8, dtype=torch.bool))
    torch.testing.assert_close(read_points(ramp, points)[:, 0], points.xy[:, 0] * 4)


def sampler(nothing: float = -1.0) -> SpatialSampler:
    return SpatialSampler([torch.eye(2), 2 * torch.eye(2)], torch.tensor([[0.25, 0.0], [0.0, 0.25]]), nothing)


def test_positive_and_negative_tokens_carry_their_sign_and_their_level() -> None:
    level = torch.ones(1, 2, 4, 4)
    positive = torch.zeros(1, 4, 4, dtype=torch.bool)
    negative = positive.clone()
    positive[0, 0, 0] = negative[0, 3, 3] = True
    tokens = sampler().sample([level, level], level, (positive, negative))
    torch.testing.assert_close(tokens.levels[0], torch.tensor([[1.25, 1.0], [1.0, 1.25]]))
    torch.testing.assert_close(tokens.levels[1], torch.tensor([[2.25, 2.0], [2.0, 2.25]]))
    torch.testing.assert_close(tokens.pooled, torch.ones(1, 2))


def test_a_prompt_without_pixels_has_the_vector_for_nothing() -> None:
    level = torch.ones(1, 2, 4, 4)
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[1, 0, 0] = True
    tokens = sampler(nothing=-1).sample([level, level], level, (masks, torch.zeros_like(masks)))
    torch.testing.assert_close(tokens.pooled, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    torch.testing.assert_close(tokens.negative_pooled, torch.full((2, 2), -1.0))


def test_the_tokens_of_several_images_stay_apart_and_can_be_shared() -> None:
    level, mask = torch.ones(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)
    one = sampler().sample([level, level], level, (mask, ~mask))
    two = stack_tokens([one, one])
    assert two.owner.tolist() == [0] * 16 + [1] * 16
    assert len(two) == 2
    shared = repeat_tokens(one, 3)
    assert shared.owner.tolist() == [0] * 16 + [1] * 16 + [2] * 16
    merged = merge_tokens(two, repeat_tokens(one, 2))
    assert [len(rows) for rows in merged.levels] == [64, 64]
    torch.testing.assert_close(merged.pooled, two.pooled)


@given(st.integers(1, TOKENS))
def test_the_tokens_are_shared_as_evenly_as_possible(masks: int) -> None:
    share = torch.bincount(MaskMemory(torch.zeros(masks, 2, 2), torch.arange(masks)).split(), minlength=masks)
    assert int(share.sum()) == TOKENS
    assert int(share.max() - share.min()) <= 1


@pytest.mark.parametrize("size", [(4, 4), (2, 2)])
def test_everything_but_the_mask_is_outside(size: tuple[int, int]) -> None:
    logits = torch.full((2, 4, 4), -3.0)
    logits[0, :2] = 3
    logits[1, :, 2:] = 3
    outside = MaskMemory(logits, torch.arange(2)).outside(size).unflatten(1, size)
    half = size[0] // 2
    assert not outside[:16, :half].any()
    assert outside[:16, half:].all()
    assert not outside[16:, :, half:].any()
    assert outside[16:, :, :half].all()
