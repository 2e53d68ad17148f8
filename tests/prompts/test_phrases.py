"""Label names and typed lines as phrases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts.kinds import TextPrompt, read_phrases
from prompts.phrases import LabelPhrases, Vocabulary, fill_templates, in_words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Cat", "cat"),
        ("traffic_light", "traffic light"),
        ("TrafficLight", "traffic light"),
        ("hot-dog/roll", "hot dog roll"),
        ("  wine   glass ", "wine glass"),
        ("Ampel (rot)", "ampel (rot)"),
        ("信号", "信号"),
    ],
)
def test_a_label_name_is_read_as_words(name: str, words: str) -> None:
    assert in_words(name) == words


@pytest.mark.parametrize(
    ("line", "prompts"),
    [
        ("red circle", [TextPrompt("red circle")]),
        ("cup, saucer; spoon\nplate", [TextPrompt(word) for word in ("cup", "saucer", "spoon", "plate")]),
        ("a cup. a plate.", [TextPrompt("a cup"), TextPrompt("a plate")]),
        ("cup . plate", [TextPrompt("cup"), TextPrompt("plate")]),
        ("cup, not the saucer", [TextPrompt("cup"), TextPrompt("saucer", positive=False)]),
        ("NO people", [TextPrompt("people", positive=False)]),
        ("without a lid, except an apple", [TextPrompt("lid", positive=False), TextPrompt("apple", positive=False)]),
        ("notebook, nobody", [TextPrompt("notebook"), TextPrompt("nobody")]),
        ("a 2.5 m pole", [TextPrompt("a 2.5 m pole")]),
        ("cup, cup", [TextPrompt("cup")]),
        (" , ;; . \n", []),
        ("", []),
    ],
)
def test_a_typed_line_becomes_prompts(line: str, prompts: list[TextPrompt]) -> None:
    assert list(read_phrases(line)) == prompts


@given(st.text())
def test_any_line_becomes_prompts_with_something_in_them(line: str) -> None:
    assert all(prompt.phrase.strip() for prompt in read_phrases(line))


@given(st.text(min_size=1).filter(str.strip))
def test_every_label_has_a_phrase(name: str) -> None:
    entry = LabelPhrases.of(name)
    assert entry.label == name
    assert all(entry.phrases)


def test_aliases_follow_the_label_s_own_name_each_once() -> None:
    assert LabelPhrases.of("Cat", ["kitten", "CAT", "house_cat", "kitten"]).phrases == ("cat", "kitten", "house cat")


def test_a_vocabulary_keeps_the_order_and_drops_repetitions() -> None:
    assert Vocabulary.from_names(["b", "a", "b"]).labels == ("b", "a")


@pytest.mark.parametrize("phrase", ["traffic_light", "Traffic Lights", "trafficLight", "semaphores"])
def test_a_label_is_found_whatever_the_spelling(phrase: str) -> None:
    for label, alias in (("traffic light", "semaphore"), ("Traffic_Lights", "Semaphores")):
        vocabulary = Vocabulary((LabelPhrases.of("glass"), LabelPhrases.of(label, [alias])))
        assert vocabulary.find(phrase) == label


def test_an_exact_name_is_found_before_a_similar_one() -> None:
    """Labels that differ in case or number only used to answer for each other: "cat" was written as "Cats"."""
    vocabulary = Vocabulary.from_names(["Cats", "cat", "CAT"])
    assert [vocabulary.find(name) for name in ("cat", "CAT", "Cats")] == ["cat", "CAT", "Cats"]


def test_a_phrase_that_no_label_answers_to_is_not_found() -> None:
    assert Vocabulary.from_names(["glass", "cat"]).find("glas") is None
    assert Vocabulary().find("cat") is None


def test_a_label_is_found_however_its_accents_are_coded() -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert Vocabulary.from_names([composed]).find(apart) == composed
    assert Vocabulary.from_names([apart]).find(composed) == apart
    assert Vocabulary.from_names([composed, apart]).find_all([composed, apart]) == {composed: composed, apart: apart}


@given(st.lists(st.text(min_size=1), max_size=5), st.text())
def test_what_is_found_is_always_a_label(names: list[str], phrase: str) -> None:
    found = Vocabulary.from_names(names).find(phrase)
    assert found is None or found in names
    assert phrase not in names or found == phrase


def test_templates_are_filled_with_the_phrase_as_it_is() -> None:
    assert fill_templates("a {odd} cup", ["a photo of {}.", "{}"]) == ["a photo of a {odd} cup.", "a {odd} cup"]
