from __future__ import annotations

from pathlib import Path

import pytest

from backend.engines.catalogue import ENGINES, Recipe, find_engine, fingerprint
from backend.values.errors import SetupError


def test_an_unknown_name_answers_with_the_known_ones() -> None:
    with pytest.raises(SetupError, match=r"no engine 'sam9'; known engines: .*colour.*embedded"):
        find_engine("sam9")


def test_the_version_changes_with_the_weights(tmp_path: Path) -> None:
    weights = tmp_path / "some.safetensors"
    weights.write_bytes(b"one")
    recipe = Recipe("some", "nowhere:build", "", "", weights)
    before = recipe.version(None)
    weights.write_bytes(b"two")
    assert recipe.version(None) != before
    assert recipe.version(None).startswith("some-")


@pytest.mark.parametrize("size", [1, 1 << 20, (1 << 20) + 1, (3 << 19), 2 << 20, 5 << 20])
def test_a_bundle_s_fingerprint_changes_with_the_first_and_the_last_byte_of_a_file(tmp_path: Path, size: int) -> None:
    """Of a file of one to two MiB, as tokenizers have, the second half was never looked at."""
    seen = set()
    for content in (bytes(size), b"x" + bytes(size - 1), bytes(size - 1) + b"y", bytes(size + 1)):
        (tmp_path / "tokenizer.json").write_bytes(content)
        seen.add(fingerprint(tmp_path))
    assert len(seen) == 4
    before = fingerprint(tmp_path)
    (tmp_path / "model.safetensors.part").write_bytes(b"on its way")
    assert fingerprint(tmp_path) == before
    (tmp_path / "tokenizer.json").rename(tmp_path / "other.json")
    assert fingerprint(tmp_path) != before


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"needs its weights at .*gone\.safetensors"):
        find_engine("colour").load(tmp_path / "gone.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ENGINES if name.startswith("seem-")])
def test_every_seem_engine_refuses_a_file_that_is_no_checkpoint(name: str, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"no checkpoint")
    with pytest.raises(SetupError, match=r"weights\.pt"):
        find_engine(name).load(weights)


def test_every_published_model_is_told_with_its_licence_once() -> None:
    assert find_engine("sam3").licence.startswith("SAM License")
    for recipe in ENGINES.values():
        assert recipe.licence
        for model in recipe.models:
            assert recipe.licence.count(model.repository) == 1


def test_a_loaded_engine_bears_its_name_and_the_version_that_was_told_before(tmp_path: Path) -> None:
    for name in ("colour", "embedded"):
        engine = find_engine(name).load(None)
        assert (engine.name, engine.version) == (name, find_engine(name).version(None))
