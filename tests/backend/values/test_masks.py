from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from backend.values.masks import MaskSet, overlaps
from prompts.geometry import Size

Masks = NDArray[np.bool_]
stacks = st.integers(0, 5).flatmap(lambda n: arrays(np.bool_, (n, 4, 5)))


def rows_of(masks: Masks, first_score: float = 0.0) -> MaskSet:
    """A mask set whose every column tells which row it belongs to."""
    n = len(masks)
    return MaskSet(
        masks=masks,
        scores=(first_score + np.arange(n, dtype=np.float32) / 10).astype(np.float32),
        labels=tuple(f"label {k}" if k % 2 else None for k in range(n)),
        low_res_logits=np.arange(n, dtype=np.float16)[:, None, None] * np.ones((1, 2, 3), np.float16),
        embeddings=np.arange(n, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32),
    )


def assert_equal(left: MaskSet, right: MaskSet) -> None:
    assert np.array_equal(left.masks, right.masks)
    assert np.array_equal(left.scores, right.scores)
    assert left.labels == right.labels
    assert np.array_equal(left.low_res_logits, right.low_res_logits)
    assert np.array_equal(left.embeddings, right.embeddings)


@given(stacks, st.data())
def test_rows_are_chosen_in_every_column(masks: Masks, data: st.DataObject) -> None:
    whole = rows_of(masks)
    wanted = data.draw(st.lists(st.integers(0, len(masks) - 1), max_size=7) if len(masks) else st.just([]))
    chosen = whole[wanted]
    assert len(chosen) == len(wanted)
    assert np.array_equal(chosen.masks, masks[wanted] if wanted else masks[:0])
    assert chosen.labels == tuple(whole.labels[k] for k in wanted)
    assert chosen.embeddings[:, 0].tolist() == wanted
    assert chosen.low_res_logits[:, 0, 0].tolist() == wanted


@given(stacks)
def test_a_choice_by_bools_is_the_choice_by_their_indices(masks: Masks) -> None:
    whole = rows_of(masks)
    which = masks.any(axis=(1, 2))
    assert_equal(whole[which], whole[np.flatnonzero(which)])
    assert_equal(whole[which.tolist()], whole[np.flatnonzero(which)])


@given(stacks, stacks)
def test_sets_are_joined_in_order_and_come_apart_again(one: Masks, other: Masks) -> None:
    left, right = rows_of(one), rows_of(other, first_score=0.5)
    joined = MaskSet.concatenate([left, right], Size(4, 5))
    assert len(joined) == len(one) + len(other)
    if len(one):
        assert_equal(joined[list(range(len(one)))], left)
    if len(other):
        assert_equal(joined[list(range(len(one), len(joined)))], right)


def test_nothing_joined_is_empty_and_has_the_size_of_the_image() -> None:
    for empty in (MaskSet.concatenate([], Size(3, 7)), MaskSet.concatenate([MaskSet.empty(Size(3, 7))], Size(3, 7))):
        assert len(empty) == 0
        assert list(empty) == []
        assert empty.size == Size(3, 7)
        assert len(empty[[]]) == 0


def test_an_empty_set_beside_others_does_not_spoil_their_shapes() -> None:
    """Empty sets have embeddings of one dimension and logits of one pixel, whatever the decoder's are."""
    whole = rows_of(np.ones((2, 4, 5), np.bool_))
    assert_equal(MaskSet.concatenate([MaskSet.empty(Size(4, 5)), whole], Size(4, 5)), whole)


def test_a_set_is_gone_through_as_regions() -> None:
    masks = np.random.default_rng(0).random((3, 4, 5)) > 0.5
    regions = list(rows_of(masks))
    assert [region.label for region in regions] == [None, "label 1", None]
    assert [round(region.score, 6) for region in regions] == [0.0, 0.1, 0.2]
    assert all(np.array_equal(region.mask, mask) for region, mask in zip(regions, masks, strict=True))


def test_naming_changes_the_names_and_nothing_else() -> None:
    whole = rows_of(np.ones((2, 4, 5), np.bool_))
    named = whole.named(["cat", None])
    assert named.labels == ("cat", None)
    assert named.masks is whole.masks
    with pytest.raises(ValueError, match="'labels': 1"):
        whole.named(["cat"])


@pytest.mark.parametrize("masks", [np.ones((2, 3, 4), np.uint8), np.ones((3, 4), np.bool_)])
def test_masks_that_are_no_stack_of_bools_are_refused(masks: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match=r"expected bool masks \(N, H, W\), got"):
        MaskSet(masks, np.zeros(2, np.float32), (None, None), np.zeros((2, 1, 1), np.float16), np.zeros((2, 1), np.float32))


@pytest.mark.parametrize("score", [-0.01, 1.01, np.nan, np.inf])
def test_scores_outside_0_to_1_are_refused(score: float) -> None:
    with pytest.raises(ValueError, match=r"expected scores in 0\.\.1"):
        rows_of(np.ones((1, 2, 2), np.bool_), first_score=score)


def test_columns_of_different_lengths_are_refused_by_name() -> None:
    whole = rows_of(np.ones((2, 4, 5), np.bool_))
    with pytest.raises(ValueError, match="'masks': 2, 'scores': 1"):
        MaskSet(whole.masks, whole.scores[:1], whole.labels, whole.low_res_logits, whole.embeddings)


@given(stacks)
@settings(max_examples=60)
def test_overlaps_are_what_counting_pixels_gives(masks: Masks) -> None:
    iou, inside = overlaps(masks)
    assert iou.shape == inside.shape == (len(masks), len(masks))
    for i, one in enumerate(masks):
        for j, other in enumerate(masks):
            both, either = int((one & other).sum()), int((one | other).sum())
            assert iou[i, j] == pytest.approx(both / max(either, 1))
            assert inside[i, j] == pytest.approx(both / max(int(one.sum()), 1))


def test_a_mask_inside_another_lies_wholly_in_it_and_not_the_other_way_round() -> None:
    masks = np.zeros((2, 10, 10), np.bool_)
    masks[0, 2:4, 2:4] = True
    masks[1, :5, :] = True
    iou, inside = overlaps(masks)
    assert inside[0, 1] == 1
    assert inside[1, 0] == pytest.approx(4 / 50)
    assert iou[0, 1] == iou[1, 0] == pytest.approx(4 / 50)


def test_overlaps_of_large_masks_need_little_memory_beside_them() -> None:
    """All masks of a 12-megapixel photo at once as floats would be 4 bytes for each of their pixels."""
    masks = np.zeros((20, 600, 800), np.bool_)
    for k in range(20):
        masks[k, 20 * k : 20 * k + 220, 100:700] = True
    tracemalloc.start()
    iou, inside = overlaps(masks)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < masks.nbytes
    shared = np.clip(220 - 20 * np.abs(np.subtract.outer(np.arange(20), np.arange(20))), 0, None)
    assert np.allclose(iou, shared / (440 - shared))
    assert np.allclose(inside, shared / 220)
