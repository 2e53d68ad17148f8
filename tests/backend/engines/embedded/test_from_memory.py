"""What one half of a photo teaches about a word without a meaning is found on the other half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data
from torch import Tensor

from backend.engines.embedded.evidence import Classed, Evidence
from backend.engines.embedded.from_memory import alike_as_wholes, redrawn, renamed
from backend.engines.embedded.from_text import Found
from backend.engines.embedded.network import SAID, ViewDecoder
from backend.engines.embedded.places import CLOSE
from backend.engines.embedded.places import CONTEXT as CHANNELS
from backend.engines.embedded.views import CLASSED, CONTEXT, REGIONS, Answer, Canvas, Reader
from backend.segmenter import Segmenter
from backend.serving.learnt import PLACES as PLACES_OF_EXAMPLES
from backend.values.features import FeatureCache, ImageFeatures
from backend.values.masks import MaskSet
from backend.values.session import ForNames, ForPrompts, Round
from prompts.examples import Examples, together
from prompts.geometry import BoolArray, Size
from prompts.kinds import Image, KeyedImage, PointPrompt, PromptSet
from prompts.memory import Compared, LabelMemory, learn
from prompts.phrases import Vocabulary
from tests.backend.pictures import disc
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


@pytest.mark.slow
def test_a_word_without_a_meaning_is_found_by_its_examples(segmenter: Segmenter) -> None:
    image, mask = coins()
    shown = segmenter.show(KeyedImage.of(half(image, 0)), [(COIN, half(mask, 0))])
    memory = LabelMemory(COIN, (COIN,), together([Examples(shown.inside[COIN], shown.outside)]), 1, segmenter.engine.version)
    before, after = named(segmenter, half(image, 1)), named(segmenter, half(image, 1), memory)
    assert iou(before, half(mask, 1)) < 0.3
    assert iou(after, half(mask, 1)) > 0.7


class Believing(ViewDecoder):
    """Finds what it is told, in every view."""

    def forward(
        self, image: Tensor, maps: Tensor, grid: Tensor, context: Tensor, close: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        said = torch.nn.functional.interpolate(maps[:, SAID][:, None], size=(96, 96), mode="bilinear")[:, 0]
        return said * 8 - 4, torch.ones(len(image))


BELIEVING = Reader(Believing(CHANNELS, CLOSE), lambda _: [])
WHOLE, PART = disc(240, 240, 120, 120, 60), disc(240, 240, 100, 120, 38)
CANVAS = Canvas(
    ImageFeatures(Size(240, 240), torch.zeros(4, 8, 8), {CONTEXT: torch.zeros(4, 8, 8)}), np.zeros((240, 240, 3), np.uint8)
)


def found_at(mask: BoolArray) -> Found:
    return Found(0, Answer(np.where(mask, 3, -3).astype(np.float32), 0.4), Evidence(0.8, 0, 0, 0, 0.4, Classed()))


def chance(mask: BoolArray) -> NDArray[np.float32]:
    return np.where(mask, 0.95, 0.05).astype(np.float32)


def test_a_click_is_not_led_astray_by_examples_that_show_what_is_around_it(segmenter: Segmenter) -> None:
    """The felt under the coins was accepted as coins twice: clicks on coins are answered as if nobody had shown anything."""
    image, coin = coins()
    felt = [(KeyedImage.of(turned(half(image, 0))), turned(~half(coin, 0))) for turned in (np.array, np.fliplr)]
    shown = [segmenter.show(each, [(COIN, region)]) for each, region in felt]
    learnt = learn(Vocabulary.from_names([COIN]).entries, shown, segmenter.engine.version)
    _, _, stats, middles = cv2.connectedComponentsWithStats(half(coin, 1).astype(np.uint8))
    for k in np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:3] + 1:
        click = PromptSet((PointPrompt((float(middles[k][0]), float(middles[k][1]))),))
        question = ForPrompts(KeyedImage.of(half(image, 1)), click, Vocabulary(), COIN)
        plain, misled = segmenter.segment([question, replace(question, learnt=learnt)])
        assert isinstance(plain, Round)
        assert isinstance(misled, Round)
        assert np.array_equal(plain.masks.masks[0], misled.masks.masks[0])


def test_a_part_becomes_the_whole_thing_that_looks_like_the_examples() -> None:
    again = redrawn(BELIEVING, CANVAS, found_at(PART), chance(WHOLE))
    mask = again.answer.logits > 0
    assert (mask & WHOLE).sum() / (mask | WHOLE).sum() > 0.9
    assert again.evidence.quality == again.answer.quality != 0.4


def test_a_region_stays_where_a_click_finds_something_else_or_it_is_small() -> None:
    """Clicks are looked at from afar, where a small thing is a few pixels."""
    elsewhere, small = disc(240, 240, 40, 40, 20) | disc(240, 240, 190, 190, 40), disc(240, 240, 120, 120, 15)
    part, speck = found_at(PART), found_at(small)
    assert redrawn(BELIEVING, CANVAS, part, chance(elsewhere)) is part
    assert redrawn(BELIEVING, CANVAS, speck, chance(small)) is speck


AXES = torch.eye(4)
BALL, BOX = AXES[0], AXES[1]


def features_of(meaning: Tensor) -> ImageFeatures:
    """An image that shows one thing everywhere, by the map of regions and by the classifier."""
    everywhere = meaning[:, None, None].expand(4, 8, 8)
    return ImageFeatures(Size(240, 240), torch.zeros(4, 8, 8), {REGIONS: everywhere, CLASSED: everywhere})


def memory_of(label: str, meaning: Tensor) -> LabelMemory:
    return LabelMemory(label, (label,), Examples(AXES[:0], AXES[:0]), 1, "e", meant=torch.stack([meaning, meaning]))


MEMORIES = [memory_of("ball", BALL), memory_of("box", BOX)]
PLACES = Compared(torch.tensor([0.62, 0.6])[:, None, None].expand(2, 8, 8), torch.zeros(2, 8, 8))
"""Places that look a little more like a ball."""


def test_a_region_is_the_label_that_it_looks_like_as_a_whole_where_its_places_hardly_tell() -> None:
    found = [found_at(WHOLE), replace(found_at(PART), which=2)]
    for meaning, label in ((BOX, 1), (BALL, 0)):
        wholes = alike_as_wholes(features_of(meaning), found, MEMORIES, [0, 1])
        assert wholes[0].tolist() == pytest.approx([1.5 * float(meaning @ BALL), 1.5 * float(meaning @ BOX)], abs=1e-4)
        assert wholes[1].tolist() == [0, 0], "it was found for a phrase"
        assert [each.which for each in renamed(PLACES, found, wholes, [0, 1])] == [label, 2]


def test_a_name_with_a_meaning_is_not_taken_from_a_region() -> None:
    wholes = alike_as_wholes(features_of(BOX), [found_at(WHOLE)], MEMORIES, [1])
    assert not wholes.any()
    assert [each.which for each in renamed(PLACES, [found_at(WHOLE)], wholes, [1])] == [0]


def test_what_a_region_shows_as_a_whole_is_remembered_with_its_places(segmenter: Segmenter) -> None:
    image, mask = coins()
    shown = segmenter.show(KeyedImage.of(half(image, 0)), [(COIN, half(mask, 0))])
    read = PLACES_OF_EXAMPLES.decode(PLACES_OF_EXAMPLES.encode(shown))
    (memory,) = learn(Vocabulary.from_names([COIN]).entries, [read], "e")
    assert memory.meant is not None
    assert torch.linalg.vector_norm(memory.meant, dim=1).tolist() == pytest.approx([1, 1], abs=1e-3)
    assert torch.allclose(memory.meant, shown.meant[COIN].float(), atol=1e-3)
