"""The few pictures of a bulk run's report, on a real database file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backend.stores import album
from backend.stores.album import Album, Picture
from backend.stores.database import Database

BASE = Picture("k", 0.5, "http://studio/1", "a caption", b"\xff\xd8jpeg")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Album:
    monkeypatch.setattr(album, "PICTURES_KEPT", 3)
    return Album(Database(f"sqlite:///{tmp_path / 'store.sqlite'}"))


def pictures(*ranks: float) -> list[Picture]:
    return [replace(BASE, key=str(rank), rank=rank) for rank in ranks]


def keys(kept: Album, run: int = 1, kind: str = "worst") -> list[str]:
    return [picture.key for picture in kept.pictures(run, kind)]


def test_of_old_and_new_pictures_those_with_the_lowest_ranks_stay_lowest_first(kept: Album) -> None:
    kept.offer(1, "worst", pictures(0.5, 0.9, 0.1, 0.7))
    assert keys(kept) == ["0.1", "0.5", "0.7"]
    kept.offer(1, "worst", pictures(0.6, 0.2, 0.95))
    assert keys(kept) == ["0.1", "0.2", "0.5"]


def test_of_one_item_the_newest_picture_counts(kept: Album) -> None:
    kept.offer(1, "worst", [replace(BASE, rank=0.1), replace(BASE, key="other")])
    kept.offer(1, "worst", [replace(BASE, rank=0.9, caption="again")])
    assert [(picture.key, picture.caption) for picture in kept.pictures(1, "worst")] == [("other", "a caption"), ("k", "again")]


def test_runs_and_kinds_are_apart_and_a_picture_comes_back_as_it_was(kept: Album) -> None:
    kept.offer(1, "worst", [BASE])
    assert kept.pictures(1, "worst") == [BASE]
    assert keys(kept, run=2) == keys(kept, kind="empty") == []
