"""Images too large to be held: what lies on seams is one mask, nothing comes twice, and a click sees a window."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.assemble import engine_handle
from backend.engines.base import Engine
from backend.engines.colour import SPACE, ColourDecoder
from backend.images.limits import LargeImage, overview
from backend.images.windows import open_large
from backend.segmenter import Segmenter
from backend.tiles import tiles_of
from backend.tiling import closer_windows, example_on, window_around
from backend.values.errors import MaskloomError
from backend.values.features import FeatureCache, ImageFeatures
from backend.values.masks import MaskSet, RunLengths, united
from backend.values.session import ForNames, ForPrompts, Question
from backend.values.settings import Settings
from prompts.geometry import FloatArray, Size
from prompts.kinds import BoxPrompt, KeyedImage, ObjectMemory, PointPrompt, PromptSet, ReferencePrompt, TextPrompt
from prompts.phrases import LabelPhrases, Vocabulary
from prompts.space import PromptTokens

TILE, TILE_OVERLAP, SIDE, RADIUS = 192, 48, 500, 8
STEP = TILE - TILE_OVERLAP
PLACES = [(70, 70), (STEP, 100), (TILE, 230), (STEP + 20, STEP + 20), (495, 495), (2 * STEP + 4, 2 * STEP + 30)]
"""In a tile, on the second one's edge, on the first one's, on four tiles, in a corner, near another four."""
RED, BLUE = (230, 20, 20), (20, 20, 230)


def dots() -> list[np.ndarray]:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return [(columns - x) ** 2 + (rows - y) ** 2 <= RADIUS**2 for x, y in PLACES]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as with the real sizes, four times smaller, so that it takes seconds."""
    small = {"TILE": TILE, "TILE_OVERLAP": TILE_OVERLAP, "WINDOW": 256, "LARGEST_WINDOW": 512, "CLICKED": 64}
    for name, value in small.items():
        monkeypatch.setattr(f"backend.tiling.{name}", value)


