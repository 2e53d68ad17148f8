"""Tiles of large images: they cover it, small things in them are found, and nothing is found twice where they meet."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from backend.engines import colour
from backend.images.limits import LargeImage
from backend.segmenter import Segmenter
from backend.tiles import Piece, Tile, joined, pieces_of, settled, tiles_of, with_tiles
from backend.values.features import FeatureCache
from backend.values.masks import Masks, MaskSet
from backend.values.session import ForNames
from prompts.geometry import BoolArray, Size
from prompts.kinds import KeyedImage
from prompts.phrases import Vocabulary
from tests.backend.pictures import disc

WHOLE = Size(100, 400)


@pytest.mark.parametrize("size", [Size(1000, 12000), Size(8000, 400), Size(3000, 4000), Size(1, 5000), Size(1601, 900)])
def test_tiles_cover_every_pixel_and_neighbours_share_a_quarter(size: Size) -> None:
    tiles = tiles_of(size, 1000, 250)
    covered = np.zeros((size.height, size.width), np.uint8)
    for tile in tiles:
        covered[tile.y : tile.y + tile.size.height, tile.x : tile.x + tile.size.width] = 1
        assert max(tile.size.height, tile.size.width) <= 1000
    assert covered.all()
    across = sorted({tile.x for tile in tiles})
    assert all(second - first <= 751 for first, second in itertools.pairwise(across))


@pytest.mark.parametrize(("size", "side"), [(Size(1000, 1400), 1000), (Size(12000, 12000), 0), (Size(1, 1), 10)])
def test_an_image_that_is_hardly_larger_than_a_tile_is_seen_as_a_whole(size: Size, side: int) -> None:
    whole = MaskSet.empty(size)
    image = LargeImage("an image that nobody reads", size, lambda box, step: pytest.fail("read"))
    assert with_tiles(whole, image, side, lambda tile: pytest.fail("asked")) is whole


def rows(masks: list[BoolArray], size: Size, labels: list[str | None]) -> MaskSet:
    many = len(masks)
    return MaskSet(
        Masks.of(masks, size),
        np.linspace(0.9, 0.5, many, dtype=np.float32) if many else np.zeros(0, np.float32),
        tuple(labels),
        np.zeros((many, 8, 16), np.float16),
        np.ones((many, 1), np.float32),
    )


def seen_in(tile: Tile, mask: BoolArray) -> BoolArray:
    return mask[tile.y : tile.y + tile.size.height, tile.x : tile.x + tile.size.width]


def on_tiles(masks: dict[str, BoolArray], tiles: list[Tile]) -> list[Piece]:
    """What an engine without a fault finds in every tile."""
    found: list[Piece] = []
    for tile in tiles:
        there = [(name, seen_in(tile, mask)) for name, mask in masks.items() if seen_in(tile, mask).any()]
        found += pieces_of(tile, rows([mask for _, mask in there], tile.size, [name.split()[0] for name, _ in there]))
    return found


def test_a_thing_on_a_seam_is_one_thing_and_has_all_its_pixels() -> None:
    tiles = tiles_of(WHOLE, 100, 25)
    middle = (tiles[0].x + 100 + tiles[1].x) // 2
    masks = {"cup": disc(100, 400, middle, 50, 20), "cat": disc(100, 400, 380, 50, 9)}
    found = joined(MaskSet.empty(WHOLE), on_tiles(masks, tiles))
    assert sorted(found.labels) == ["cat", "cup"]
    for label, mask in zip(found.labels, found.masks, strict=True):
        np.testing.assert_array_equal(mask, masks[str(label)])


def test_two_things_of_one_name_side_by_side_stay_two() -> None:
    masks = {"cup 1": disc(100, 400, 70, 50, 10), "cup 2": disc(100, 400, 95, 50, 10)}
    found = joined(MaskSet.empty(WHOLE), on_tiles(masks, tiles_of(WHOLE, 100, 25)))
    assert len(found) == 2


def test_a_thing_that_is_longer_than_a_tile_is_joined_from_all_its_pieces() -> None:
    long = np.zeros((100, 400), np.bool_)
    long[40:60, 20:380] = True
    found = joined(MaskSet.empty(WHOLE), on_tiles({"rail": long}, tiles_of(WHOLE, 100, 25)))
    assert len(found) == 1
    np.testing.assert_array_equal(found.masks[0], long)


def test_what_a_seam_cuts_and_one_tile_alone_saw_is_no_thing() -> None:
    tiles = tiles_of(WHOLE, 100, 25)
    cut = disc(100, 400, 100, 50, 20)
    alone = pieces_of(tiles[0], rows([seen_in(tiles[0], cut)], tiles[0].size, ["cup"]))
    assert len(joined(MaskSet.empty(WHOLE), alone)) == 0


def test_what_the_whole_image_showed_already_is_not_added_again_but_under_another_name() -> None:
    large = disc(100, 400, 150, 50, 30)
    whole = rows([large], WHOLE, ["dog"])
    shown = {"dog": disc(100, 400, 150, 50, 28), "collar": disc(100, 400, 150, 50, 5)}
    again = joined(whole, on_tiles(shown, tiles_of(WHOLE, 100, 25)))
    assert again.labels == ("dog", "collar")
    np.testing.assert_array_equal(again.masks[0], large)


def test_a_small_thing_on_a_seam_of_a_large_image_is_found_once_through_the_segmenter() -> None:
    image = np.full((400, 3200, 3), 255, np.uint8)
    truth = disc(400, 3200, 400, 200, 9)
    image[truth] = (255, 0, 0)
    question = ForNames(KeyedImage.of(image), Vocabulary.from_names(["red"]))
    (tiled,) = Segmenter(colour.build(None), FeatureCache(1 << 26), tile_px=400).segment([question])
    assert not isinstance(tiled, Exception)
    assert tiled.masks.labels == ("red",)
    assert (tiled.masks.masks[0] & truth).sum() > 0.7 * (tiled.masks.masks[0] | truth).sum()


def piece(tile: Tile, x: int, side: int, score: float, label: str = "ball") -> Piece:
    """A square of an image on one of its tiles."""
    mask = np.zeros((WHOLE.height, WHOLE.width), np.bool_)
    mask[20 : 20 + side, x : x + side] = True
    found = rows([seen_in(tile, mask)], tile.size, [label])
    return Piece(tile, replace(found, scores=np.array([score], np.float32)))


COARSE, CLOSE = Tile(0, 0, Size(100, 200)), Tile(40, 10, Size(60, 60))


@pytest.mark.parametrize(
    ("coarse", "close", "kept"),
    [
        (piece(COARSE, 45, 40, 0.3), piece(CLOSE, 55, 20, 0.8), ["close"]),
        (piece(COARSE, 45, 40, 0.9), piece(CLOSE, 55, 20, 0.8), ["coarse"]),
        (piece(COARSE, 30, 60, 0.3), piece(CLOSE, 55, 20, 0.8), ["close"]),
        (piece(COARSE, 45, 10, 0.3), piece(CLOSE, 60, 20, 0.8), ["coarse", "close"]),
        (piece(COARSE, 45, 40, 0.3, "box"), piece(CLOSE, 55, 20, 0.8), ["coarse", "close"]),
    ],
    ids=["the surer one", "surer as a whole", "one that ends in what goes on", "another thing", "another name"],
)
def test_a_closer_look_takes_the_place_of_what_it_saw_all_of(coarse: Piece, close: Piece, kept: list[str]) -> None:
    """And of what it shows to be smaller, and adds what no tile knows."""
    names = {id(coarse): "coarse", id(close): "close"}
    assert [names[id(each)] for each in settled([coarse], [close], WHOLE)] == kept


def test_a_part_of_a_thing_that_goes_on_beyond_the_closer_look_does_not_take_its_place() -> None:
    """Nor is what the closer look cuts added."""
    coarse, part, rest = piece(COARSE, 30, 60, 0.3), piece(CLOSE, 55, 20, 0.8), piece(CLOSE, 80, 20, 0.5)
    assert settled([coarse], [part, rest], WHOLE) == [coarse]
    assert settled([], [part, rest], WHOLE) == [part]


def test_what_a_seam_cuts_is_judged_by_what_its_tile_shows_of_the_thing() -> None:
    cut, close = piece(Tile(0, 0, Size(100, 65)), 30, 60, 0.1), piece(CLOSE, 55, 20, 0.8)
    assert settled([cut], [close], WHOLE) == [close]


def test_a_thing_beside_one_that_was_looked_at_closer_stays() -> None:
    beside, close = piece(COARSE, 74, 60, 0.3), piece(CLOSE, 55, 20, 0.8)
    assert settled([beside], [close], WHOLE) == [beside, close]
