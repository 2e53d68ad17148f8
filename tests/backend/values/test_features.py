from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from backend.values.features import Encoded, FeatureCache, ImageFeatures
from prompts.geometry import Size
from prompts.kinds import KeyedImage

Image = NDArray[np.uint8]
CELL = 4 * 2 * 2 * 4
"""The bytes of the features below: a grid (4, 2, 2) of float32."""


def image_of(value: int) -> Image:
    return np.full((2, 2, 3), value, np.uint8)


def features_of(image: Image) -> ImageFeatures:
    """Features that tell which image they are of."""
    return ImageFeatures(Size(2, 2), torch.full((4, 2, 2), float(image[0, 0, 0])))


def encode(images: Sequence[Image]) -> list[ImageFeatures]:
    return [features_of(image) for image in images]


def value_of(features: ImageFeatures) -> int:
    return int(features.grid[0, 0, 0])


class Counting:
    """An encoder that writes down every image that it is given, and may wait for somebody first."""

    def __init__(self, wait: Callable[[], object] = lambda: None) -> None:
        self.seen: list[int] = []
        self._wait = wait

    def __call__(self, images: Sequence[Image]) -> list[ImageFeatures]:
        self.seen += [int(image[0, 0, 0]) for image in images]
        self._wait()
        return encode(images)


def ask(cache: FeatureCache, encoder: Callable[[Sequence[Image]], Sequence[ImageFeatures]], *values: int) -> list[int]:
    """What the cache answers for images of these values, as values."""
    images = [image_of(value) for value in values]
    found = cache.get_or_encode([KeyedImage.of(image).key for image in images], images, encoder)
    return [value_of(each) for each in map(whole, found)]


def whole(each: Encoded) -> ImageFeatures:
    if isinstance(each, Exception):
        raise each
    return each


def together(*work: Callable[[], object], release: threading.Event | None = None) -> None:
    """All at once, each in a thread; fails when one of them never ends. ``release`` is set once all are waiting."""
    threads = [threading.Thread(target=one, daemon=True) for one in work]
    for thread in threads:
        thread.start()
    if release:
        time.sleep(0.5)
        release.set()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_an_image_is_encoded_once() -> None:
    cache, encoder = FeatureCache(10 * CELL), Counting()
    assert ask(cache, encoder, 1) == [1]
    assert ask(cache, encoder, 1) == [1]
    assert encoder.seen == [1]
    assert cache.encoded == 1


def test_the_missing_images_of_a_batch_are_encoded_together_and_each_once() -> None:
    cache, encoder = FeatureCache(10 * CELL), Counting()
    ask(cache, encoder, 2)
    batches: list[int] = []

    def watched(images: Sequence[Image]) -> list[ImageFeatures]:
        batches.append(len(images))
        return encoder(images)

    assert ask(cache, watched, 3, 2, 1, 3) == [3, 2, 1, 3]
    assert batches == [2]
    assert encoder.seen == [2, 3, 1]


def test_nothing_is_encoded_for_nothing() -> None:
    assert ask(FeatureCache(CELL), Counting(lambda: pytest.fail("called for nothing"))) == []


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_the_bytes_are_bounded_and_the_least_recently_used_go_first(asked: list[int], room: int) -> None:
    cache, encoder = FeatureCache(room * CELL), Counting()
    kept: list[int] = []
    encoded: list[int] = []
    for value in asked:
        assert ask(cache, encoder, value) == [value]
        if value in kept:
            kept.remove(value)
        else:
            encoded.append(value)
        kept = [*kept, value][-room:] if room else []
        assert sum(kept.result.nbytes for kept in cache._kept._kept.values()) == cache.nbytes <= room * CELL
    assert encoder.seen == encoded


