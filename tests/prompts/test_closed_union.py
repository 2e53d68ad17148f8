"""An eighth kind of prompt, tried out on a copy: the type checker names every place that has to know it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MATCHES = {  # the functions that tell kinds of prompt apart
    "prompts/kinds.py": ("_is_positive", "_cover", "_anchor"),
    "prompts/space.py": ("drawn_points", "of"),
    "backend/engines/base.py": ("_shrunk",),
    "backend/engines/embedded/from_drawing.py": ("_scaled",),
}
LASSO = """
@dataclass(frozen=True, slots=True)
class LassoPrompt:
    number: int


DrawnPrompt = LassoPrompt | """


@pytest.mark.slow
def test_every_match_over_the_kinds_of_prompt_refuses_a_kind_that_it_does_not_know(tmp_path: Path) -> None:
    for room in ("prompts", "backend"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    if (known := ROOT / ".mypy_cache").exists():  # what `make check` knows of numpy and torch takes a minute to find out
        shutil.copytree(known, tmp_path / known.name)
    kinds = tmp_path / "prompts/kinds.py"
    kinds.write_text(kinds.read_text(encoding="utf-8").replace("DrawnPrompt = ", LASSO.lstrip(), 1), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", *MATCHES]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    refused = {(file, int(line)) for file, line in re.findall(r'^(\S+):(\d+): error: Argument 1 to "assert_never"', told, re.M)}
    assert {(file, _function_at(tmp_path / file, line)) for file, line in refused} == {
        (file, name) for file, names in MATCHES.items() for name in names
    }, told


def _function_at(path: Path, line: int) -> str:
    """The name of the function in which a line lies."""
    above = path.read_text(encoding="utf-8").splitlines()[:line]
    return next(found[1] for found in (re.match(r"\s*def (\w+)", text) for text in reversed(above)) if found)
