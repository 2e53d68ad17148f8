"""The order of review: what is least certain comes first, and why; what is written where, and which pictures come twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backend.evaluation.samples import SAME_BITS, Ranked, Reviewing, difference_hash, duplicates, rank
from backend.labelstudio.api import ListedTask, StoredPrediction, TaskDetails
from backend.labelstudio.api import Project as ProjectRow
from backend.labelstudio.request.video import FilmPreannotation, read_videos
from backend.labelstudio.shapes import painted as rle
from backend.labelstudio.video_answer import Clock, write_tracks
from backend.values.errors import ImageError, RemoteError
from backend.video.timeline import Timeline
from backend.video.tracks import FrameMask, Track, Tracks
from prompts.geometry import BoolArray, Size
from prompts.kinds import KeyedImage
from tests.backend.bulk.studio_double import CONFIG
from tests.backend.pictures import disc, square, two_red_discs, two_shapes


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


class Studio:
    """A project of four tasks: the third without a prediction, the second and the fourth with the same picture."""

    def __init__(self) -> None:
        self.data: dict[int, Mapping[str, Any]] = {}
        self.scores: dict[int, float] = {}

    def list_tasks(self, _project: int) -> Iterator[ListedTask]:
        return (ListedTask(number, {}, 0, int(number != 3)) for number in (1, 2, 3, 4))

    def task(self, number: int) -> TaskDetails:
        mine = [(10 * number, "v1", 0.5), (10 * number + 1, "v2", 0.9)]
        predictions = tuple(StoredPrediction(id, version, score, [brush("a", "cat", score)]) for id, version, score in mine)
        return TaskDetails(number, {"image": f"{number}", "kept": True}, (), predictions)

    def project(self, _number: int) -> ProjectRow:
        return ProjectRow(1, "", "", CONFIG)

    def change_data(self, task: int, data: Mapping[str, Any]) -> None:
        self.data[task] = data

    def change_score(self, prediction: int, score: float) -> None:
        self.scores[prediction] = score


class Images:
    def __init__(self, trouble: Exception | None = None) -> None:
        self._trouble = trouble

    def load(self, url: str, project: str, task_id: str | None) -> KeyedImage:
        if url == "1" and self._trouble is not None:
            raise self._trouble
        picture = np.random.default_rng(int(url) % 2).integers(0, 255, (9, 9, 3))
        return KeyedImage.of(np.kron(picture, np.ones((8, 8, 1))).astype(np.uint8))


def reviewing(studio: Studio, version: str | None = None, trouble: Exception | None = None) -> Reviewing:
    return Reviewing(studio, 1, version, Images(trouble))  # type: ignore[arg-type]


def test_the_newest_prediction_is_ranked_or_that_of_a_version() -> None:
    assert [(each.task, each.prediction) for each in reviewing(Studio()).ranked()] == [(1, 11), (2, 21), (4, 41)]
    assert [each.uncertainty for each in reviewing(Studio(), "v1").ranked()] == [1, 1, 1]
    assert reviewing(Studio(), "v3").ranked() == []


def test_columns_are_added_to_the_data_and_scores_are_certainties() -> None:
    studio = Studio()
    review = reviewing(studio)
    review.write_data(review.ranked())
    review.write_scores(review.ranked())
    column = {"maskloom_uncertainty": 0.2, "maskloom_reason": "cat has a score of 0.90"}
    assert studio.data == {number: {"image": f"{number}", "kept": True, **column} for number in (1, 2, 4)}
    assert studio.scores == {11: 0.8, 21: 0.8, 41: 0.8}


@pytest.mark.parametrize("trouble", [ImageError("no such file"), RemoteError("the bucket is away", 503)])
def test_a_picture_that_comes_twice_needs_nobody_and_one_that_cannot_be_read_is_compared_with_none(trouble: Exception) -> None:
    review = reviewing(Studio(), trouble=trouble)
    found = {each.task: each for each in review.without_duplicates(review.ranked())}
    assert (found[4].uncertainty, found[4].reason) == (0.0, "shows the same as task 2")
    assert [found[number].uncertainty for number in (1, 2)] == [0.2, 0.2]


def test_a_service_that_does_not_answer_ends_the_search_for_duplicates() -> None:
    """It would be waited for at every image."""
    review = reviewing(Studio(), trouble=RemoteError("Label Studio did not answer for 600 s"))
    with pytest.raises(RemoteError):
        review.without_duplicates(review.ranked())


def test_a_film_is_ranked_by_its_doubtful_frames_and_says_which_they_are() -> None:
    """A ball that jumps in size on frame 20 and is gone for a while, beside one that is sure throughout."""
    jumping = {k: disc(60, 120, 30 + k, 30, 8 if k < 20 else 14) for k in range(60) if not 40 <= k < 44}
    steady = {k: disc(60, 120, 60, 30, 10) for k in range(60)}

    doubtful, sure = (rank(film_result(masks)) for masks in (jumping, steady))

    assert doubtful == Ranked(0.6, "look at frames 21, 45")
    assert sure == Ranked(0.0, "a track has a score of 1.00")


def film_result(masks: Mapping[int, BoolArray]) -> list[dict[str, Any]]:
    """The prediction of one object of a film of 60 frames."""
    config = '<View><Video name="v" value="$v"/><VideoRectangle name="b" toName="v"/><Labels name="l" toName="v">'
    (labels,) = read_videos(f'{config}<Label value="ball"/></Labels></View>')
    found = Tracks(Size(60, 120), 60, (Track(1, "ball", {k: FrameMask.of(mask, 1.0) for k, mask in masks.items()}),))
    clock = Clock(Timeline(np.arange(60) / 24, 60 / 24), Fraction(24))
    result: list[dict[str, Any]] = write_tracks(FilmPreannotation("1", "2", labels, "f", Fraction(24)), found, clock, "v")[
        "result"
    ]
    return result