def test_an_image_larger_than_the_cache_is_answered_and_drives_nothing_out() -> None:
    """It used to empty the cache: everything older was dropped before the image itself was."""
    cache, encoder = FeatureCache(2 * CELL), Counting()
    ask(cache, encoder, 1, 2)
    large = ImageFeatures(Size(2, 2), torch.zeros(4, 100, 100))
    assert cache.get_or_encode(["large"], [image_of(9)], lambda images: [large])[0].nbytes == large.nbytes
    ask(cache, encoder, 1, 2)
    assert encoder.seen == [1, 2]


def test_a_kept_image_does_not_keep_the_rest_of_its_batch_in_memory() -> None:
    """A slice of a batch's tensor holds the storage of the whole batch, which no count of elements sees."""
    cache = FeatureCache(CELL)
    images = [image_of(value) for value in range(8)]
    batch = torch.arange(8.0)[:, None, None, None].expand(8, 4, 2, 2).contiguous()

    def encode_in_one(images: Sequence[Image]) -> list[ImageFeatures]:
        return [ImageFeatures(Size(2, 2), row, {"more": row[:0]}) for row in batch]

    found = cache.get_or_encode([str(value) for value in range(8)], images, encode_in_one)
    assert [value_of(features) for features in found] == list(range(8))
    (kept,) = (kept.result for kept in cache._kept._kept.values())
    assert kept.grid.untyped_storage().nbytes() == CELL
    assert kept.tensors["more"].untyped_storage().nbytes() == 0


def test_threads_that_want_one_image_share_one_encoding() -> None:
    release = threading.Event()
    cache, encoder = FeatureCache(10 * CELL), Counting(lambda: release.wait(10))
    answers: list[list[int]] = []
    together(*[lambda: answers.append(ask(cache, encoder, 1))] * 8, release=release)
    assert answers == [[1]] * 8
    assert encoder.seen == [1]


def test_waiters_are_answered_even_when_the_cache_keeps_nothing() -> None:
    release = threading.Event()
    cache, encoder = FeatureCache(0), Counting(lambda: release.wait(10))
    answers: list[list[int]] = []
    together(*[lambda: answers.append(ask(cache, encoder, 1))] * 4, release=release)
    assert answers == [[1]] * 4
    assert encoder.seen == [1]


def test_batches_that_wait_for_each_other_both_end() -> None:
    """Each thread encodes an image that the other one waits for."""
    cache, both, claimed = FeatureCache(10 * CELL), threading.Barrier(2, timeout=10), threading.Event()
    encoder = Counting(lambda: (claimed.set(), both.wait()))
    answers: dict[str, list[int]] = {}

    def first() -> None:
        answers["first"] = ask(cache, encoder, 1, 2)

    def second() -> None:
        claimed.wait(10)
        answers["second"] = ask(cache, encoder, 3, 2, 1)

    together(first, second)
    assert answers == {"first": [1, 2], "second": [3, 2, 1]}
    assert sorted(encoder.seen) == [1, 2, 3]


def test_an_encoding_that_fails_fails_every_waiter_once_and_is_tried_again_next_time() -> None:
    cache, attempts, release = FeatureCache(10 * CELL), [], threading.Event()
    failures: list[BaseException] = []

    def fail(images: Sequence[Image]) -> list[ImageFeatures]:
        attempts.append(len(images))
        release.wait(10)
        raise RuntimeError("out of memory")

    def one() -> None:
        try:
            ask(cache, fail, 1)
        except RuntimeError as error:
            failures.append(error)

    together(*[one] * 5, release=release)
    assert attempts == [1]
    assert [str(error) for error in failures] == ["out of memory"] * 5
    assert cache.encoded == 0
    assert ask(cache, encode, 1) == [1]


def test_an_encoder_that_loses_an_image_fails_and_leaves_nobody_waiting() -> None:
    cache = FeatureCache(10 * CELL)
    with pytest.raises(ValueError, match="zip"):
        ask(cache, lambda images: encode(images)[1:], 1, 2)
    assert ask(cache, encode, 1, 2) == [1, 2]


