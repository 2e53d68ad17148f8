from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from backend.images.cache import DiskCache
from backend.images.fetch import Fetched, Validators

NONE = Validators()


def put(cache: DiskCache, key: str, size: int) -> None:
    cache.put(key, Fetched(bytes(size), NONE))


def keys(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.image")}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_what_was_put_comes_back_with_its_validators(tmp_path: Path) -> None:
    fetched = Fetched(b"line\nline\n\x00", Validators(etag='W/"1"', last_modified="Sat, 21 Nov 2026 00:00:00 GMT"))
    DiskCache(tmp_path / "new" / "folder", 10_000).put("a", fetched)
    kept = DiskCache(tmp_path / "new" / "folder", 10_000).get("a")
    assert kept is not None
    assert (kept.body, kept.validators) == (fetched.body, fetched.validators)
    assert 0 <= kept.age_s < 5


def test_the_folder_never_takes_more_than_its_bytes(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10_000)
    sizes = np.random.default_rng(1).integers(1, 6000, 40)
    for number, size in enumerate(sizes.tolist()):
        put(cache, str(number), size)
        assert size_of(tmp_path) <= 10_000
    assert "39" in keys(tmp_path)


def test_the_least_recently_used_file_is_dropped_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 3500)
    for key in "abc":
        put(cache, key, 1000)
        time.sleep(0.02)
    assert cache.get("a")
    time.sleep(0.02)
    put(cache, "d", 1000)
    assert keys(tmp_path) == {"a", "c", "d"}


def test_files_of_an_earlier_process_count_and_are_dropped_too(tmp_path: Path) -> None:
    for key in "abc":
        put(DiskCache(tmp_path, 10_000), key, 1000)
        time.sleep(0.02)
    put(DiskCache(tmp_path, 2500), "d", 1000)
    assert keys(tmp_path) == {"c", "d"}


def test_a_file_larger_than_the_whole_cache_is_not_kept_and_drops_nothing(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 2000)
    put(cache, "a", 1000)
    put(cache, "b", 5000)
    assert keys(tmp_path) == {"a"}


def test_a_cache_of_no_bytes_keeps_and_gives_nothing(tmp_path: Path) -> None:
    put(DiskCache(tmp_path, 1000), "a", 10)
    put(DiskCache(tmp_path, 0), "b", 10)
    assert DiskCache(tmp_path, 0).get("a") is None
    assert keys(tmp_path) == {"a"}


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]\n", b"null\nbody", b'{"digest": "x", "more": 1}\n', b"\xff\xfe"])
def test_a_damaged_file_is_as_good_as_none(damage: bytes, tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10_000)
    put(cache, "a", 100)
    (tmp_path / "a.image").write_bytes(damage)
    assert cache.get("a") is None
    put(cache, "a", 100)
    assert cache.get("a") is not None


def test_a_file_that_lost_its_end_is_as_good_as_none(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10_000)
    put(cache, "a", 100)
    whole = (tmp_path / "a.image").read_bytes()
    (tmp_path / "a.image").write_bytes(whole[:-1])
    assert cache.get("a") is None


def test_parts_that_a_dead_process_left_are_removed_and_files_of_others_are_not(tmp_path: Path) -> None:
    for name, age_s in (("old.part", 7200), ("young.part", 10), ("notes.txt", 7200)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    put(DiskCache(tmp_path, 1000), "a", 10)
    assert {path.name for path in tmp_path.iterdir()} == {"young.part", "notes.txt", "a.image"}


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DiskCache(tmp_path, 10_000)
    put(cache, "a", 10)
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    cache.put("a", Fetched(b"new", NONE))
    kept = cache.get("a")
    assert kept is not None
    assert kept.body == bytes(10)
    assert {path.name for path in tmp_path.iterdir()} == {"a.image"}


def test_readers_beside_writers_see_whole_files_only(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 1_000_000)
    bodies = {bytes([n]) * (1000 * n) for n in range(1, 9)}
    wrong: list[bytes] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            kept = cache.get("a")
            if kept and kept.body not in bodies:
                wrong.append(kept.body)

    readers = [threading.Thread(target=read) for _ in range(3)]
    cache.put("a", Fetched(next(iter(bodies)), NONE))
    for thread in readers:
        thread.start()
    for _ in range(20):
        for body in bodies:
            cache.put("a", Fetched(body, NONE))
    ended.set()
    for thread in readers:
        thread.join()
    assert wrong == []