@pytest.fixture(scope="module")
def bar() -> np.ndarray:
    """Longer than two tiles."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[390:400, 20:480] = True
    return mask


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, bar: np.ndarray) -> LargeImage:
    pixels = np.random.default_rng(0).integers(225, 240, (SIDE, SIDE, 1), dtype=np.uint8).repeat(3, 2)
    for dot in dots():
        pixels[dot] = RED
    pixels[bar] = BLUE
    path = tmp_path_factory.mktemp("large") / "large.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), compression="zlib")
    large = open_large(path, 100_000)
    assert large is not None
    return large


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return engine_handle(Settings(engine="colour", home=tmp_path_factory.mktemp("home"))).segmenter()


def asked(segmenter: Segmenter, question: Question) -> MaskSet:
    (done,) = segmenter.segment([question])
    assert not isinstance(done, MaskloomError), done
    return done.masks


def same(found: MaskSet, *truth: np.ndarray) -> bool:
    masks = [RunLengths.of(mask).edges.tobytes() for mask in truth]
    return sorted(runs.edges.tobytes() for runs in found.masks.runs) == sorted(masks)


def test_a_phrase_finds_every_dot_once_and_whole_wherever_the_seams_are(image: LargeImage, segmenter: Segmenter) -> None:
    assert same(asked(segmenter, ForPrompts(image, PromptSet((TextPrompt("red"),)))), *dots())


def test_names_are_found_in_tiles_and_a_thing_longer_than_a_tile_is_one_mask(
    image: LargeImage, segmenter: Segmenter, bar: np.ndarray
) -> None:
    vocabulary = Vocabulary((LabelPhrases.of("blue", ()), LabelPhrases.of("red", ())))
    found = asked(segmenter, ForNames(image, vocabulary))
    assert same(found, *dots(), bar)
    assert sorted(label or "" for label in found.labels) == ["blue"] + ["red"] * len(PLACES)


def test_a_click_and_a_box_are_answered_in_a_window_and_placed_on_the_image(image: LargeImage, segmenter: Segmenter) -> None:
    x, y = PLACES[3]
    for prompt in (PointPrompt((x + 0.5, y + 0.5)), BoxPrompt((x - 10, y - 10, x + 10, y + 10))):
        assert same(asked(segmenter, ForPrompts(image, PromptSet((prompt,)))), dots()[3])


def test_an_example_on_the_image_finds_its_like_everywhere(image: LargeImage, segmenter: Segmenter) -> None:
    example = ReferencePrompt(image, dots()[0])
    assert same(asked(segmenter, ForPrompts(image, PromptSet((example,)))), *dots())


def test_an_example_is_shown_in_a_window_without_its_mask_being_decoded(image: LargeImage) -> None:
    dot = dots()[3]
    shown, whole = example_on(image, RunLengths.of(dot), False), ReferencePrompt(image, dot, False)
    assert (shown.mask.shape, shown.positive) == ((256, 256), False)
    assert shown.mask.sum() == whole.mask.sum()
    assert np.array_equal(shown.image.pixels[shown.mask], image.window((0, 0, SIDE, SIDE)).pixels[dot])


def test_the_next_click_nearby_sees_the_same_window_without_encoding_again(image: LargeImage, segmenter: Segmenter) -> None:
    seen: list[str] = []
    counted = LargeImage(
        image.key, image.size, lambda box, step: seen.append(str(box)) or image.window(box, step).pixels.copy()
    )
    for moved in (0, 2, 4):
        asked(segmenter, ForPrompts(counted, PromptSet((PointPrompt((200.5 + moved, 230.5)),))))
    assert len(set(seen)) == 1


class NearSighted(ColourDecoder):
    """A decoder that overlooks what is smaller than a tenth of an image, and tells where it may be."""

    def decode(self, features: ImageFeatures, prompts: PromptSet, tokens: PromptTokens, memory: ObjectMemory | None) -> MaskSet:
        found = super().decode(features, prompts, tokens, memory)
        return found[[row for row, runs in enumerate(found.masks.runs) if wide(runs) >= features.size.width / 10]]

    def outstanding(self, features: ImageFeatures, tokens: PromptTokens) -> FloatArray:
        found = super().decode(features, tokens.prompts, tokens, None)
        boxes = np.array([runs.box for runs in found.masks.runs], np.float64).reshape(-1, 2, 2)
        return np.asarray(boxes.mean(axis=1))


def wide(runs: RunLengths) -> int:
    x0, _, x1, _ = runs.box or (0, 0, 0, 0)
    return x1 - x0


@pytest.fixture(scope="module")
def near_sighted() -> Segmenter:
    return Segmenter(Engine("near", "near-1", SPACE, NearSighted()), FeatureCache(1 << 28))


def test_what_a_tile_hardly_shows_is_looked_at_closer_and_comes_once_and_whole(
    image: LargeImage, near_sighted: Segmenter, bar: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar is seen in every tile; a window cuts it, whose part is not taken for another bar."""
    monkeypatch.setattr("backend.tiling.CLOSER", 96)
    assert same(asked(near_sighted, ForPrompts(image, PromptSet((TextPrompt("red"),)))), *dots())
    vocabulary = Vocabulary((LabelPhrases.of("blue", ()), LabelPhrases.of("red", ())))
    assert same(asked(near_sighted, ForNames(image, vocabulary)), *dots(), bar)


