"""The review order of a project: what is written where, and which pictures come twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from backend.evaluation.review import Reviewing
from backend.labelstudio.api import ListedTask, StoredPrediction, TaskDetails
from backend.labelstudio.api import Project as ProjectRow
from backend.values.errors import ImageError, RemoteError
from prompts.kinds import KeyedImage
from tests.backend.bulk.studio_double import CONFIG
from tests.backend.evaluation.test_rank import brush


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
