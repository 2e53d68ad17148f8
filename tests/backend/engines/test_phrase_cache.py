"""Vectors of names on disk: found again by another process, never by another encoder, and never in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.assemble import placement_of
from backend.engines.base import Engine
from backend.engines.catalogue import Placement, find_engine
from backend.values.settings import Settings
from prompts.encoders.openclip import OpenClip
from prompts.phrases import Vocabulary
from tests.backend.engines import tiny_bundles

NAMES = Vocabulary.from_names(["cup", "red cat"])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundles.write_bundle("sam-base", tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The phrases that go through a text encoder."""
    phrases: list[str] = []
    plain = OpenClip._encode_phrase

    def watched(clip: OpenClip, phrase: str) -> Any:
        phrases.append(phrase)
        return plain(clip, phrase)

    monkeypatch.setattr(OpenClip, "_encode_phrase", watched)
    return phrases


def engine_in(bundle: Path, vocabulary: Path | None) -> Engine:
    return find_engine("sam-base").load(bundle, Placement("cpu", "float32", vocabulary))


def test_a_restarted_engine_finds_the_vectors_of_its_names(bundle: Path, tmp_path: Path, read: list[str]) -> None:
    before = engine_in(bundle, tmp_path).space.embed_vocabulary(NAMES)
    assert read == ["cup", "red cat"]
    after = engine_in(bundle, tmp_path).space.embed_vocabulary(NAMES)
    assert torch.equal(before, after)
    assert len(read) == 2


@pytest.mark.slow
def test_another_encoder_s_vectors_are_not_taken(bundle: Path, tmp_path: Path, read: list[str]) -> None:
    first = engine_in(bundle, tmp_path / "kept").space.embed_vocabulary(NAMES)
    other = tiny_bundles.write_bundle("sam-base", tmp_path / "other")
    (weights,) = (other / "clip").glob("*.safetensors")
    tensors = load_file(weights)
    save_file({name: 1.5 * tensor if "text_projection" not in name else -tensor for name, tensor in tensors.items()}, weights)
    second = engine_in(other, tmp_path / "kept").space.embed_vocabulary(NAMES)
    assert read == ["cup", "red cat"] * 2
    assert not torch.allclose(first, second, atol=0.01)


def test_without_a_folder_nothing_is_kept_and_one_that_cannot_be_written_costs_no_answer(
    bundle: Path, tmp_path: Path, read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    plain, barred = (engine_in(bundle, folder).space.embed_vocabulary(NAMES) for folder in (None, tmp_path / "file"))
    assert torch.equal(plain, barred)
    assert read == ["cup", "red cat"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert caplog.text.count("cannot be kept") == 1


def test_the_folder_lies_in_the_home_of_the_settings(tmp_path: Path) -> None:
    assert placement_of(Settings(home=tmp_path)).vocabulary == tmp_path / "vocabulary"
