"""The folder of an engine's published models: its manifest, and what is missing in it or is not what this release expects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.engines.catalogue import PublishedModel, Recipe
from backend.values.errors import SetupError, install_command, missing_modules

MANIFEST = "bundle.json"
NEEDED_ROLES = ("decoder", "clip", "seem")
"""Without these no engine answers; the others only add to them."""


@dataclass(frozen=True, slots=True)
class Part:
    """What the manifest says of one model: the repository and the commit that it is from, and the sha256 of each file."""

    repository: str
    revision: str
    files: Mapping[str, str]


def read_manifest(folder: Path) -> dict[str, Part]:
    """The models of a bundle by role. Raises SetupError when there is no manifest, or it is something else."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {
            str(role): Part(str(model["repository"]), str(model["revision"]), dict(model["files"]))
            for role, model in manifest["models"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SetupError(
            f"{folder} has no readable {MANIFEST}: {error}; run 'maskloom fetch' again, it keeps what is whole"
        ) from error


def write_manifest(folder: Path, engine: str, models: Mapping[str, Mapping[str, Any]]) -> Path:
    """Put the manifest into a bundle, wholly or not at all."""
    manifest, draft = folder / MANIFEST, folder / f"{MANIFEST}.part"
    draft.write_text(json.dumps({"engine": engine, "models": models}, indent=1), encoding="utf-8")
    draft.replace(manifest)
    return manifest


def verify(folder: Path) -> list[str]:
    """What is wrong with a bundle, file by file; nothing when every file is there and has the digest of the manifest. Raises
    SetupError when there is no manifest.
    """
    wrong = []
    for role, part in read_manifest(folder).items():
        for name, expected in part.files.items():
            path = folder / role / name
            if not path.is_file():
                wrong.append(f"{path} is missing")
            elif digest(path) != expected:
                wrong.append(f"{path} has changed")
    return wrong


def missing_for(recipe: Recipe, weights: Path | None) -> str | None:
    """What an engine lacks before it can be loaded, with what to do; None when nothing is to be seen. Reads no weights: see
    verify.
    """
    if modules := missing_modules(recipe.modules):
        return f"the engine {recipe.name!r} needs {', '.join(modules)}: run {install_command('engines')}"
    if recipe.models and not (weights is not None and weights.is_file()):
        return _missing_in(recipe, weights or Path(recipe.name))
    path = weights or recipe.weights
    if path is not None and not path.exists():
        return f"the engine {recipe.name!r} needs its weights at {path}, and there is no such file"
    return None


def differences(recipe: Recipe, folder: Path) -> list[str]:
    """In what a bundle that can be loaded is not what this release fetches: parts that it lacks, other repositories or
    revisions.
    """
    if not (folder / MANIFEST).is_file():
        return [f"{part.role} is not there" for part in recipe.models if not (folder / part.role).is_dir()]
    parts = read_manifest(folder)
    told = (_difference(model, parts.get(model.role)) for model in recipe.models)
    return [each for each in told if each is not None]


def _missing_in(recipe: Recipe, folder: Path) -> str | None:
    fetch = fetch_command(recipe, folder)
    if not folder.is_dir():
        return f"the engine {recipe.name!r} needs its models in {folder}, and there is no such folder: {fetch}"
    if (folder / MANIFEST).exists():
        try:
            parts = read_manifest(folder)
        except SetupError as error:
            return str(error)
        lacking = [f"{role}/{name}" for role, part in parts.items() for name in part.files]
        lacking = [name for name in lacking if not (folder / name).is_file()]
    else:
        needed = [model.role for model in recipe.models if model.role in NEEDED_ROLES]
        lacking = [role for role in needed if not _has_weights(folder / role)]
    if not lacking:
        return None
    return f"half a bundle lies in {folder}, without {', '.join(lacking[:4])}: {fetch}, which keeps what is whole"


def _has_weights(folder: Path) -> bool:
    return any(path.suffix in (".safetensors", ".pt") for path in folder.glob("*"))


def fetch_command(recipe: Recipe, folder: Path) -> str:
    """What to run to fill a bundle."""
    return f"run 'maskloom fetch {recipe.name}" + ("'" if folder.name in (recipe.name, recipe.bundle) else f" --to {folder}'")


def _difference(model: PublishedModel, part: Part | None) -> str | None:
    if part is None:
        return f"{model.role} is not there"
    if part.repository != model.repository:
        return f"{model.role} is {part.repository}, not {model.repository}"
    if model.revision is not None and part.revision != model.revision:
        return f"{model.repository} is revision {part.revision[:10]}, not {model.revision[:10]}"
    return None


def digest(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
