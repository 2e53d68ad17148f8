"""The compact text tower: how phrases are read, and that the shipped one puts like beside like."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.engines.embedded.engine import SHIPPED, read
from prompts.encoders.embedded import (
    MOST_PIECES,
    MOST_WORDS,
    TABLE_ROWS,
    EmbeddedTextEncoder,
    TextTower,
    kind_of,
    tokenize,
    words_of,
)


@functools.cache
def shipped() -> EmbeddedTextEncoder:
    return EmbeddedTextEncoder(read(SHIPPED).tower)


def likeness(one: str, other: str) -> float:
    left, right = shipped().encode_text([one, other])
    return float(left @ right)


def test_a_phrase_is_read_without_case_accents_and_punctuation() -> None:
    assert words_of("  Crème_Brûlée, please! ") == ("creme", "brulee", "please")


def test_a_phrase_without_a_letter_is_still_read() -> None:
    assert words_of("!!!") == ("?",)


@given(st.lists(st.text(min_size=1, max_size=80), min_size=1, max_size=4))
def test_any_text_becomes_rows_of_the_table(phrases: list[str]) -> None:
    rows = tokenize(phrases)
    assert rows.shape == (len(phrases), MOST_WORDS, MOST_PIECES)
    assert rows.min() >= 0
    assert rows.max() < TABLE_ROWS
    assert rows[:, 0, 0].ne(0).all()


def test_a_phrase_means_the_same_alone_and_beside_longer_ones() -> None:
    torch.manual_seed(0)
    tower = TextTower().eval()
    with torch.inference_mode():
        alone = tower(tokenize(["cup"]))
        beside = tower(tokenize(["cup", "a very long phrase about a red cup there"]))
    torch.testing.assert_close(alone[0], beside[0], rtol=1e-4, atol=1e-5)


@given(st.lists(st.text(min_size=1, max_size=40), max_size=3))
def test_every_phrase_is_a_unit_vector(phrases: list[str]) -> None:
    vectors = shipped().encode_text(phrases)
    assert vectors.shape == (len(phrases), 128)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(phrases)))


@pytest.mark.parametrize(
    ("word", "near", "far"),
    [
        ("puppy", "dog", "car"),
        ("sofa", "couch", "tree"),
        ("automobile", "car", "bird"),
        ("horses", "horse", "window"),
        ("small red cup", "cup", "horse"),
        ("traffic_light", "traffic light", "person"),
    ],
)
def test_like_lies_beside_like(word: str, near: str, far: str) -> None:
    assert likeness(word, near) > likeness(word, far) + 0.1


def test_an_unknown_word_lies_near_the_word_it_is_spelt_like() -> None:
    assert likeness("umbrellla", "umbrella") > likeness("umbrellla", "horse") + 0.1


@pytest.mark.parametrize(
    "same",
    [("dog", "dogs"), ("cup", "a cup"), ("motorcycle", "the motorcycle"), ("person", "people"), ("cat", "small black cat")],
)
def test_plurals_articles_and_adjectives_change_little(same: tuple[str, str]) -> None:
    assert likeness(*same) > 0.85


@pytest.mark.parametrize(
    ("word", "kind"), [("an old man", "person"), ("women", "person"), ("kittens", "cat"), ("Motorbikes", "motorcycle")]
)
def test_what_was_taught_under_another_name_is_found_by_that_name(word: str, kind: str) -> None:
    assert likeness(word, kind) > 0.85
    assert likeness(word, kind) < 0.99, "the word itself counts, too"


def test_a_word_of_no_known_kind_and_the_name_itself_are_read_as_they_are() -> None:
    assert [kind_of(phrase) for phrase in ("person", "man's hat", "!!!", "human")] == [None, None, None, "person"]


@pytest.mark.parametrize("string", ["asdfgh", "blorptrim", "zzkf qwx"])
def test_what_is_no_word_is_like_nothing(string: str) -> None:
    assert max(likeness(string, name) for name in ("person", "dog", "car", "tree", "cup", "sky", "chair", "zebra")) < 0.3


def test_many_phrases_are_read_together_as_each_alone_and_only_the_latest_are_kept() -> None:
    torch.manual_seed(0)
    encoder = EmbeddedTextEncoder(TextTower(), most_kept=10)
    phrases = [f"thing {k}" for k in range(300)]
    together = encoder.encode_text([*phrases, phrases[0]])
    assert torch.equal(together[0], together[-1])
    torch.testing.assert_close(encoder.encode_text(phrases[:3]), together[:3], rtol=1e-4, atol=1e-5)
    assert len(encoder._kept) == 10