def test_an_image_that_cannot_be_encoded_costs_the_others_of_its_batch_nothing() -> None:
    """Somebody who waited for a good image got the error of a bad one that had been asked for together with it."""
    release, attempts = threading.Event(), Counting(lambda: release.wait(10))

    def refuse_two(images: Sequence[Image]) -> list[Encoded]:
        return [RuntimeError("two") if value_of(one) == 2 else one for one in attempts(images)]

    cache = FeatureCache(10 * CELL)
    failures: list[str] = []
    answers: list[list[int]] = []

    def first() -> None:
        try:
            ask(cache, refuse_two, 1, 2, 3)
        except RuntimeError as error:
            failures.append(str(error))

    def second() -> None:
        time.sleep(0.2)
        answers.append(ask(cache, refuse_two, 3))

    together(first, second, release=release)
    assert failures == ["two"]
    assert answers == [[3]]
    assert attempts.seen == [1, 2, 3]
    assert ask(cache, refuse_two, 1) == [1]
    assert attempts.seen == [1, 2, 3], "what was good is kept"
    assert cache._kept._under_way == {}


def test_one_image_that_is_asked_for_twice_is_one_object() -> None:
    """A decoder tells by it that a reference region lies on the image itself; in float16 too, where all are widened."""
    for dtype in (torch.float32, torch.float16):
        cache = FeatureCache(10 * CELL, dtype)
        first, other, again = cache.get_or_encode(["a", "b", "a"], [image_of(1), image_of(2), image_of(1)], encode)
        assert first is again
        assert first is not other


def test_threads_on_many_images_never_get_the_features_of_another_one() -> None:
    cache = FeatureCache(5 * CELL)
    wrong: list[tuple[int, ...]] = []

    def work(seed: int) -> None:
        chosen = np.random.default_rng(seed)
        for _ in range(100):
            values = tuple(chosen.integers(0, 16, 3).tolist())
            if ask(cache, encode, *values) != list(values):
                wrong.append(values)

    together(*[lambda seed=seed: work(seed) for seed in range(8)])
    assert wrong == []
    assert cache.nbytes <= 5 * CELL
    assert cache._kept._under_way == {}


def quarters() -> ImageFeatures:
    """An image of 40 x 60 pixels with a grid of 2 x 3 cells, each of its own direction in six dimensions."""
    return ImageFeatures(Size(40, 60), torch.eye(6).reshape(6, 2, 3))


def test_points_read_the_cell_that_they_lie_in() -> None:
    points = np.array([[0, 0], [19.9, 19.9], [20, 0], [59.9, 39.9], [5, 20]], np.float64)
    assert quarters().sample(points).argmax(dim=1).tolist() == [0, 0, 1, 5, 3]


def test_points_on_or_beyond_the_edge_read_the_nearest_cell() -> None:
    points = np.array([[60, 40], [-3, -3], [1000, 0]], np.float64)
    assert quarters().sample(points).argmax(dim=1).tolist() == [5, 0, 2]


def test_no_points_read_no_rows() -> None:
    assert quarters().sample(np.empty((0, 2))).shape == (0, 6)


def test_a_region_is_the_mean_of_its_cells_by_the_area_that_it_has_in_each() -> None:
    mask = np.zeros((40, 60), np.bool_)
    mask[:20, :20] = True
    mask[:20, 20:25] = True
    pooled = quarters().pool(mask)
    truth = torch.nn.functional.normalize(torch.tensor([1.0, 0.25, 0, 0, 0, 0]), dim=0)
    assert torch.allclose(pooled, truth, atol=1e-6)


def test_an_empty_region_is_the_zero_vector() -> None:
    assert quarters().pool(np.zeros((40, 60), np.bool_)).tolist() == [0] * 6


def test_an_image_of_one_pixel_can_be_read() -> None:
    features = ImageFeatures(Size(1, 1), torch.eye(4).reshape(4, 2, 2))
    assert features.sample(np.array([[0.5, 0.5]])).shape == (1, 4)
    assert torch.isclose(features.pool(np.ones((1, 1), np.bool_)).norm(), torch.tensor(1.0))


