"""What every engine promises that can be shown what labels look like: nonsense words are found by their examples alone."""

from __future__ import annotations

import numpy as np
import pytest

from backend.engines.base import LearnsLabels
from backend.segmenter import Segmenter
from backend.values.features import FeatureCache
from backend.values.masks import MaskSet
from backend.values.session import ForNames, ForPrompts, Question, Round
from prompts.examples import Examples, together
from prompts.kinds import KeyedImage, PromptSet, TextPrompt
from prompts.memory import LabelMemory
from prompts.phrases import Vocabulary
from tests.backend.engines.tiny_bundles import by_speed
from tests.backend.pictures import two_red_discs, two_shapes
from tests.contracts.test_engines import NAMES, engine

HERE, THERE = two_shapes(), two_red_discs()
BLICKET, DAX = "blicket", "dax"
DRAW_NOTHING = {"sam2-tiny", "sam-base", "sam-hq-base"}
"""Engines whose small networks, which were never trained, draw nothing where DINO's patches point."""


@pytest.fixture(params=by_speed(NAMES), scope="module")
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    made = Segmenter(engine(request.param), FeatureCache(1 << 28))
    assert isinstance(made.engine.decoder, LearnsLabels)
    return made


def taught(segmenter: Segmenter, **shapes: str) -> tuple[LabelMemory, ...]:
    """Memories of labels that were each shown one shape of the other picture."""
    regions = [(label, THERE.shapes[shape]) for label, shape in shapes.items()]
    shown = segmenter.show(KeyedImage.of(THERE.image), regions)
    space = segmenter.engine.version
    return tuple(
        LabelMemory(label, (label,), together([Examples(shown.inside[label], shown.outside)]), 1, space) for label in shapes
    )


def answer(segmenter: Segmenter, question: Question) -> MaskSet:
    (done,) = segmenter.segment([question])
    assert isinstance(done, Round), done
    return done.masks


def named(segmenter: Segmenter, learnt: tuple[LabelMemory, ...], *names: str) -> MaskSet:
    return answer(segmenter, ForNames(KeyedImage.of(HERE.image), Vocabulary.from_names(names), learnt))


def test_two_words_that_were_shown_answer_under_their_names(segmenter: Segmenter) -> None:
    masks = named(segmenter, taught(segmenter, blicket="blue square", dax="large"), BLICKET, DAX)
    assert len(masks) or segmenter.engine.name in DRAW_NOTHING
    assert set(masks.labels) <= {BLICKET, DAX}
    assert masks.masks.decode().any(axis=(1, 2)).all()


def test_what_was_shown_has_the_same_answer_twice(segmenter: Segmenter) -> None:
    first, second = (named(segmenter, taught(segmenter, dax="large"), DAX, BLICKET) for _ in range(2))
    assert np.array_equal(first.masks, second.masks)
    assert np.array_equal(first.scores, second.scores)
    assert first.labels == second.labels


def test_the_bare_word_typed_is_answered_as_in_a_pre_annotation(segmenter: Segmenter) -> None:
    learnt, vocabulary = taught(segmenter, dax="large"), Vocabulary.from_names([DAX])
    typed = ForPrompts(KeyedImage.of(HERE.image), PromptSet((TextPrompt(DAX),)), vocabulary, learnt=learnt)
    assert np.array_equal(answer(segmenter, typed).masks, named(segmenter, learnt, DAX).masks)


def test_without_its_memories_an_engine_answers_as_if_nothing_had_been_shown(segmenter: Segmenter) -> None:
    before = named(segmenter, (), "red disc", BLICKET)
    named(segmenter, taught(segmenter, blicket="blue square"), "red disc", BLICKET)
    after = named(segmenter, (), "red disc", BLICKET)
    assert before.labels == after.labels
    assert np.array_equal(before.masks, after.masks)
    assert np.array_equal(before.scores, after.scores)


def test_what_another_engine_was_shown_is_not_read(segmenter: Segmenter) -> None:
    (memory,) = taught(segmenter, blicket="blue square")
    foreign = LabelMemory(memory.label, memory.phrases, memory.shown, 1, "another engine")
    before, after = named(segmenter, (), BLICKET), named(segmenter, (foreign,), BLICKET)
    assert np.array_equal(before.masks, after.masks)
