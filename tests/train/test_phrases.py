"""The phrases that the text tower learns from."""

from __future__ import annotations

from train.phrases import common_words, lessons, plural


def test_only_whole_plain_words_are_taken_from_a_vocabulary() -> None:
    assert common_words(["[CLS]", "##ing", "dog", "a", "42", "Straße", "cat"]) == ["dog", "cat"]


def test_every_name_comes_first_and_every_phrase_once() -> None:
    phrases = [lesson.phrase for lesson in lessons(["cup", "dog"], ["tree"], 500)]
    assert phrases[:3] == ["cup", "dog", "tree"]
    assert len(set(phrases)) == len(phrases) > 100


def test_plurals_and_frames_mean_the_noun_itself_and_adjectives_most_of_it() -> None:
    found = {lesson.phrase: lesson for lesson in lessons(["cup", "knife"], [], 2000)}
    assert (found["cups"].noun, found["cups"].share) == ("cup", 1.0)
    assert (found["knives"].noun, found["knives"].share) == ("knife", 1.0)
    assert found["photo of a cup"].share == 1.0
    assert found["red cup"].noun == "cup"
    assert 0.5 < found["red cup"].share < 1


def test_invented_strings_are_about_nothing_and_names_never_are() -> None:
    found = lessons(["cup"], ["tree"], 600)
    nothing = [lesson for lesson in found if not lesson.noun]
    assert len(nothing) > 100
    assert not {"cup", "tree", "cups"} & {lesson.phrase for lesson in nothing}


def test_plurals_follow_english() -> None:
    nouns = ["dog", "glass", "strawberry", "toy", "fireman", "person", "fire hydrant", "brush"]
    assert [plural(noun) for noun in nouns] == [
        "dogs", "glasses", "strawberries", "toys", "firemen", "people", "fire hydrants", "brushes",
    ]  # fmt: skip


def test_lessons_are_the_same_every_time_and_differ_by_seed() -> None:
    assert lessons(["cup"], ["tree"], 50) == lessons(["cup"], ["tree"], 50)
    assert lessons(["cup"], ["tree"], 50) != lessons(["cup"], ["tree"], 50, seed=1)