def test_without_a_closer_look_small_things_would_be_missed(
    image: LargeImage, near_sighted: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.tiling.MOST_CLOSER", 0)
    assert len(asked(near_sighted, ForPrompts(image, PromptSet((TextPrompt("red"),))))) < len(PLACES)


def test_a_click_is_looked_at_closer_where_small_things_are_overlooked(image: LargeImage, near_sighted: Segmenter) -> None:
    for place in (0, 3, 4):
        x, y = PLACES[place]
        assert same(asked(near_sighted, ForPrompts(image, PromptSet((PointPrompt((x + 0.5, y + 0.5)),)))), dots()[place])


def test_a_click_on_what_is_surely_whole_close_by_reads_no_more(image: LargeImage, near_sighted: Segmenter) -> None:
    seen: list[int] = []
    read = LargeImage(
        "read", image.size, lambda box, step: seen.append(box[2] - box[0]) or image.window(box, step).pixels.copy()
    )
    for point in ((PLACES[3][0] + 0.5, PLACES[3][1] + 0.5), (250.5, 395.5)):
        asked(near_sighted, ForPrompts(read, PromptSet((PointPrompt(point),))))
    assert seen == [64, 64, 256]


def test_what_a_closer_look_at_a_click_cuts_is_not_taken_for_the_whole(
    image: LargeImage, segmenter: Segmenter, near_sighted: Segmenter
) -> None:
    clicked = ForPrompts(image, PromptSet((PointPrompt((250.5, 395.5)),)))
    assert asked(near_sighted, clicked).masks.areas == asked(segmenter, clicked).masks.areas == [2560]


@given(st.integers(100, 3000), st.integers(100, 3000), st.data())
def test_closer_windows_hold_their_places_lie_in_the_image_and_are_few(height: int, width: int, data: st.DataObject) -> None:
    tile = (0, 0, min(width, TILE), min(height, TILE))
    inside = st.tuples(st.floats(0, tile[2] - 1), st.floats(0, tile[3] - 1))
    places = np.array(data.draw(st.lists(inside, max_size=9)), np.float64).reshape(-1, 2)
    windows = closer_windows(tile, places, Size(height, width))
    assert len(windows) <= 3
    assert len(windows) > 0 or not len(places)
    for x0, y0, x1, y1 in windows:
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
    if len(places):
        (x, y), (x0, y0, x1, y1) = places[0], windows[0]
        assert x0 <= x < x1
        assert y0 <= y < y1


def test_an_error_of_a_tile_is_the_error_of_the_question(image: LargeImage, segmenter: Segmenter) -> None:
    broken = LargeImage("broken", image.size, lambda box, step: np.zeros((1, 1, 4), np.uint8))
    (done,) = segmenter.segment([ForPrompts(broken, PromptSet((TextPrompt("red"),)))])
    assert isinstance(done, MaskloomError)


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_tiles_cover_the_image_and_overlap(height: int, width: int) -> None:
    tiles = [tile.box for tile in tiles_of(Size(height, width), TILE, TILE_OVERLAP)]
    columns = sorted({(x0, x1) for x0, _, x1, _ in tiles})
    assert columns[0][0] == 0
    assert columns[-1][1] == width
    assert all(left[1] - right[0] >= TILE_OVERLAP for left, right in pairwise(columns))
    assert all(x1 - x0 <= TILE and y1 - y0 <= TILE for x0, y0, x1, y1 in tiles)


@given(st.integers(1, 40_000), st.integers(1, 40_000), st.data())
def test_a_window_holds_its_prompts_and_lies_in_the_image(height: int, width: int, data: st.DataObject) -> None:
    size = Size(height, width)
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    far = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = (min(x, far[0]), min(y, far[1]), max(x, far[0]) + 1, max(y, far[1]) + 1)
    (x0, y0, x1, y1), step = window_around((PointPrompt((x, y)), BoxPrompt(box)), size)
    assert 0 <= x0 <= box[0]
    assert box[2] <= x1 <= width
    assert 0 <= y0 <= box[1]
    assert box[3] <= y1 <= height
    assert max(x1 - x0, y1 - y0) / step <= 512


@given(st.lists(arrays(np.bool_, (7, 9)), min_size=1, max_size=5))
def test_a_union_of_runs_is_the_union_of_masks(masks: list[np.ndarray]) -> None:
    whole = united([RunLengths.of(mask) for mask in masks])
    assert np.array_equal(whole.edges, RunLengths.of(np.logical_or.reduce(masks)).edges)


def test_an_image_that_can_be_held_is_never_cut(segmenter: Segmenter) -> None:
    pixels = np.full((400, 400, 3), 255, np.uint8)
    pixels[170:230, 20:380] = RED
    found = asked(segmenter, ForPrompts(KeyedImage.of(pixels), PromptSet((TextPrompt("red"),))))
    assert len(found) == 1


def test_an_overview_shows_masks_where_they_lie(
    image: LargeImage, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.images.limits.OVERVIEW", 170)
    found = asked(segmenter, ForPrompts(image, PromptSet((TextPrompt("red"),))))
    picture, shown = overview(image, found)
    assert picture.shape == (167, 167, 3)
    assert np.array_equal(shown.masks.union(), (picture == RED).all(axis=2))