def test_the_bytes_of_features_are_those_of_all_their_tensors() -> None:
    features = ImageFeatures(Size(2, 2), torch.zeros(4, 2, 2), {"a": torch.zeros(10, dtype=torch.uint8), "b": torch.zeros(3)})
    assert features.nbytes == CELL + 10 + 12


def random_features(seed: int) -> ImageFeatures:
    """Features as a decoder of the SAM family has them: a grid of unit vectors, embeddings, a copy of the image."""
    torch.manual_seed(seed)
    grid = torch.nn.functional.normalize(torch.randn(8, 4, 5), dim=0)
    tensors = {"level0": torch.randn(4, 6, 6) * 30, "pixels": torch.randint(0, 256, (7, 9, 3), dtype=torch.uint8)}
    return ImageFeatures(Size(70, 90), grid, tensors)


def test_in_float16_features_take_half_the_memory_and_come_back_in_float32_nearly_the_same() -> None:
    made = random_features(0)
    cache = FeatureCache(1 << 20, torch.float16)
    (fresh,) = cache.get_or_encode(["a"], [image_of(0)], lambda images: [made])
    (again,) = cache.get_or_encode(["a"], [image_of(0)], lambda images: pytest.fail("encoded twice"))
    floats = (made.grid.numel() + made.tensors["level0"].numel()) * 4
    assert cache.nbytes == made.nbytes - floats // 2
    for name in ("grid", "level0"):
        ours, theirs, later = (one.grid if name == "grid" else one.tensors[name] for one in (fresh, made, again))
        assert ours.dtype == torch.float32
        assert torch.equal(ours, later)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert torch.equal(fresh.tensors["pixels"], made.tensors["pixels"])


def test_a_number_that_float16_does_not_reach_becomes_its_largest() -> None:
    halved = ImageFeatures(Size(1, 1), torch.tensor([[[1e9]], [[-1e9]]])).halved().widened()
    assert halved.grid.flatten().tolist() == [65504, -65504]


class Remembering:
    """A place beside memory that writes down what it is given and asked for."""

    def __init__(self) -> None:
        self.kept: dict[str, ImageFeatures] = {}
        self.asked: list[str] = []

    def get(self, key: str) -> ImageFeatures | None:
        self.asked.append(key)
        return self.kept.get(key)

    def put(self, key: str, features: ImageFeatures) -> None:
        self.kept[key] = features

    def __contains__(self, key: str) -> bool:
        return key in self.kept


def test_what_memory_has_no_room_for_is_read_back_instead_of_encoded_again() -> None:
    beside, encoder = Remembering(), Counting()
    cache = FeatureCache(2 * CELL, spill=beside)
    for value in (1, 2, 3, 1, 2, 3):
        assert ask(cache, encoder, value) == [value]
        assert cache.nbytes <= 2 * CELL
    assert encoder.seen == [1, 2, 3]
    assert cache.encoded == 3


def test_an_image_larger_than_memory_is_kept_beside_it() -> None:
    beside, encoder = Remembering(), Counting()
    cache = FeatureCache(CELL - 1, spill=beside)
    assert [ask(cache, encoder, 1) for _ in range(3)] == [[1]] * 3
    assert encoder.seen == [1]


def test_threads_that_want_one_spilled_image_read_it_once() -> None:
    beside, encoder = Remembering(), Counting()
    cache = FeatureCache(CELL, spill=beside)
    ask(cache, encoder, 1)
    ask(cache, encoder, 2)
    release, read = threading.Event(), beside.get

    def slow(key: str) -> ImageFeatures | None:
        release.wait(10)
        return read(key)

    beside.get, beside.asked = slow, []  # type: ignore[method-assign]
    together(*[lambda: ask(cache, encoder, 1)] * 4, release=release)
    assert len(beside.asked) == 1
    assert encoder.seen == [1, 2]
