"""What typed lines mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.request.typed import Like, read_sentence
from prompts.kinds import TextPrompt

CUP = TextPrompt("cup")


@pytest.mark.parametrize(
    ("line", "texts", "likes"),
    [
        ("cup", [CUP], []),
        ("cup, not the saucer", [CUP, TextPrompt("saucer", positive=False)], []),
        ("like this", [], [Like(None)]),
        ("Find all like this", [], [Like(None)]),
        ("everything like these", [], [Like(None)]),
        ("cup like this", [CUP], [Like(None)]),
        ("like traffic light", [], [Like("traffic light")]),
        ("like cup, not like this", [], [Like("cup"), Like(None, positive=False)]),
        ("this", [], []),
        ("this; cup", [CUP], []),
        (".", [], []),
        ("", [], []),
        ("likeness of a cup", [TextPrompt("likeness of a cup")], []),
    ],
)
def test_a_line_means(line: str, texts: list[TextPrompt], likes: list[Like]) -> None:
    found = read_sentence([line])
    assert (list(found.texts), list(found.likes)) == (texts, likes)


def test_lines_are_read_together_and_repetitions_once() -> None:
    assert read_sentence(["cup", "cup; like this", "like this"]) == read_sentence(["cup, like this"])


@pytest.mark.parametrize(("line", "asks"), [("this", True), ("cup, That", True), ("cup", False), ("like this", False)])
def test_this_asks_for_what_is_marked(line: str, asks: bool) -> None:
    assert read_sentence([line]).asks_for_marked is asks


@given(st.lists(st.text(max_size=30), max_size=4))
def test_any_text_can_be_read(lines: list[str]) -> None:
    for text in read_sentence(lines).texts:
        assert text.phrase.strip()
