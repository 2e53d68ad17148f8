from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer

from bench import answers
from prompts.kinds import Prompt


@pytest.fixture(scope="module")
def colour() -> dict[str, answers.Answer]:
    return answers.all_answers(["colour"])


def test_every_kind_of_prompt_is_asked(colour: dict[str, answers.Answer]) -> None:
    (scene,) = answers.drawings().values()
    asked = {type(prompt) for prompts in answers.questions(scene).values() for prompt in prompts}
    assert asked == set(Prompt.__args__)
    assert sum(bool(rows) for rows in colour.values()) > 15
    assert not [row["error"] for rows in colour.values() for row in rows if "error" in row]


def test_the_same_code_gives_the_same_answers(colour: dict[str, answers.Answer]) -> None:
    again = answers.all_answers(["colour"])
    assert answers.digest(again) == answers.digest(colour)
    assert not any(answers.difference(colour[name], again[name]) for name in colour)


def row(mask: np.ndarray, label: str = "cat", score: float = 0.5) -> dict[str, object]:
    return {"label": label, "score": score, "rle": answers.run_lengths(mask)}


def test_a_difference_is_told_in_words() -> None:
    half, whole = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    half[:2] = True
    assert answers.difference([row(half)], [row(half, score=0.5004)]) is None
    assert answers.difference([row(half)], [row(whole)]) == "0: IoU 0.5000"
    assert answers.difference([row(half)], []) == "1 masks became 0"
    assert (
        answers.difference([row(half)], [row(half, "dog", 0.7)]) == "0: label 'cat' became 'dog'; 0: score 0.500 became 0.700"
    )
    assert answers.difference([row(half)], [{"error": "full"}]) == "1 masks became full"


def test_other_answers_fail_and_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tmp_path / "before.json"
    answers.main(out=before, engine=["colour"])
    answers.main(against=before, engine=["colour"])
    kept = json.loads(before.read_text())
    kept["colour / drawing / click"] = []
    before.write_text(json.dumps(kept))
    with pytest.raises(typer.Exit):
        answers.main(against=before, engine=["colour"])
    assert "colour / drawing / click: 0 masks became 1" in capsys.readouterr().out
