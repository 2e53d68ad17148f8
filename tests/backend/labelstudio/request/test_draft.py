"""What a task already holds, and what a typed line says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.request.typed import Typed, TypedReference, read_typed
from backend.labelstudio.shapes.base import annotator, saved_ids, submitted_ids
from prompts.kinds import TextPrompt
from prompts.phrases import LabelPhrases, Vocabulary
from tests.backend.labelstudio.captured import body


def captured_task(name: str) -> dict[str, Any]:
    return body(name)["tasks"][0]


def test_regions_of_annotations_and_predictions_are_submitted_and_those_of_drafts_are_not() -> None:
    task = captured_task("interactive_with_annotation_and_draft")
    task["predictions"] = [{"result": [{"id": "p1"}]}]
    task["drafts"][0]["result"].append({"id": "d1"})
    assert submitted_ids(task) == {"r1", "p1"}
    assert saved_ids(task) == {"r1", "d1"}


def test_all_regions_of_a_draft_are_known() -> None:
    assert saved_ids(captured_task("interactive_rectangle_with_existing_plain_rectangle")) == {"r1", "ah2TgBWJoo"}


def test_the_annotator_is_whoever_s_draft_came_along() -> None:
    assert annotator(captured_task("interactive_rectangle")) == "admin@example.com"
    assert annotator(captured_task("interactive_exif6")) == ""


@pytest.mark.parametrize(
    "broken", [None, 5, "x", {}, [None], [{"result": None}], [{"result": [None, {"id": 5}, {}]}], [{"user": None}]]
)
def test_a_broken_task_holds_nothing(broken: object) -> None:
    task = {"annotations": broken, "predictions": broken, "drafts": broken}
    assert (submitted_ids(task), saved_ids(task), annotator(task)) == (frozenset(), frozenset(), "")


CUP = TextPrompt("cup")


def read(lines: list[str], *labels: LabelPhrases) -> Typed:
    return read_typed(lines, Vocabulary(labels))


@pytest.mark.parametrize(
    ("line", "texts", "references"),
    [
        ("cup", [CUP], []),
        ("cup, not the saucer", [CUP, TextPrompt("saucer", positive=False)], []),
        ("like this", [], [TypedReference(None)]),
        ("Find all like this", [], [TypedReference(None)]),
        ("everything like these", [], [TypedReference(None)]),
        ("cup like this", [CUP], [TypedReference(None)]),
        ("like traffic light", [], [TypedReference("traffic light")]),
        ("like cup, not like this", [], [TypedReference("cup"), TypedReference(None, positive=False)]),
        ("this", [], []),
        ("this; cup", [CUP], []),
        (".", [], []),
        ("", [], []),
        ("likeness of a cup", [TextPrompt("likeness of a cup")], []),
    ],
)
def test_a_line_means(line: str, texts: list[TextPrompt], references: list[TypedReference]) -> None:
    found = read([line])
    assert (list(found.texts), list(found.references)) == (texts, references)


def test_lines_are_read_together_and_repetitions_once() -> None:
    assert read(["cup", "cup; like this", "like this"]) == read(["cup, like this"])


@pytest.mark.parametrize(("line", "asks"), [("this", True), ("cup, That", True), ("cup", False), ("like this", False)])
def test_this_asks_for_what_is_marked(line: str, asks: bool) -> None:
    assert read([line]).asks_for_marked is asks


@given(st.lists(st.text(max_size=30), max_size=4))
def test_any_text_can_be_read(lines: list[str]) -> None:
    for text in read(lines).texts:
        assert text.phrase.strip()


def positive(line: str, *labels: LabelPhrases) -> list[str]:
    """The positive phrases of a line, which must not ask for anything else."""
    found = read([line], *labels)
    assert (found.references, found.asks_for_marked) == ((), False)
    return [text.phrase for text in found.texts if text.positive]


@pytest.mark.parametrize("name", ["not red", "like new", "this", "without lid", "red, large", "a; b", "all like it"])
def test_the_name_of_a_label_is_that_label_whatever_words_it_has(name: str) -> None:
    label = LabelPhrases.of(name)
    assert positive(name, label) == [name]
    assert positive(f" {name.upper()} ", label) in ([name.upper()], [f" {name.upper()} ".strip()])


def test_a_label_means_every_phrase_that_finds_it() -> None:
    cat = LabelPhrases.of("Felis", ["kitten", "house cat"])
    assert positive("Felis", cat) == ["Felis", "kitten", "house cat"]
    assert positive("felis, kitten", cat) == ["felis", "kitten", "house cat"]
    assert positive("kitten", cat) == ["kitten"], "another phrase is no label"
    against = read(["not Felis"], cat)
    assert [(text.phrase, text.positive) for text in against.texts] == [
        ("Felis", False),
        ("kitten", False),
        ("house cat", False),
    ]


def test_beside_such_a_label_the_other_words_mean_what_they_did() -> None:
    found = read(["not red, not blue, like new, like cup"], LabelPhrases.of("not red"), LabelPhrases.of("like new"))
    assert found.texts == (TextPrompt("not red"), TextPrompt("blue", positive=False), TextPrompt("like new"))
    assert found.references == (TypedReference("cup"),)


def test_what_looks_like_a_label_can_be_what_examples_are_of() -> None:
    assert read(["like like new"], LabelPhrases.of("like new")).references == (TypedReference("like new"),)
