"""Names of engines and what stands behind them: one table, resolved on demand, open to other packages' entry points."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, cast

from backend.errors import SetupError

if TYPE_CHECKING:
    from backend.decoders.base import Engine

ENTRY_POINT_GROUP = "maskloom.engines"
OWN_WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class EnginePreset:
    """An engine that can be asked for by name.

    ``build`` is ``module:attribute`` of a function ``(weights: Path | None) -> Engine``; ``weights`` is the file it reads when
    none is given.
    """

    name: str
    build: str
    summary: str
    licence: str
    weights: Path | None = None

    def load(self, weights: Path | None) -> Engine:
        """Build the engine; Raises SetupError when its weights are missing."""
        path = weights or self.weights
        if path is not None and not path.exists():
            raise SetupError(f"the engine {self.name!r} needs its weights at {path}, and there is no such file")
        return _resolve(self.build)(path)

    def version(self, weights: Path | None) -> str:
        """A name that changes with the weights, told without loading them into memory as a model."""
        path = weights or self.weights
        if path is None or not path.is_file():
            return f"{self.name}-1"
        with path.open("rb") as file:
            return f"{self.name}-{hashlib.file_digest(file, 'sha256').hexdigest()[:10]}"


ENGINES: dict[str, EnginePreset] = {
    preset.name: preset
    for preset in (
        EnginePreset(
            "embedded",
            "backend.decoders.embedded:build",
            "small joint-space model that ships with Maskloom: offline, quick, modest quality",
            "Apache-2.0 (see its model card for the training photos)",
            OWN_WEIGHTS / "embedded.safetensors",
        ),
        EnginePreset(
            "colour",
            "backend.decoders.colour:build",
            "no weights: colour words and connected pixels, for tests and for trying the service",
            "Apache-2.0",
        ),
    )
}


def find_engine(name: str) -> EnginePreset:
    """The preset of a name, from the table or from another package; Raises SetupError that lists the known names."""
    if name in ENGINES:
        return ENGINES[name]
    others = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name in others:
        return cast(EnginePreset, others[name].load())
    raise SetupError(f"there is no engine {name!r}; known engines: {', '.join(sorted({*ENGINES, *others}))}")


def _resolve(path: str) -> Callable[[Path | None], Engine]:
    module, _, attribute = path.partition(":")
    return cast("Callable[[Path | None], Engine]", getattr(importlib.import_module(module), attribute))
