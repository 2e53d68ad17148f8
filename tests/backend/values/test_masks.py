from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pycocotools import mask as coco

from backend.values.masks import Masks, MaskSet, RunLengths, keep_best, overlaps, shared
from prompts.geometry import Size, mask_box

Stack = NDArray[np.bool_]
stacks = st.integers(0, 5).flatmap(lambda n: arrays(np.bool_, (n, 4, 5)))


def rows_of(masks: Stack, first_score: float = 0.0) -> MaskSet:
    """A mask set whose every column tells which row it belongs to."""
    n = len(masks)
    return MaskSet(
        masks=Masks.of_stack(masks),
        scores=(first_score + np.arange(n, dtype=np.float32) / 10).astype(np.float32),
        labels=tuple(f"label {k}" if k % 2 else None for k in range(n)),
        low_res_logits=np.arange(n, dtype=np.float16)[:, None, None] * np.ones((1, 2, 3), np.float16),
        embeddings=np.arange(n, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32),
    )


def assert_equal(left: MaskSet, right: MaskSet) -> None:
    assert np.array_equal(left.masks.decode(), right.masks.decode())
    assert np.array_equal(left.scores, right.scores)
    assert left.labels == right.labels
    assert np.array_equal(left.low_res_logits, right.low_res_logits)
    assert np.array_equal(left.embeddings, right.embeddings)


@given(stacks, st.data())
def test_rows_are_chosen_in_every_column(masks: Stack, data: st.DataObject) -> None:
    whole = rows_of(masks)
    wanted = data.draw(st.lists(st.integers(0, len(masks) - 1), max_size=7) if len(masks) else st.just([]))
    chosen = whole[wanted]
    assert len(chosen) == len(wanted)
    assert np.array_equal(chosen.masks.decode(), masks[wanted] if wanted else masks[:0])
    assert chosen.labels == tuple(whole.labels[k] for k in wanted)
    assert chosen.embeddings[:, 0].tolist() == wanted
    assert chosen.low_res_logits[:, 0, 0].tolist() == wanted


@given(stacks)
def test_a_choice_by_bools_is_the_choice_by_their_indices(masks: Stack) -> None:
    whole = rows_of(masks)
    which = masks.any(axis=(1, 2))
    assert_equal(whole[which], whole[np.flatnonzero(which)])
    assert_equal(whole[which.tolist()], whole[np.flatnonzero(which)])


@given(stacks, stacks)
def test_sets_are_joined_in_order_and_come_apart_again(one: Stack, other: Stack) -> None:
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
        Masks.of_stack(masks)


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
def test_overlaps_are_what_counting_pixels_gives(masks: Stack) -> None:
    iou, inside = overlaps(Masks.of_stack(masks))
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
    iou, inside = overlaps(Masks.of_stack(masks))
    assert inside[0, 1] == 1
    assert inside[1, 0] == pytest.approx(4 / 50)
    assert iou[0, 1] == iou[1, 0] == pytest.approx(4 / 50)


def test_overlaps_are_computed_on_runs_in_a_hundredth_of_the_memory_of_the_pixels() -> None:
    pixels = np.zeros((20, 600, 800), np.bool_)
    for k in range(20):
        pixels[k, 20 * k : 20 * k + 220, 100:700] = True
    masks = Masks.of_stack(pixels)
    tracemalloc.start()
    iou, inside = overlaps(masks)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < pixels.nbytes / 100
    shared = np.clip(220 - 20 * np.abs(np.subtract.outer(np.arange(20), np.arange(20))), 0, None)
    assert np.allclose(iou, shared / (440 - shared))
    assert np.allclose(inside, shared / 220)


PLACES = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda shape: arrays(np.bool_, shape))


@given(PLACES)
def test_runs_are_the_mask_and_tell_its_area_and_its_box(mask: NDArray[np.bool_]) -> None:
    runs = RunLengths.of(mask)
    assert np.array_equal(runs.decode(), mask)
    assert runs.area == mask.sum()
    assert runs.box == mask_box(mask)
    place, window = runs.window()
    again = np.zeros_like(mask)
    again[place] = window
    assert np.array_equal(again, mask)


