"""What every engine with a tracker promises of what it follows, whatever it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from backend.engines.base import TrackedMask, Tracker
from backend.segmenter import Segmenter
from backend.serving.films import seen_on
from backend.values.features import FeatureCache
from backend.values.session import ForNames
from backend.video.film import open_film
from backend.video.finding import find_all
from prompts.geometry import size_of
from prompts.kinds import Image, KeyedImage, MaskPrompt, PointPrompt, Prompt, PromptError, PromptSet
from prompts.phrases import LabelPhrases, Vocabulary
from tests.backend.engines.tiny_bundles import by_speed
from tests.backend.pictures import square
from tests.backend.video.films import Recipe, write_film
from tests.contracts.test_engines import DRAWN, HERE, engine

NAMES = ("colour", "embedded", "sam2-tiny")
"""The trackers of EdgeTAM, SAM 3 and SEEM have tests of their own, with networks that have a memory."""
HERE_SIZE = size_of(HERE.image)
BLUE, RED = MaskPrompt(HERE.shapes["blue square"]), MaskPrompt(HERE.shapes["red disc"])


@pytest.fixture(params=by_speed(NAMES))
def tracker(request: pytest.FixtureRequest) -> Tracker:
    found = engine(request.param).tracker
    assert found is not None
    return found


def film(count: int = 4) -> list[Image]:
    """The two shapes, which go down by a pixel a frame."""
    return [np.roll(HERE.image, number, axis=0) for number in range(count)]


def followed(
    tracker: Tracker, direction: Literal[1, -1], prompts: Mapping[int, Mapping[int, Prompt]]
) -> list[dict[int, TrackedMask]]:
    """The answers on every frame; ``prompts`` by frame and object."""
    session, answers = tracker.start(direction), []
    for number, image in enumerate(film()):
        here = session.follow(number * direction, image)
        for object_id, prompt in prompts.get(number, {}).items():
            here[object_id] = session.prompt(number * direction, image, object_id, PromptSet((prompt,)))
        answers.append(here)
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRAWN)
def test_everything_that_can_be_drawn_starts_a_track(tracker: Tracker, kind: str) -> None:
    session, (first, second, *_) = tracker.start(1), film()

    answers = [session.prompt(0, first, 7, PromptSet(DRAWN[kind])), session.follow(1, second)[7]]

    for answer in answers:
        assert answer.mask.shape == (80, 120)
        assert answer.mask.dtype == np.bool_
        assert 0 <= answer.score <= 1


def test_nothing_is_followed_before_something_is_drawn_and_what_it_is_not_starts_none(tracker: Tracker) -> None:
    session = tracker.start(1)

    assert session.follow(0, film()[0]) == {}
    with pytest.raises(PromptError, match="drawn on the object"):
        session.prompt(0, film()[0], 1, PromptSet((PointPrompt((85, 40), positive=False),)))
    assert session.follow(1, film()[1]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("direction", [1, -1])
def test_an_object_that_comes_later_leaves_the_earlier_one_where_it_was(tracker: Tracker, direction: Literal[1, -1]) -> None:
    alone = followed(tracker, direction, {0: {1: BLUE}})
    both = followed(tracker, direction, {0: {1: BLUE}, 2: {2: RED}})

    assert [sorted(answers) for answers in both] == [[1], [1], [1, 2], [1, 2]]
    for one, other in zip(alone, both, strict=True):
        assert np.logical_xor(one[1].mask, other[1].mask).mean() < 0.005


@pytest.mark.slow
def test_a_mask_on_a_later_frame_is_the_answer_there_and_changes_nothing_before(tracker: Tracker) -> None:
    corrected = MaskPrompt(square(80, 120, 30, 40, 20))
    plain, mended = followed(tracker, 1, {0: {1: BLUE}}), followed(tracker, 1, {0: {1: BLUE}, 2: {1: corrected}})

    for before, after in zip(plain[:2], mended[:2], strict=True):
        np.testing.assert_array_equal(before[1].mask, after[1].mask)
    shown = mended[2][1].mask
    assert not shown.any() or np.logical_xor(shown, corrected.mask).mean() < 0.05


@pytest.mark.parametrize("name", by_speed(NAMES))
def test_names_are_looked_for_in_a_film_and_what_is_found_is_followed(name: str, tmp_path: Path) -> None:
    segmenter = Segmenter(engine(name), FeatureCache(1 << 28))
    opened = open_film(write_film(tmp_path / "a.mkv", film(), Recipe(codec="ffv1", rate=Fraction(4))))
    names = Vocabulary(tuple(LabelPhrases.of(each, ()) for each in HERE.shapes))

    found = find_all(
        opened,
        segmenter.tracker(),
        lambda image: seen_on(segmenter, ForNames(KeyedImage.of(image), names), lambda masks: masks),
    )

    assert (found.size, found.length) == (HERE_SIZE, 4)
    for track in found.tracks:
        assert track.label in HERE.shapes
        assert set(track.masks) <= set(range(4))
        assert all(mask.size == HERE_SIZE and mask.area and 0 <= mask.score <= 1 for mask in track.masks.values())
    if name == "colour":
        assert {track.label for track in found.tracks if len(track.masks) == 4} == set(HERE.shapes)
