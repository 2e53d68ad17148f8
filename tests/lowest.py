"""Prints the lowest versions of the web part that the package allows, as requirements for pip (see `make test-lowest`)."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

WEB = frozenset(
    {"fastapi", "h11", "httpx", "pillow", "prometheus-client", "pydantic", "pydantic-settings", "starlette", "typer", "uvicorn"}
)
"""What strangers reach first: the packages that read what comes in over the network."""


def lowest(lines: list[str]) -> list[str]:
    """Each package of the web part at its lower bound."""
    found = [Requirement(line) for line in lines]
    floors = {one.name: [each.version for each in one.specifier if each.operator == ">="] for one in found}
    extras = {one.name: f"[{','.join(sorted(one.extras))}]" if one.extras else "" for one in found}
    return sorted(f"{name}{extras[name]}=={versions[0]}" for name, versions in floors.items() if name in WEB)


if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    print(" ".join(lowest(project["dependencies"])))
