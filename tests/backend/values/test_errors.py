"""The command that installs an extra works where it is printed: in a checkout, and beside an installed package."""

from __future__ import annotations

import shlex
import sys
import types
from pathlib import Path

import pytest

from backend.values import errors

ROOT = Path(__file__).parents[3]


def test_a_checkout_is_installed_as_it_lies_with_its_constraints() -> None:
    words = shlex.split(errors.install_command("engines"))
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    assert words[4:] == ["--constraint", str(ROOT / "constraints.txt"), "--editable", f"{ROOT}[engines]"]


def test_an_installed_package_names_the_packages_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own name says nothing to pip unless it is on an index."""
    monkeypatch.setattr(errors, "_ROOT", tmp_path)
    wanted = ["torch>=2.6", 'transformers>=5.23; extra == "engines"', 'ray[data]>=2.50; extra == "ray"']
    monkeypatch.setattr(errors.importlib.metadata, "requires", lambda _: wanted)
    assert shlex.split(errors.install_command("engines"))[4:] == ["transformers>=5.23"]
    assert shlex.split(errors.install_command("ray"))[4:] == ["ray[data]>=2.50"]


def test_modules_are_looked_for_without_being_imported() -> None:
    assert errors.missing_modules(["json", "no_such_module_here", "antigravity"]) == ["no_such_module_here"]


def test_a_module_that_something_refuses_or_half_of_which_is_there_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    half = types.ModuleType("half")
    monkeypatch.setitem(sys.modules, "half", half)
    monkeypatch.setitem(sys.modules, "forbidden_module", None)
    assert errors.missing_modules(["half", "forbidden_module", "json"]) == ["half", "forbidden_module"]
    assert "antigravity" not in sys.modules
