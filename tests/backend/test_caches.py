"""Caches: work that is done once for all who want it, and a folder whose files are whole or not there."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from backend.assemble import Parts, assemble
from backend.caches import Bounds, Codec, DiskCache, SingleFlight
from backend.engines import colour
from backend.segmenter import Segmenter
from backend.values.features import FeatureCache, ImageFeatures, features_from_bytes, features_to_bytes
from backend.values.session import ForPrompts, Round
from backend.values.settings import Settings
from prompts.geometry import Size
from prompts.kinds import KeyedImage, PromptSet, TextPrompt
from tests.backend.pictures import two_red_discs, two_shapes


def one(result: object) -> int:
    """Every result counts as one."""
    return 1


def test_callers_at_the_same_time_share_one_piece_of_work() -> None:
    flight: SingleFlight[int] = SingleFlight(Bounds(10, one))
    started, release = threading.Event(), threading.Event()
    calls: list[int] = []

    def work() -> int:
        calls.append(1)
        started.set()
        release.wait(10)
        return 7

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(flight.do("same", work))) for _ in range(5)]
    threads[0].start()
    assert started.wait(10)
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.1)
    release.set()
    for thread in threads:
        thread.join()
    assert results == [7] * 5
    assert len(calls) == 1


def test_a_result_is_kept_only_where_it_is_worth_it_and_only_for_its_lifetime() -> None:
    flight: SingleFlight[int] = SingleFlight(Bounds(10, one, lifetime_s=0.05, is_kept=lambda result: result > 0))
    numbers = iter(range(100))
    assert flight.do("a", lambda: next(numbers)) == 0
    assert flight.do("a", lambda: next(numbers)) == 1
    assert flight.do("a", lambda: next(numbers)) == 1
    time.sleep(0.06)
    assert flight.do("a", lambda: next(numbers)) == 2
    assert flight.nbytes == 1


def test_the_bytes_are_bounded_the_least_recently_used_leave_first_and_the_owner_is_told() -> None:
    left: list[tuple[str, str]] = []
    flight: SingleFlight[str] = SingleFlight(Bounds(5, len, left=lambda key, result: left.append((key, result))))
    for key, result in (("a", "11"), ("b", "22"), ("a", "again"), ("c", "33"), ("huge", "666666")):
        flight.do(key, lambda result=result: result)  # type: ignore[misc]
    assert left == [("b", "22"), ("huge", "666666")]
    assert flight.nbytes == 4
    assert [flight.do(key, lambda: "?") for key in ("a", "c")] == ["11", "33"]


def test_an_error_reaches_every_caller_and_the_next_one_tries_again() -> None:
    flight: SingleFlight[int] = SingleFlight(Bounds(10, one))

    def fail() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        flight.do("a", fail)
    assert flight.do("a", lambda: 3) == 3


def test_of_several_keys_only_those_that_nobody_has_are_worked_on_and_a_failed_one_costs_no_other() -> None:
    flight: SingleFlight[int] = SingleFlight(Bounds(10, one))
    asked: list[Sequence[str]] = []

    def double(keys: Sequence[str]) -> dict[str, int | Exception]:
        asked.append(keys)
        return {key: 2 * int(key) if key != "3" else ValueError("three") for key in keys}

    assert flight.do_all(["1", "2", "1"], double) == [2, 4, 2]
    with pytest.raises(ValueError, match="three"):
        flight.do_all(["2", "3", "4"], double)
    assert flight.do_all(["4", "1"], double) == [8, 2]
    assert asked == [["1", "2"], ["3", "4"]]


ROOM = 1 << 20
FEATURES = Codec("encoded images", ".features", features_to_bytes, features_from_bytes)
PLAIN: Codec[bytes] = Codec("bytes", ".bin", bytes, bytes)
HEAD = 16
"""Bytes of a file before its content."""


def spill_in(folder: Path, space: str, most_bytes: int = ROOM) -> DiskCache[ImageFeatures]:
    return DiskCache(folder, space, most_bytes, FEATURES)


def cache_in(folder: Path, most_bytes: int) -> DiskCache[bytes]:
    return DiskCache(folder, "", most_bytes, PLAIN)


def kept_in(folder: Path, cache: DiskCache[bytes], *keys: str) -> set[str]:
    """Those of the keys whose files are in a folder, which holds no others."""
    found = {key for key in keys if key in cache}
    assert len(list(folder.glob("*.bin"))) == len(found)
    return found


def features_of(seed: int, dtype: torch.dtype = torch.float32) -> ImageFeatures:
    torch.manual_seed(seed)
    grid = torch.randn(5, 4, 8).permute(2, 0, 1).to(dtype)
    pixels = torch.randint(0, 256, (7, 9, 3), dtype=torch.uint8)
    return ImageFeatures(Size(70, 90), grid, {"level0": torch.randn(2, 3, 3).to(dtype), "pixels": pixels})


def assert_equal(ours: ImageFeatures | None, theirs: ImageFeatures) -> None:
    assert ours is not None
    assert ours.size == theirs.size
    assert ours.grid.dtype == theirs.grid.dtype
    assert torch.equal(ours.grid, theirs.grid)
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[name], tensor) for name, tensor in theirs.tensors.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_features_come_back_equal_even_to_another_process(tmp_path: Path, dtype: torch.dtype) -> None:
    spill_in(tmp_path, "colour-1").put("a", features_of(0, dtype))
    assert_equal(spill_in(tmp_path, "colour-1").get("a"), features_of(0, dtype))


def test_what_was_never_put_is_not_there(tmp_path: Path) -> None:
    assert spill_in(tmp_path / "missing", "s").get("a") is None


def test_another_engine_or_number_format_reads_nothing_of_it(tmp_path: Path) -> None:
    spill_in(tmp_path, "sam2-tiny-1").put("a", features_of(0))
    for space in ("sam2-tiny-2", "edgetam-cpu-1", ""):
        assert spill_in(tmp_path, space).get("a") is None


def test_what_a_dead_process_was_writing_is_removed(tmp_path: Path) -> None:
    (tmp_path / "old.part").write_bytes(b"x")
    os.utime(tmp_path / "old.part", (0, 0))
    (tmp_path / "young.part").write_bytes(b"x")
    spill = spill_in(tmp_path, "s")
    spill.put("a", features_of(0))
    assert {path.name for path in tmp_path.iterdir()} == {"young.part", spill.path("a").name}


def test_a_file_that_was_renamed_to_another_key_is_not_read(tmp_path: Path) -> None:
    spill = spill_in(tmp_path, "s")
    spill.put("a", features_of(0))
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.rename(spill.path("b"))
    assert spill.get("b") is None
    other = spill_in(tmp_path, "another engine")
    other.path("a").write_bytes(content)
    assert other.get("a") is None


def test_two_engines_in_one_folder_keep_their_own_features_of_one_image(tmp_path: Path) -> None:
    first, second = (spill_in(tmp_path, space) for space in ("sam2-tiny-1", "edgetam-cpu-1"))
    first.put("a", features_of(0))
    second.put("a", features_of(1))
    assert_equal(first.get("a"), features_of(0))
    assert_equal(second.get("a"), features_of(1))


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@budget(max_examples=60, deadline=None)
def test_one_wrong_bit_anywhere_is_a_miss_and_the_file_can_be_written_again(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    spill = spill_in(tmp_path_factory.mktemp("spill"), "s", ROOM)
    spill.put("a", features_of(0))
    path = spill.path("a")
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    assert spill.get("a") is None
    spill.put("a", features_of(0))
    assert_equal(spill.get("a"), features_of(0))


@pytest.mark.parametrize("length", [0, 5, 16, 17, 200])
def test_a_file_that_breaks_off_is_a_miss(tmp_path: Path, length: int) -> None:
    spill = spill_in(tmp_path, "s")
    spill.put("a", features_of(0))
    path = spill.path("a")
    path.write_bytes(path.read_bytes()[:length])
    assert spill.get("a") is None


def test_the_folder_never_takes_more_than_its_bytes(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, 10_000)
    sizes = np.random.default_rng(1).integers(1, 6000, 40)
    for number, size in enumerate(sizes.tolist()):
        cache.put(str(number), bytes(size))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 10_000
    assert cache.get("39") == bytes(int(sizes[39]))


def test_the_least_recently_used_value_is_dropped_first(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, 3500)
    for number, key in enumerate("abc"):
        cache.put(key, bytes(1000))
        os.utime(cache.path(key), (number, number))
    assert cache.get("a")
    cache.put("d", bytes(1000))
    assert kept_in(tmp_path, cache, *"abcd") == {"a", "c", "d"}


def test_values_of_an_earlier_process_count_and_are_dropped_too(tmp_path: Path) -> None:
    for number, key in enumerate("abc"):
        cache_in(tmp_path, 10_000).put(key, bytes(1000))
        os.utime(cache_in(tmp_path, 10_000).path(key), (number, number))
    cache = cache_in(tmp_path, 2500)
    cache.put("d", bytes(1000))
    assert kept_in(tmp_path, cache, *"abcd") == {"c", "d"}


def test_a_value_larger_than_the_whole_cache_is_not_kept_and_drops_nothing(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, 2000)
    cache.put("a", bytes(1000))
    cache.put("b", bytes(2000 - HEAD + 1))
    assert kept_in(tmp_path, cache, "a", "b") == {"a"}


def test_a_cache_of_no_bytes_keeps_and_gives_nothing(tmp_path: Path) -> None:
    cache_in(tmp_path, 1000).put("a", b"1")
    none = cache_in(tmp_path, 0)
    none.put("b", b"2")
    assert none.get("a") is None
    assert "a" not in none
    assert kept_in(tmp_path, cache_in(tmp_path, 1000), "a", "b") == {"a"}


def test_a_value_ages_until_it_is_confirmed(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, 1000)
    assert cache.age_s("a") == float("inf")
    cache.put("a", b"1")
    os.utime(cache.path("a"), (time.time(), time.time() - 500))
    assert cache.get("a") == b"1"
    assert 500 <= cache.age_s("a") < 510, "to be used makes nothing younger"
    cache.confirm("a")
    assert cache.age_s("a") < 10


def test_a_write_that_fails_leaves_the_old_value_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cache_in(tmp_path, 10_000)
    cache.put("a", b"old")
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    cache.put("a", b"new")
    assert cache.get("a") == b"old"
    assert [path.suffix for path in tmp_path.iterdir()] == [".bin"]


def test_readers_beside_writers_see_whole_values_only(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, 1_000_000)
    bodies = {bytes([n]) * (1000 * n) for n in range(1, 9)}
    wrong: list[bytes] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            kept = cache.get("a")
            if kept and kept not in bodies:
                wrong.append(kept)

    readers = [threading.Thread(target=read) for _ in range(3)]
    cache.put("a", next(iter(bodies)))
    for thread in readers:
        thread.start()
    for _ in range(20):
        for body in bodies:
            cache.put("a", body)
    ended.set()
    for thread in readers:
        thread.join()
    assert wrong == []


def test_a_folder_that_cannot_be_used_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    spill = spill_in(tmp_path / "file", "s")
    for _ in range(2):
        spill.put("a", features_of(0))
        assert spill.get("a") is None
    assert caplog.text.count("cannot be kept") == 1


def test_answers_from_spilled_features_are_those_from_fresh_ones(tmp_path: Path) -> None:
    """Memory has room for nothing, so that every answer after the first is read from disk."""
    engine = colour.build(None)
    cache = FeatureCache(1, spill=spill_in(tmp_path, engine.version, 64 << 20))
    plain, spilling = Segmenter(engine, FeatureCache(1)), Segmenter(engine, cache)
    for picture in (two_shapes(), two_red_discs(), two_shapes()):
        question = ForPrompts(KeyedImage.of(picture.image), PromptSet((TextPrompt("red"), TextPrompt("blue"))))
        (truth,), (answer,) = plain.segment([question]), spilling.segment([question])
        assert isinstance(truth, Round)
        assert isinstance(answer, Round)
        assert np.array_equal(truth.masks.masks, answer.masks.masks)
        assert truth.masks.labels == answer.masks.labels
    assert cache.encoded == 2


def test_by_settings_a_server_reads_after_a_restart_what_it_spilled_before(tmp_path: Path) -> None:
    def look(server: Parts, *values: int) -> int:
        segmenter = server.engine.segmenter()
        for value in values:
            segmenter.look_at(KeyedImage.of(np.full((200, 200, 3), value, np.uint8)))
        return segmenter._cache.encoded

    wanted: dict[str, Any] = {"engine": "colour", "home": tmp_path, "feature_cache_mib": 1, "feature_spill_mib": 64}
    assert look(assemble(Settings(**wanted)), 1, 2, 3, 1, 2) == 3
    assert look(assemble(Settings(**wanted)), 1, 2) == 0
    assert look(assemble(Settings(**wanted, feature_cache_dtype="float16")), 1, 2) == 2
    assert look(assemble(Settings(**wanted | {"feature_spill_mib": 0})), 1, 2) == 2
