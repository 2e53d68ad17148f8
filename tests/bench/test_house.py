from __future__ import annotations

import ast
import threading
from pathlib import Path

import pytest

from bench import house

FIRST = """
from __future__ import annotations
from typing import TYPE_CHECKING
import backend.second
if TYPE_CHECKING:
    from backend import third

def later():
    from backend import third
"""
SECOND = """
try:
    from backend.third import Thing
except ImportError:
    Thing = None
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages, in which the chain backend.first > backend.second > backend.third is the longest."""
    texts = {
        "first": FIRST,
        "second": SECOND,
        "third": "Thing = 1",
        "__init__": '"""Nothing."""',
        "room/__init__": "import backend",
    }
    for name, text in texts.items():
        file = tmp_path / "backend" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "long.py").write_text("x = 1\n" * 400)
    monkeypatch.setattr(house, "ROOT", tmp_path)
    monkeypatch.setattr(house, "OWN_FILES", {"video": ("backend/fir*.py",)})
    return tmp_path


def test_the_longest_chain_follows_what_is_imported_at_once(tree: Path) -> None:
    assert house.import_chain() == ["backend.first", "backend.second", "backend.third"]


def test_imports_within_functions_and_for_the_type_checker_are_none() -> None:
    modules = {"backend.second", "backend.third"}
    assert "backend.third" not in set(house.imported_at_once(ast.parse(FIRST).body, modules))
    assert "backend.third" in set(house.imported_at_once(ast.parse(SECOND).body, modules))


def test_a_name_that_a_package_gives_is_an_import_of_the_package_and_a_module_of_it_is_one_of_the_module() -> None:
    body = ast.parse("from backend.room import door, Thing").body
    assert list(house.imported_at_once(body, {"backend.room", "backend.room.door"})) == ["backend.room.door", "backend.room"]


def test_files_lines_and_flat_modules_are_counted(tree: Path) -> None:
    numbers = {number.what: number for number in house.size_numbers()}
    assert numbers["files in backend and prompts"].value == 6
    assert numbers["lines of the longest file"].value == 400
    assert not numbers["lines of the longest file"].is_kept
    assert numbers["files with code under 60 lines"].value == 4
    assert numbers["modules flat in backend/"].value == 4


def test_files_that_a_capability_brought_are_counted_apart(tree: Path) -> None:
    numbers = {number.what.strip(): number.value for number in house.size_numbers()}
    assert numbers["of these brought by video"] == 1
    assert numbers["all others"] == numbers["files in backend and prompts"] - 1


def test_a_file_that_is_gone_cannot_stay_in_the_list_of_a_capability(tree: Path) -> None:
    (tree / "backend" / "first.py").unlink()
    with pytest.raises(ValueError, match=r"fir\*\.py"):
        house.own_files()


def test_a_walk_counts_files_and_the_moves_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "FOLDERS", (f"{tmp_path}/",))
    spaces: dict[str, object] = {}
    for name, text in (("one", "def one(): two(); two()"), ("two", "def two(): return own()\ndef own(): return sorted([1])")):
        exec(compile(text, str(tmp_path / name), "exec"), spaces)
    walk = house.Walk()
    threading.setprofile(walk)
    thread = threading.Thread(target=spaces["one"])  # type: ignore[arg-type]
    thread.start()
    thread.join()
    threading.setprofile(None)
    assert {Path(file).name for file in walk.files} == {"one", "two"}
    assert (walk.calls, len(walk.functions), walk.moves) == (5, 3, 1)


def test_a_bound_that_is_not_reached_yet_fails_once_it_is_farther_away_than_it_was() -> None:
    assert not house.Number("files that a click crosses", 40, 28, reached=40).has_fallen_back
    assert not house.Number("files that a click crosses", 40, 28, reached=40).is_kept
    assert house.Number("files that a click crosses", 41, 28, reached=40).has_fallen_back
    assert not house.Number("lines in all", 9).has_fallen_back


def test_a_broken_bound_fails_when_bounds_are_demanded(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(house, "walk_numbers", lambda folder: iter([house.Number("files that a click crosses", 3, 28)]))
    assert house.main([]) == 0
    assert house.main(["--strict"]) == 1
    (tree / "prompts" / "long.py").write_text("x = 1\n")
    assert house.main(["--strict"]) == 0
    assert "import levels" in capsys.readouterr().out
