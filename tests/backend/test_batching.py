"""Encodings of several callers at once, counted and not timed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from backend.engines import colour
from backend.engines.base import Engine
from backend.segmenter import Segmenter
from backend.values.features import Batching, EncodeQueue, FeatureCache, ImageFeatures
from backend.values.session import ForPrompts, Round
from prompts.geometry import Size
from prompts.kinds import KeyedImage, PointPrompt, PromptSet
from tests.backend.pictures import Picture, disc, paint

Image = NDArray[np.uint8]
LONG = 30.0


def image_of(value: int) -> Image:
    return np.full((2, 2, 3), value, np.uint8)


def value_of(features: ImageFeatures) -> int:
    return int(features.grid[0, 0, 0])


class Counting:
    """An encoder that writes down the batches that it is given."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.batches: list[list[int]] = []
        self._before = before

    def __call__(self, images: Sequence[Image]) -> list[ImageFeatures]:
        self.batches.append([int(image[0, 0, 0]) for image in images])
        self._before()
        if 13 in self.batches[-1]:
            raise RuntimeError("thirteen")
        return [ImageFeatures(Size(2, 2), torch.full((1, 1, 1), float(image[0, 0, 0]))) for image in images]


def together(*work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=one, daemon=True) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def ask_all(queue: EncodeQueue, *requests: tuple[int, ...]) -> dict[tuple[int, ...], list[int | str]]:
    """What each of several callers at the same time gets."""
    answers: dict[tuple[int, ...], list[int | str]] = {}

    def one(values: tuple[int, ...]) -> None:
        encoded = queue([image_of(value) for value in values])
        answers[values] = [str(each) if isinstance(each, Exception) else value_of(each) for each in encoded]

    together(*[lambda values=values: one(values) for values in requests])
    return answers


def test_callers_at_the_same_time_become_one_batch_as_soon_as_it_is_full() -> None:
    encoder = Counting()
    queue = EncodeQueue(encoder, threading.Lock(), Batching(6, LONG))
    answers = ask_all(queue, (1,), (2,), (3, 4), (5,), (6,))
    assert [sorted(batch) for batch in encoder.batches] == [[1, 2, 3, 4, 5, 6]]
    assert answers == {(1,): [1], (2,): [2], (3, 4): [3, 4], (5,): [5], (6,): [6]}


def test_what_comes_while_the_device_is_busy_is_the_next_batch_of_a_bounded_size() -> None:
    """The device is held by somebody who decodes until all have come; nobody waits for a window."""
    encoder, device = Counting(), threading.Lock()
    queue = EncodeQueue(encoder, device, Batching(4, 0.0))
    device.acquire()
    release = threading.Thread(target=lambda: (until(lambda: queue.images_waiting == 10), device.release()))
    release.start()
    answers = ask_all(queue, *((value,) for value in range(10)))
    release.join()
    assert [len(batch) for batch in encoder.batches] == [4, 4, 2]
    assert answers == {(value,): [value] for value in range(10)}


def test_who_waits_can_be_counted_while_requests_come_and_go() -> None:
    """Whoever scraped the metrics under load got an error: a queue must not change while it is counted."""
    queue, counted, ended = EncodeQueue(Counting(), threading.Lock(), Batching(2, 0.0)), list[int](), threading.Event()

    def count() -> None:
        while not ended.is_set():
            counted.append(queue.images_waiting)

    watcher = threading.Thread(target=count)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        watcher.start()
        for start in range(0, 240, 8):
            ask_all(queue, *((value,) for value in range(start, start + 8)))
    finally:
        ended.set()
        watcher.join()
        sys.setswitchinterval(before)
    assert counted
    assert 0 <= min(counted) <= max(counted) <= 8


def until(condition: Callable[[], bool]) -> None:
    waited = threading.Event()
    while not condition() and not waited.wait(0.005):
        pass


def test_no_more_images_are_encoded_together_than_fit_whoever_asks_for_them() -> None:
    encoder = Counting()
    queue = EncodeQueue(encoder, threading.Lock(), Batching(2, LONG))
    assert ask_all(queue, tuple(range(5))) == {tuple(range(5)): list(range(5))}
    assert encoder.batches == [[0, 1], [2, 3], [4]]


def test_a_lone_caller_waits_for_nobody_where_batches_are_of_one() -> None:
    queue = EncodeQueue(Counting(), threading.Lock(), Batching(1, LONG))
    together(*[lambda value=value: queue([image_of(value)]) for value in range(3)])


def test_an_image_that_cannot_be_encoded_fails_its_own_caller_alone() -> None:
    encoder = Counting()
    queue = EncodeQueue(encoder, threading.Lock(), Batching(3, LONG))
    answers = ask_all(queue, (1,), (13,), (2,))
    assert answers == {(1,): [1], (13,): ["thirteen"], (2,): [2]}
    assert ask_all(queue, (3,), (4,), (5,)) == {(3,): [3], (4,): [4], (5,): [5]}


def test_an_encoder_that_loses_an_image_of_a_batch_is_asked_for_each_alone() -> None:
    encoder = Counting()
    queue = EncodeQueue(lambda images: encoder(images)[: 1 if len(images) > 1 else None], threading.Lock(), Batching(2, LONG))
    assert ask_all(queue, (1,), (2,)) == {(1,): [1], (2,): [2]}


class Watched:
    """The colour engine's decoder, with the sizes of the batches that it encodes."""

    def __init__(self) -> None:
        self._decoder = colour.build(None).decoder
        self.batches: list[int] = []

    def encode_images(self, images: Sequence[Image]) -> list[ImageFeatures]:
        self.batches.append(len(images))
        return self._decoder.encode_images(images)

    decode = property(lambda self: self._decoder.decode)


def ball(x: int) -> Picture:
    return paint({"ball": (disc(80, 120, x, 40, 15), (255, 0, 0))})


@pytest.mark.parametrize("users", [2, 8])
def test_users_on_different_images_are_answered_as_if_alone_from_one_encoding_batch(users: int) -> None:
    space, decoder = colour.build(None).space, Watched()
    segmenter = Segmenter(Engine("c", "c-1", space, decoder), FeatureCache(1 << 26), Batching(users, LONG))  # type: ignore[arg-type]
    pictures = [ball(20 + 10 * user) for user in range(users)]
    questions = [
        ForPrompts(KeyedImage.of(picture.image), PromptSet((PointPrompt((20 + 10 * user, 40)),)))
        for user, picture in enumerate(pictures)
    ]
    answers: dict[int, Round] = {}

    def work(user: int) -> None:
        for _ in range(2):
            (done,) = segmenter.segment([questions[user]])
            assert isinstance(done, Round), done
            answers[user] = done

    together(*[lambda user=user: work(user) for user in range(users)])
    assert decoder.batches == [users]
    alone = Segmenter(colour.build(None), FeatureCache(1))
    for user, question in enumerate(questions):
        (truth,) = alone.segment([question])
        assert isinstance(truth, Round)
        assert np.array_equal(answers[user].masks.masks, truth.masks.masks)
        assert np.array_equal(answers[user].masks.scores, truth.masks.scores)


def test_users_on_the_same_image_share_one_encoding() -> None:
    space, decoder = colour.build(None).space, Watched()
    segmenter = Segmenter(Engine("c", "c-1", space, decoder), FeatureCache(1 << 26), Batching(8, 0.2))  # type: ignore[arg-type]
    question = ForPrompts(KeyedImage.of(ball(40).image), PromptSet((PointPrompt((40, 40)),)))
    together(*[lambda: segmenter.segment([question])] * 6)
    assert decoder.batches == [1]
