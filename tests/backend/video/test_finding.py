"""What is found in a film is the same whether it is looked through at once or goes on where it broke off."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.engines import colour
from backend.engines.base import Tracker
from backend.video import finding
from backend.video.film import MOST_BYTES, Film, open_film
from backend.video.finding import Seen, find_all
from prompts.geometry import Size
from prompts.kinds import Image
from tests.backend.video.films import Recipe, write_film

pytestmark = pytest.mark.slow

COUNT = 110
RED, BLUE = (220, 30, 30), (30, 40, 220)


def picture(number: int) -> Image:
    """A red square that goes right and is hidden for half a second, and a blue one that comes on frame 30 and goes left."""
    image = np.full((64, 160, 3), 128, np.uint8)
    if not 60 <= number < 74:
        image[4:20, number : number + 16] = RED
    if number >= 30:
        image[40:56, 140 - number : 156 - number] = BLUE
    return image


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Film:
    path = tmp_path_factory.mktemp("films") / "a.mkv"
    return open_film(write_film(path, [picture(k) for k in range(COUNT)], Recipe(codec="ffv1")))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "LOOKS_AT_ONCE", 2)


class Shelf:
    def __init__(self) -> None:
        self.saved: list[bytes] = []

    def load(self) -> bytes | None:
        return self.saved[-1] if self.saved else None

    def save(self, state: bytes) -> None:
        self.saved.append(state)


class Looking:
    """Finds the squares by their colours, and ends after so many looks, as a process that is killed does."""

    def __init__(self, most: int = 1000) -> None:
        self.looks = 0
        self._most = most

    def __call__(self, image: Image) -> Sequence[Seen]:
        self.looks += 1
        if self.looks > self._most:
            raise KeyboardInterrupt
        masks = {name: np.abs(image.astype(int) - rgb).max(axis=2) < 60 for name, rgb in (("red", RED), ("blue", BLUE))}
        looks = {"red": np.array([1.0, 0], np.float32), "blue": np.array([0, 1.0], np.float32)}
        return [Seen(mask, name, 0.9, looks[name]) for name, mask in masks.items() if mask.sum() > 20]


def tracker() -> Tracker:
    found = colour.build(None).tracker
    assert found is not None
    return found


def test_a_film_that_broke_off_goes_on_from_its_last_checkpoint_and_gives_the_same(film: Film) -> None:
    whole, shelf = find_all(film, tracker(), Looking()), Shelf()
    with pytest.raises(KeyboardInterrupt):
        find_all(film, tracker(), Looking(most=6), shelf)

    rest = Looking()
    found = find_all(film, tracker(), rest, shelf)

    assert [track.label for track in found.tracks] == ["red", "blue"]
    assert found == whole
    assert rest.looks == 10 - 5, "of ten looks, on every twelfth frame, five were kept: those to frame 48"


def test_a_hidden_object_is_the_same_one_after_a_checkpoint(film: Film) -> None:
    shelf = Shelf()

    found = find_all(film, tracker(), Looking(), shelf)

    red = found.tracks[0]
    assert sorted(red.masks) == [k for k in range(COUNT) if not 60 <= k < 74]
    assert len(shelf.saved) == 4


def test_a_checkpoint_that_cannot_be_read_is_none(film: Film) -> None:
    for broken in (b"{", b'[30, [0], {"1": [1, 2]}]'):
        shelf = Shelf()
        shelf.saved.append(broken)
        assert len(find_all(film, tracker(), Looking(), shelf).tracks) == 2


def test_of_4k_no_more_frames_are_held_between_two_looks_than_memory_has_room_for(film: Film) -> None:
    large = replace(film, facts=replace(film.facts, size=Size(2160, 3840)))

    every = finding._every(large)

    assert finding._every(film) == 12
    assert every * 3 * 2160 * 3840 <= MOST_BYTES


def test_each_minute_of_film_costs_no_more_than_its_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an hour at 24 frames a second, 86,400 frames, an object takes less than 100 MB, and no frame stays in memory."""
    monkeypatch.setattr(finding, "LOOKS_AT_ONCE", 4)
    small = [np.ascontiguousarray(picture(k % 40)[:32, :64]) for k in range(40)]
    peaks = []
    for count in (48, 168):
        path = write_film(tmp_path / f"{count}.mkv", [small[k % 40] for k in range(count)], Recipe(codec="ffv1"))
        opened = open_film(path)
        tracemalloc.start()
        found = find_all(opened, tracker(), Looking())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert [len(track.masks) for track in found.tracks] == [count]
    assert (peaks[1] - peaks[0]) / 120 < 1200
