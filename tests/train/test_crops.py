"""Training crops: objects lifted out of photos look like themselves, and pasting says what is where."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.backend.pictures import disc
from train.crops import CUTOUT_SIDE, MOST_LIFTED, cut, lifted, paste
from train.data import CUTOUTS, Photo, Row

RED, BLUE = (210, 40, 30), (40, 70, 190)


def photo(masks: list[np.ndarray], source: str = "coco_mini") -> Photo:
    """Red objects on blue, called thing 1, thing 2, ..."""
    ids = np.zeros(masks[0].shape, np.uint8)
    for key, mask in enumerate(masks, start=1):
        ids[mask] = key
    image = np.where((ids > 0)[:, :, None], RED, BLUE).astype(np.uint8)
    names = {key: f"thing {key}" for key in range(1, len(masks) + 1)}
    row = Row(Path("a.jpg"), Path("m.png"), names, source, "train", "instance", "all", frozenset())
    return Photo(row, image, ids, ("thing 9",))


def test_an_object_is_lifted_out_of_its_photo_without_its_surroundings() -> None:
    (cutout,) = lifted([photo([disc(200, 300, 120, 100, 60)])])
    assert cutout.image.shape == (CUTOUT_SIDE, CUTOUT_SIDE, 3)
    assert cutout.row.source == CUTOUTS
    assert cutout.row.names == {1: "thing 1"}
    assert cutout.alpha is not None
    opaque = cutout.alpha > 127
    assert 0.9 * np.pi / 4 < opaque.mean() < 1.02 * np.pi / 4
    like_red = np.abs(cutout.image[opaque].astype(int) - RED).max(axis=1) < 10
    assert like_red.mean() > 0.95, "but for the rim"
    assert (cutout.ids == opaque).all()


def test_only_large_objects_of_sources_with_whole_objects_are_lifted() -> None:
    discs = [disc(200, 300, 30 + 45 * k, 100, 20) for k in range(6)]
    tiny = disc(200, 300, 150, 180, 4)
    assert len(lifted([photo([*discs, tiny])])) == MOST_LIFTED
    assert lifted([photo([tiny])]) == []
    assert lifted([photo(discs, source="camvid")]) == []


def test_a_pasted_object_has_an_id_of_its_own_and_is_no_longer_absent() -> None:
    dice = np.random.default_rng(0)
    cutout = lifted([photo([np.zeros((200, 300), np.bool_) for _ in range(8)] + [disc(200, 300, 120, 100, 60)])])
    crop = cut(photo([disc(200, 300, 120, 100, 60)]), 256, dice)
    pasted = paste(crop, cutout, dice)
    fresh = [key for key, name in pasted.names.items() if name == "thing 9"]
    assert fresh
    assert not set(fresh) & set(crop.names)
    assert crop.absent == ("thing 9",)
    assert pasted.absent == ()
    assert np.isin(pasted.ids, fresh).any()
    assert paste(crop, [], dice) is crop
