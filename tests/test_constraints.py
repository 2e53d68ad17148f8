"""The versions that are installed for development are exact, and are such as the package itself accepts."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WANTED = [
    Requirement(line)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in group
    if not line.startswith("maskloom")
]
PINNED = {
    canonicalize_name(pin.name): pin
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
    for pin in [Requirement(line)]
}


def test_every_constraint_is_one_version() -> None:
    assert all([one.operator for one in pin.specifier] == ["=="] for pin in PINNED.values())


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_what_the_package_needs_is_pinned_to_a_version_that_it_accepts(wanted: Requirement) -> None:
    (pin,) = PINNED[canonicalize_name(wanted.name)].specifier
    assert pin.version in wanted.specifier


def test_the_package_itself_pins_nothing() -> None:
    """Whoever installs Maskloom beside other packages must be free to have another version of torch."""
    assert not [str(wanted) for wanted in WANTED if any(one.operator == "==" for one in wanted.specifier)]
