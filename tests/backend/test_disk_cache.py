"""Encoded images on disk: what comes back is what went in, or nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from backend.assemble import Parts, assemble
from backend.disk_cache import DiskSpill
from backend.engines import colour
from backend.segmenter import Question, Segmenter
from backend.values.features import FeatureCache, ImageFeatures
from backend.values.session import Round
from backend.values.settings import Settings
from prompts.geometry import Size
from prompts.kinds import PromptSet, TextPrompt
from tests.backend.pictures import two_red_discs, two_shapes

ROOM = 1 << 20


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
    DiskSpill(tmp_path, "colour-1", ROOM).put("a", features_of(0, dtype))
    assert_equal(DiskSpill(tmp_path, "colour-1", ROOM).get("a"), features_of(0, dtype))


def test_what_was_never_put_is_not_there(tmp_path: Path) -> None:
    assert DiskSpill(tmp_path / "missing", "s", ROOM).get("a") is None


def test_another_engine_or_number_format_reads_nothing_of_it(tmp_path: Path) -> None:
    DiskSpill(tmp_path, "sam2-tiny-1", ROOM).put("a", features_of(0))
    for space in ("sam2-tiny-2", "edgetam-cpu-1", ""):
        assert DiskSpill(tmp_path, space, ROOM).get("a") is None


def test_another_release_reads_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may name the tensors otherwise, or make them otherwise of the same image and weights."""
    DiskSpill(tmp_path, "s", ROOM).put("a", features_of(0))
    monkeypatch.setattr("backend.disk_cache.__version__", "later")
    assert DiskSpill(tmp_path, "s", ROOM).get("a") is None


def test_what_a_dead_process_was_writing_is_removed(tmp_path: Path) -> None:
    (tmp_path / "old.part").write_bytes(b"x")
    os.utime(tmp_path / "old.part", (0, 0))
    (tmp_path / "young.part").write_bytes(b"x")
    spill = DiskSpill(tmp_path, "s", ROOM)
    spill.put("a", features_of(0))
    assert {path.name for path in tmp_path.iterdir()} == {"young.part", spill._path("a").name}


def test_a_file_that_was_renamed_to_another_key_is_not_read(tmp_path: Path) -> None:
    spill = DiskSpill(tmp_path, "s", ROOM)
    spill.put("a", features_of(0))
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.rename(spill._path("b"))
    assert spill.get("b") is None
    other = DiskSpill(tmp_path, "another engine", ROOM)
    other._path("a").write_bytes(content)
    assert other.get("a") is None


def test_two_engines_in_one_folder_keep_their_own_features_of_one_image(tmp_path: Path) -> None:
    first, second = (DiskSpill(tmp_path, space, ROOM) for space in ("sam2-tiny-1", "edgetam-cpu-1"))
    first.put("a", features_of(0))
    second.put("a", features_of(1))
    assert_equal(first.get("a"), features_of(0))
    assert_equal(second.get("a"), features_of(1))


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@budget(max_examples=60, deadline=None)
def test_one_wrong_bit_anywhere_is_a_miss_and_the_file_can_be_written_again(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    spill = DiskSpill(tmp_path_factory.mktemp("spill"), "s", ROOM)
    spill.put("a", features_of(0))
    path = spill._path("a")
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    assert spill.get("a") is None
    spill.put("a", features_of(0))
    assert_equal(spill.get("a"), features_of(0))


@pytest.mark.parametrize("length", [0, 5, 16, 17, 200])
def test_a_file_that_breaks_off_is_a_miss(tmp_path: Path, length: int) -> None:
    spill = DiskSpill(tmp_path, "s", ROOM)
    spill.put("a", features_of(0))
    path = spill._path("a")
    path.write_bytes(path.read_bytes()[:length])
    assert spill.get("a") is None


def test_the_bytes_are_bounded_and_the_least_recently_used_file_goes_first(tmp_path: Path) -> None:
    DiskSpill(tmp_path, "s", ROOM).put("size", features_of(0))
    (path,) = tmp_path.iterdir()
    each = path.stat().st_size
    path.unlink()
    spill = DiskSpill(tmp_path, "s", 3 * each)
    for number, key in enumerate("abc"):
        spill.put(key, features_of(number))
        os.utime(spill._path(key), (number, number))
    assert spill.get("a") is not None
    spill.put("d", features_of(3))
    assert [spill.get(key) is not None for key in "abcd"] == [True, False, True, True]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * each
    assert DiskSpill(tmp_path, "s", 10).put("e", features_of(4)) is None
    assert spill.get("e") is None


def test_a_folder_that_cannot_be_used_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    spill = DiskSpill(tmp_path / "file", "s", ROOM)
    for _ in range(2):
        spill.put("a", features_of(0))
        assert spill.get("a") is None
    assert caplog.text.count("cannot be kept") == 1


def test_answers_from_spilled_features_are_those_from_fresh_ones(tmp_path: Path) -> None:
    """Memory has room for nothing, so that every answer after the first is read from disk."""
    engine = colour.build(None)
    cache = FeatureCache(1, spill=DiskSpill(tmp_path, engine.version, 64 << 20))
    plain, spilling = Segmenter(engine, FeatureCache(1)), Segmenter(engine, cache)
    for picture in (two_shapes(), two_red_discs(), two_shapes()):
        question = Question(picture.image, PromptSet((TextPrompt("red"), TextPrompt("blue"))))
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
            segmenter.look_at(np.full((200, 200, 3), value, np.uint8))
        return segmenter._cache.encoded

    wanted: dict[str, Any] = {"engine": "colour", "home": tmp_path, "feature_cache_mib": 1, "feature_spill_mib": 64}
    assert look(assemble(Settings(**wanted)), 1, 2, 3, 1, 2) == 3
    assert look(assemble(Settings(**wanted)), 1, 2) == 0
    assert look(assemble(Settings(**wanted, feature_cache_dtype="float16")), 1, 2) == 2
    assert look(assemble(Settings(**wanted | {"feature_spill_mib": 0})), 1, 2) == 2
