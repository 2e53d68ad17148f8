"""The grammar of words that edit masks: what is an edit, what stays a phrase, and that nothing typed breaks it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.request.typed import MOST_EDITS, Edit, Verb, done_in_order, read_edit, read_typed
from prompts.phrases import LabelPhrases, Vocabulary

LABELS = ("cup", "More", "coffee table", "grow 2", "12 points")


def no_label(text: str) -> str | None:
    return None


def label_of(text: str) -> str | None:
    return text if text in LABELS else None


@pytest.mark.parametrize(
    ("line", "edit"),
    [
        ("more", Edit(Verb.MORE)),
        ("Fewer", Edit(Verb.FEWER)),
        ("> 0.6", Edit(Verb.ABOVE, 0.6)),
        (">.5", Edit(Verb.ABOVE, 0.5)),
        ("above 60 %", Edit(Verb.ABOVE, 0.6)),
        ("fill holes", Edit(Verb.FILL)),
        ("fill the hole", Edit(Verb.FILL)),
        ("smooth 3", Edit(Verb.SMOOTH, 3)),
        ("smooth", Edit(Verb.SMOOTH, 3)),
        ("grow 2", Edit(Verb.GROW, 2)),
        ("grow 2 px", Edit(Verb.GROW, 2)),
        ("grow by 2", Edit(Verb.GROW, 2)),
        ("grow +2px", Edit(Verb.GROW, 2)),
        ("score > 0.6", Edit(Verb.ABOVE, 0.6)),
        ("fill all holes", Edit(Verb.FILL)),
        ("merge all", Edit(Verb.JOIN)),
        ("keep the biggest part", Edit(Verb.LARGEST)),
        ("12 point", Edit(Verb.POINTS, 12)),
        ("shrink", Edit(Verb.SHRINK, 1)),
        ("join", Edit(Verb.JOIN)),
        ("split", Edit(Verb.SPLIT)),
        ("cut", Edit(Verb.CUT)),
        ("largest part", Edit(Verb.LARGEST)),
        ("12 points", Edit(Verb.POINTS, 12)),
        ("undo", Edit(Verb.UNDO)),
    ],
)
def test_a_line_of_the_grammar_is_an_edit(line: str, edit: Edit) -> None:
    assert read_edit(line, no_label) == edit
    assert read_edit(f"  {line.upper()} ", no_label) == edit


@pytest.mark.parametrize(
    "line",
    [
        "more coffee",
        "grow lamp",
        "grow by lamp",
        "the largest cup",
        "join allspice",
        "grow 0",
        "grow 501",
        "> 1.5",
        "> 101 %",
        "2 points",
        "cutlery",
        "split pea",
        "undo it",
        "12",
        "",
    ],
)
def test_what_the_grammar_does_not_have_stays_a_phrase(line: str) -> None:
    assert read_edit(line, no_label) is None


def test_a_label_after_a_verb_says_whose_regions_are_meant() -> None:
    assert read_edit("grow 3 of cup", label_of) == Edit(Verb.GROW, 3, "cup")
    assert read_edit("join coffee table", label_of) == Edit(Verb.JOIN, 0, "coffee table")
    assert read_edit("join saucer", label_of) is None


@pytest.mark.parametrize("label", LABELS)
def test_the_exact_name_of_a_label_is_never_an_edit(label: str) -> None:
    vocabulary = Vocabulary(tuple(LabelPhrases.of(each, ()) for each in LABELS))
    typed = read_typed([label], vocabulary)
    assert typed.edits == ()
    assert typed.texts[0].phrase == label


@pytest.mark.parametrize("line", ["grow 501", "grow by 0", "< 0.5", "> 101 %", "above 7", "2 points", "undo 3", "grow 2 of it"])
def test_what_is_almost_an_edit_is_no_phrase_but_misread_in_the_newest_line(line: str) -> None:
    typed = read_typed(["cup", line], Vocabulary(()))
    assert (typed.misread, [text.phrase for text in typed.texts]) == ((line,), ["cup"])
    assert read_typed([line, "cup"], Vocabulary(())).misread == ()
    assert read_typed([line], Vocabulary((LabelPhrases.of(line, ()),))).texts[0].phrase == line


def test_undo_said_twice_is_two() -> None:
    assert read_typed(["Undo  undo undo"], Vocabulary(())).edits == (Edit(Verb.UNDO),) * 3


def test_phrases_negatives_likes_and_edits_stand_together_in_order() -> None:
    vocabulary = Vocabulary((LabelPhrases.of("cup", ()),))
    typed = read_typed(["cup, not saucer, like plate, grow 2, > 0.6", "undo"], vocabulary)
    assert [(text.phrase, text.positive) for text in typed.texts] == [("cup", True), ("saucer", False)]
    assert [each.label for each in typed.references] == ["plate"]
    assert typed.edits == (Edit(Verb.GROW, 2), Edit(Verb.ABOVE, 0.6), Edit(Verb.UNDO))
    assert not typed.only_edits
    assert read_typed(["grow 2, fill holes"], vocabulary).only_edits


EDITS = st.builds(Edit, st.sampled_from([verb for verb in Verb if verb is not Verb.ABOVE]), st.integers(3, 400).map(float))
WORDS = st.sampled_from(
    ["more", "grow", "2", ">", "0.6", "fill", "holes", "of", "cup", "points", "undo", ",", "%", "px", "é", "\n"]
)


@given(st.text(max_size=60) | st.lists(WORDS, max_size=9).map(" ".join))
def test_anything_can_be_typed(line: str) -> None:
    edit = read_edit(line, label_of)
    assert edit is None or edit.verb in Verb
    typed = read_typed([line], Vocabulary((LabelPhrases.of("cup", ()),)))
    assert len(typed.edits) + len(typed.texts) <= line.count(",") + 4


@given(EDITS)
def test_an_edit_in_words_is_the_edit(edit: Edit) -> None:
    has_amount = edit.verb in (Verb.GROW, Verb.SHRINK, Verb.SMOOTH, Verb.POINTS)
    meant = edit if has_amount else Edit(edit.verb)
    assert read_edit(str(meant), no_label) == meant


@given(st.lists(st.sampled_from([Edit(Verb.GROW, 2), Edit(Verb.FILL), Edit(Verb.UNDO)]), max_size=30))
def test_undo_takes_back_what_came_before_like_a_stack(edits: list[Edit]) -> None:
    left = done_in_order(tuple(edits))
    undone = sum(edit.verb is Verb.UNDO for edit in edits)
    assert len(left) == len(edits) - 2 * (undone - sum(edit.verb is Verb.UNDO for edit in left))
    verbs = [edit.verb for edit in left]
    assert verbs == sorted(verbs, key=lambda verb: verb is not Verb.UNDO), "an undo that is left comes first"
    assert len(done_in_order((Edit(Verb.FILL),) * 1000)) == MOST_EDITS