@given(PLACES)
def test_runs_alternate_and_fill_the_image(mask: NDArray[np.bool_]) -> None:
    counts = RunLengths.of(mask).counts()
    assert counts.sum() == mask.size
    assert (counts[1:-1] > 0).all()
    assert np.array_equal(np.repeat(np.arange(len(counts)) % 2 == 1, counts), mask.ravel())


@given(PLACES)
def test_coco_s_run_lengths_are_those_of_pycocotools(mask: NDArray[np.bool_]) -> None:
    theirs = coco.encode(np.asfortranarray(mask, np.uint8))
    assert RunLengths.of(mask).coco_counts() == theirs["counts"].decode("ascii")


def test_masks_of_another_size_do_not_get_in() -> None:
    with pytest.raises(ValueError, match="expected masks of"):
        Masks(Size(4, 5), (RunLengths.of(np.ones((5, 4), np.bool_)),))


@given(arrays(np.float64, (6, 6), elements=st.floats(0, 1)), arrays(np.float32, 6, elements=st.floats(0, 1, width=32)))
def test_what_stays_overlaps_with_nothing_better_and_what_goes_does(
    overlap: NDArray[np.float64], scores: NDArray[np.float32]
) -> None:
    kept = keep_best(overlap, scores, 0.5)
    assert scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True)
    for row in range(6):
        better = [other for other in kept if (-scores[other], other) < (-scores[row], row)]
        assert (row in kept) == bool(all(overlap[row, other] <= 0.5 for other in better))


SCRIPT = """
import resource, sys
import numpy as np
from backend.postprocessing import drop_known, label_masks, suppress_duplicates
from backend.labelstudio.shapes import painted
from backend.labelstudio.project_options import Mode, PreannotationOptions
from backend.values.masks import Masks, MaskSet
from backend.engines.colour import ColourTextEncoder
from prompts.geometry import Size, mask_box, ellipse_outline, polygon_mask
from prompts.phrases import Vocabulary
from prompts.space import JointSpace

size, count = Size(4000, 6000), 300
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mask = np.zeros((size.height, size.width), np.bool_)

def regions():
    outline = ellipse_outline(0, 0, 300, 200, 20)
    for k in range(count):
        x, y = 400 + 180 * (k % 30), 300 + 350 * (k // 30)
        yield polygon_mask(outline + (x, y), size)

small = np.zeros((count, 64, 64), np.float16)
scores = np.linspace(0.9, 0.5, count).astype(np.float32)
vectors = np.tile(np.array([0.5, 0.5, 0.5, 0.5], np.float32), (count, 1))
masks = MaskSet(Masks.of(regions(), size), scores, (None,) * count, small, vectors)
space = JointSpace("colour", ColourTextEncoder())
labelled = suppress_duplicates(label_masks(masks, Vocabulary.from_names(["red", "blue"]), space))
assert len(labelled) == count, len(labelled)
for mode in (Mode.INSTANCE, Mode.PANOPTIC, Mode.SEMANTIC):
    done = PreannotationOptions(mode, thresholds={"red": 0.1}, min_area=5, containment=0.99).apply(labelled)
    assert len(done)
    for region in done:
        assert painted.write_brush(region.runs)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_three_hundred_regions_of_24_megapixels_take_less_than_300_mb_from_labels_to_run_lengths() -> None:
    """As pixels they were 7.2 GB, and several copies of them on the way."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300


@given(stacks, stacks)
def test_what_some_masks_share_with_others_is_what_all_share_with_each_other(some: Stack, others: Stack) -> None:
    left, right = Masks.of_stack(some), Masks.of_stack(others)
    together, _ = overlaps(Masks(left.size, left.runs + right.runs))
    assert np.allclose(shared(left, right), together[: len(left), len(left) :])
