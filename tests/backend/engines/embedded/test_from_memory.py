"""What one half of a photo teaches about a word without a meaning is found on the other half."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from backend.segmenter import Segmenter
from backend.values.features import FeatureCache
from backend.values.masks import MaskSet
from backend.values.session import ForNames, Round
from prompts.examples import Examples, together
from prompts.geometry import BoolArray
from prompts.kinds import Image, KeyedImage
from prompts.memory import LabelMemory
from prompts.phrases import Vocabulary
from tests.contracts.test_engines import engine

COIN = "blicket"


def coins() -> tuple[Image, BoolArray]:
    """A photo of 24 coins in colour, and what Otsu's threshold finds in it without its dark corner's specks."""
    grey = data.coins()
    rough = cv2.threshold(cv2.GaussianBlur(grey, (5, 5), 0), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1]
    whole = cv2.morphologyEx(rough, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    whole = cv2.morphologyEx(whole, cv2.MORPH_OPEN, np.ones((15, 15), np.uint8)) > 0
    return np.repeat(grey[:, :, None], 3, axis=2), whole


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(engine("embedded"), FeatureCache(1 << 28))


def half(image: np.ndarray, which: int) -> np.ndarray:
    middle = image.shape[1] // 2
    return np.ascontiguousarray(image[60:, middle:] if which else image[60:, :middle])


def named(segmenter: Segmenter, image: Image, *learnt: LabelMemory) -> MaskSet:
    (done,) = segmenter.segment([ForNames(KeyedImage.of(image), Vocabulary.from_names([COIN]), learnt)])
    assert isinstance(done, Round), done
    return done.masks


def iou(masks: MaskSet, there: BoolArray) -> float:
    mine = masks.masks.union()
    return float((mine & there).sum() / (mine | there).sum())


def test_a_word_without_a_meaning_is_found_by_its_examples(segmenter: Segmenter) -> None:
    image, mask = coins()
    shown = segmenter.show(KeyedImage.of(half(image, 0)), [(COIN, half(mask, 0))])
    memory = LabelMemory(COIN, (COIN,), together([Examples(shown.inside[COIN], shown.outside)]), 1, segmenter.engine.version)
    before, after = named(segmenter, half(image, 1)), named(segmenter, half(image, 1), memory)
    assert iou(before, half(mask, 1)) < 0.3
    assert iou(after, half(mask, 1)) > 0.7
