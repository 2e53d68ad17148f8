"""The phrases that the text tower learns from."""

from __future__ import annotations

from train.phrases import common_words, compose


def test_only_whole_plain_words_are_taken_from_a_vocabulary() -> None:
    assert common_words(["[CLS]", "##ing", "dog", "a", "42", "Straße", "cat"]) == ["dog", "cat"]


def test_every_name_comes_first_and_every_phrase_once() -> None:
    phrases = compose(["cup", "dog"], ["tree"], 500)
    assert phrases[:3] == ["cup", "dog", "tree"]
    assert len(set(phrases)) == len(phrases) > 100


def test_compositions_are_the_same_every_time_and_differ_by_seed() -> None:
    assert compose(["cup"], ["tree"], 50) == compose(["cup"], ["tree"], 50)
    assert compose(["cup"], ["tree"], 50) != compose(["cup"], ["tree"], 50, seed=1)
