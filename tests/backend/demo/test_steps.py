from __future__ import annotations

import io

import pytest
from rich.console import Console

from backend.demo.steps import Steps


def written(steps: Steps) -> str:
    file = steps.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.fixture
def steps() -> Steps:
    """What a log file would hold, as there is no terminal."""
    return Steps(Console(file=io.StringIO(), width=40))


def test_a_step_leaves_one_line_with_its_seconds(steps: Steps) -> None:
    with steps.step("Project") as tell:
        tell("halfway [100%]")
    assert written(steps).startswith("Project: 0.")
    assert written(steps).count("\n") == 1


def test_a_bar_leaves_one_line_with_the_number_of_things(steps: Steps) -> None:
    with steps.bar("Photos", 3) as advance:
        advance(3)
    assert written(steps).startswith("Photos (3): 0.")
    assert written(steps).count("\n") == 1


def test_a_step_that_fails_is_not_called_done(steps: Steps) -> None:
    with pytest.raises(ValueError, match="no"), steps.step("Project"):
        raise ValueError("no")
    assert written(steps) == ""


def test_brackets_in_names_of_files_are_shown_as_they_are_and_long_lines_stay_whole(steps: Steps) -> None:
    steps.warn("left out: /photos/[red]/a.png" + "x" * 50)
    assert written(steps) == "left out: /photos/[red]/a.png" + "x" * 50 + "\n"
