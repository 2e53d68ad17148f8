"""SEEM follows what looks like the prompted region: on every frame one of the masks that its own decoder finds, or none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from backend.engines.base import Engine, TrackingSession
from backend.engines.seem.tracking import SeemSession
from backend.values.masks import MaskSet
from prompts.kinds import KeyedImage, MaskPrompt, PointPrompt, PromptError, PromptSet, ReferencePrompt


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> Engine:
    from tests.backend.engines.seem.conftest import tiny_engine

    return tiny_engine("focaldw_v1")


def started(engine: Engine) -> TrackingSession:
    assert engine.tracker is not None
    return engine.tracker.start(1)


def region(image: np.ndarray) -> np.ndarray:
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[20:60, 30:80] = True
    return mask


def test_a_followed_object_is_what_the_decoder_finds_by_the_prompted_region(
    engine: Engine, photo: np.ndarray, ask: Callable[..., MaskSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the drawing from memory left out, the answer is one of those to the reference, the one nearest to the last mask."""
    monkeypatch.setattr(SeemSession, "_drawn_again", lambda self, features, found: found)
    mask, later = region(photo), np.roll(photo, 6, axis=1)
    session = started(engine)
    session.prompt(0, photo, 3, PromptSet((MaskPrompt(mask),)))

    found = session.follow(1, later)[3]

    expected = ask(engine, later, ReferencePrompt(KeyedImage.of(photo), mask))
    assert len(expected)
    overlaps = [(each & mask).sum() / (each | mask).sum() for each in expected.masks]
    worth = [score * (0.5 + 0.5 * overlap) for score, overlap in zip(expected.scores, overlaps, strict=True)]
    np.testing.assert_array_equal(found.mask, expected.masks[int(np.argmax(worth))])
    assert found.score == pytest.approx(float(expected.scores[int(np.argmax(worth))]), abs=1e-5)


def test_what_is_found_is_drawn_again_from_memory_unless_that_is_another_thing(engine: Engine, photo: np.ndarray) -> None:
    session = started(engine)
    session.prompt(0, photo, 1, PromptSet((MaskPrompt(region(photo)),)))
    asked: list[bool] = []
    decode = engine.decoder.decode

    def watched(features: object, prompts: PromptSet, tokens: object, memory: object) -> MaskSet:
        asked.append(memory is not None and bool(prompts.drawn))
        return decode(features, prompts, tokens, memory)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.decoder, "decode", watched)
        session.follow(1, photo)
    assert asked == [False, True]


def test_two_objects_are_followed_apart_and_two_prompted_frames_are_kept(engine: Engine, photo: np.ndarray) -> None:
    session = started(engine)
    other = np.zeros(photo.shape[:2], np.bool_)
    other[60:85, 90:120] = True
    for frame in range(5):
        session.prompt(frame, photo, 1, PromptSet((MaskPrompt(region(photo)),)))
    session.prompt(4, photo, 2, PromptSet((MaskPrompt(other),)))

    found = session.follow(5, photo)

    assert sorted(found) == [1, 2]
    assert isinstance(session, SeemSession)
    assert [len(known.shown) for known in session._objects.values()] == [2, 1]


def test_a_click_starts_a_track_and_nothing_drawn_on_the_object_is_refused(engine: Engine, photo: np.ndarray) -> None:
    session = started(engine)

    assert session.prompt(0, photo, 1, PromptSet((PointPrompt((50, 40)),))).mask.any()
    with pytest.raises(PromptError, match="drawn on the object"):
        session.prompt(0, photo, 2, PromptSet((PointPrompt((50, 40), positive=False),)))
