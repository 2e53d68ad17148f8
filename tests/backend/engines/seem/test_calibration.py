"""How sure a phrase is: it competes with the classes of training, but not with itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from backend.engines.base import Engine
from backend.engines.seem.vocabulary import NAMES, TrainedVocabulary


@pytest.fixture
def classes(engine_of: Callable[[str], Engine]) -> TrainedVocabulary:
    return engine_of("focaldw_v1").decoder._classes


@pytest.fixture
def means(engine_of: Callable[[str], Engine]) -> Callable[..., Tensor]:
    """The vectors of phrases."""
    return lambda *phrases: engine_of("focaldw_v1").space.embed_phrases(phrases)


def test_a_query_that_means_a_class_is_an_object_and_background_is_none(
    classes: TrainedVocabulary, means: Callable[..., Tensor]
) -> None:
    sure = classes.objectness(means("dog.", "umbrella.", "background."))
    assert (sure[:2] > 0.9).all()
    assert sure[2] < 0.5


def test_a_phrase_wins_where_its_meaning_is_shown_and_loses_where_another_class_is(
    classes: TrainedVocabulary, means: Callable[..., Tensor]
) -> None:
    phrase = means("the dog on the left")[0]
    chances = classes.chance(
        means("the dog on the left", "umbrella.", "background."), "the dog on the left", phrase, phrase[None][:0]
    )
    assert chances[0] > 0.9
    assert (chances[1:] < 0.1).all()


def test_a_class_does_not_compete_with_a_phrase_that_contains_its_word(
    classes: TrainedVocabulary, means: Callable[..., Tensor]
) -> None:
    shown, phrase = means("dog."), means("two dogs")[0]
    nothing = phrase[None][:0]
    with_word = classes.chance(shown, "two dogs", phrase, nothing)
    without = classes.chance(shown, "two animals", phrase, nothing)
    assert "dog" in NAMES
    assert with_word > without


def test_a_negative_phrase_takes_its_share(classes: TrainedVocabulary, means: Callable[..., Tensor]) -> None:
    shown, phrase = means("a red cup"), means("a red cup")[0]
    alone = classes.chance(shown, "a red cup", phrase, phrase[None][:0])
    against = classes.chance(shown, "a red cup", phrase, phrase[None])
    torch.testing.assert_close(against, alone / (1 + alone), atol=1e-3, rtol=0)
