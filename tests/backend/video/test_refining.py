"""Between frames that a person set: followed from both sides, kept where it agrees, doubtful where the sides do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.values.errors import RequestError
from backend.video.refining import refine
from backend.video.tracks import Barrier, Known, Refined, doubtful
from tests.backend.video.test_following import COUNT, film_of, tracker, two


def box(number: int, name: str) -> tuple[float, float, float, float]:
    x, y = (4 * number, 4) if name == "red" else (110 - 4 * number, 40)
    return float(x), float(y), float(x + 16), float(y + 16)


def boxes(refined: list[Refined]) -> dict[int, tuple[int, int, int, int] | None]:
    return {each.frame: each.mask.box() if each.mask else None for each in refined}


def test_a_gap_depends_on_nothing_but_its_barriers(tmp_path: Path) -> None:
    film = film_of(tmp_path, two)
    first, later, last = (Barrier(k, box(k, "blue")) for k in (0, 8, 20))

    whole = boxes(list(refine(film, tracker(), [first, later, last], Known())))
    moved = boxes(list(refine(film, tracker(), [first, later, Barrier(20, box(20, "red"))], Known())))

    assert sorted(whole) == list(range(COUNT))
    assert {k: whole[k] for k in range(9)} == {k: moved[k] for k in range(9)}
    assert moved[22] != whole[22]


def test_nothing_is_followed_on_frames_where_a_person_ended_it(tmp_path: Path) -> None:
    film = film_of(tmp_path, two)

    found = boxes(
        list(refine(film, tracker(), [Barrier(3, box(3, "blue")), Barrier(6, None), Barrier(15, box(15, "blue"))], Known()))
    )

    assert sorted(found) == [*range(6), *range(15, COUNT)]


def test_what_is_known_stays_from_where_following_agrees_with_it(tmp_path: Path) -> None:
    film = film_of(tmp_path, two)
    known = Known({k: box(k, "blue") for k in range(1, COUNT)}, frozenset(range(1, COUNT)))

    assert sorted(boxes(list(refine(film, tracker(), [Barrier(0, box(0, "blue"))], known)))) == [0]


def test_where_two_sides_follow_different_things_the_frames_between_are_doubtful(tmp_path: Path) -> None:
    film = film_of(tmp_path, two)

    agreeing = list(refine(film, tracker(), [Barrier(0, box(0, "blue")), Barrier(8, box(8, "blue"))], Known()))
    torn = list(refine(film, tracker(), [Barrier(0, box(0, "blue")), Barrier(8, box(8, "red"))], Known()))

    assert doubtful(agreeing) == []
    assert len(doubtful(torn)) == 1
    assert 0 < doubtful(torn)[0] < 8


def test_without_a_box_there_is_nothing_to_follow(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no box is set"):
        list(refine(film_of(tmp_path, two), tracker(), [Barrier(3, None)], Known()))
