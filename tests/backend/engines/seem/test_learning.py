"""SEEM is shown what a label looks like: segments that look like it bear its name, and without it nothing has changed."""

from __future__ import annotations

import numpy as np
import pytest

from backend.engines.base import Engine, LearnsLabels
from backend.segmenter import Segmenter
from backend.values.features import FeatureCache
from backend.values.masks import MaskSet
from backend.values.session import ForEverything, ForNames, Question, Round
from prompts.kinds import KeyedImage
from prompts.memory import LabelMemory, learn, margins_of
from prompts.phrases import Vocabulary

pytestmark = pytest.mark.slow

BLICKET = "blicket"


def answer(segmenter: Segmenter, question: Question) -> MaskSet:
    (done,) = segmenter.segment([question])
    assert isinstance(done, Round), done
    return done.masks


def alike(segmenter: Segmenter, image: KeyedImage, masks: MaskSet, learnt: tuple[LabelMemory, ...]) -> list[bool]:
    """Which masks look more like the examples of the label than like what is around them."""
    decoder = segmenter.engine.decoder
    assert isinstance(decoder, LearnsLabels)
    (features,) = decoder.encode_images([image.pixels])
    return [bool(margin > 0) for margin in margins_of(decoder.places_of(features), list(masks.masks), learnt)[:, 0]]


def test_a_segment_that_was_accepted_is_found_again_under_its_label(engine: Engine, photo: np.ndarray) -> None:
    segmenter, image, names = Segmenter(engine, FeatureCache(1 << 28)), KeyedImage.of(photo), Vocabulary.from_names([BLICKET])
    everything = answer(segmenter, ForEverything(image))
    areas = everything.masks.areas if len(everything) else np.zeros(0)
    mask = everything.masks[int(areas.argmin())] if len(everything) else np.zeros(photo.shape[:2], np.bool_)
    if not mask.any():
        mask[20:50, 30:70] = True
    shown = segmenter.show(image, [(BLICKET, mask)])
    learnt = learn(names.entries, [shown], engine.version)
    before, after = answer(segmenter, ForNames(image, names)), answer(segmenter, ForNames(image, names, learnt))
    assert set(after.labels) <= {BLICKET}
    for segment, is_alike in zip(everything.masks, alike(segmenter, image, everything, learnt), strict=True):
        overlap = [float((each & segment).sum() / (each | segment).sum()) for each in after.masks]
        assert max(overlap, default=0.0) > 0.9 or not is_alike
    again = answer(segmenter, ForNames(image, names))
    assert np.array_equal(before.masks, again.masks)
