"""Names of engines and what stands behind them: one table, resolved on demand, open to other packages' entry points."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, cast

from backend.values.errors import SetupError
from backend.values.placement import Placement

APACHE, MIT, SAM_LICENCE = "Apache-2.0", "MIT", "SAM License (gated: ask for access on the model's page, then set HF_TOKEN)"


@dataclass(frozen=True, slots=True)
class ModelPart:
    """One published model of an engine: its place in the bundle (``role``), its repository on the hub and its licence."""

    role: str
    repository: str
    licence: str


@dataclass(frozen=True, slots=True)
class EngineParts:
    """The models of an engine and what it needs: ``memory`` and ``speed`` in words for whoever chooses."""

    name: str
    summary: str
    models: tuple[ModelPart, ...]
    memory: str
    speed: str

    @property
    def licence(self) -> str:
        """Every licence once, with the parts that are under it."""
        under: dict[str, list[str]] = {}
        for model in self.models:
            under.setdefault(model.licence, []).append(model.repository)
        return "; ".join(f"{licence}: {', '.join(repositories)}" for licence, repositories in under.items())


_CLIP = ModelPart("clip", "timm/vit_base_patch16_clip_224.openai", MIT)
_DINO_SMALL = ModelPart("dino", "facebook/dinov2-with-registers-small", APACHE)
_DINO_BASE = ModelPart("dino", "facebook/dinov2-with-registers-base", APACHE)
_OMDET = ModelPart("grounder", "omlab/omdet-turbo-swin-tiny-hf", APACHE)
_GROUNDING_DINO = ModelPart("grounder", "IDEA-Research/grounding-dino-base", APACHE)


def _around(name: str, summary: str, decoder: ModelPart, costs: tuple[str, str]) -> EngineParts:
    """A decoder for a laptop's or a server's CPU, with small models around it."""
    return EngineParts(name, summary, (decoder, _CLIP, _DINO_SMALL, _OMDET), *costs)


PRODUCTION_ENGINES = (
    _around(
        "edgetam-cpu",
        "EdgeTAM with CLIP, DINOv2 and OmDet-Turbo: the choice for a CPU",
        ModelPart("decoder", "yonigozlan/EdgeTAM-hf", APACHE),
        ("3 GB", "encode 0.4 s, click 0.04 s on a CPU (decoder alone)"),
    ),
    _around(
        "sam2-tiny",
        "SAM 2.1 tiny with CLIP, DINOv2 and OmDet-Turbo",
        ModelPart("decoder", "facebook/sam2.1-hiera-tiny", APACHE),
        ("3 GB", "encode 2 s, click 0.04 s on a CPU (decoder alone)"),
    ),
    _around(
        "sam2-small",
        "SAM 2.1 small with CLIP, DINOv2 and OmDet-Turbo",
        ModelPart("decoder", "facebook/sam2.1-hiera-small", APACHE),
        ("3 GB", "encode 3 s, click 0.04 s on a CPU (decoder alone)"),
    ),
    _around(
        "sam2-base-plus",
        "SAM 2.1 base+ with CLIP, DINOv2 and OmDet-Turbo",
        ModelPart("decoder", "facebook/sam2.1-hiera-base-plus", APACHE),
        ("4 GB", "encode 4.5 s, click 0.04 s on a CPU (decoder alone)"),
    ),
    EngineParts(
        "sam2-large",
        "SAM 2.1 large with CLIP, DINOv2 and Grounding DINO, for a GPU",
        (ModelPart("decoder", "facebook/sam2.1-hiera-large", APACHE), _CLIP, _DINO_BASE, _GROUNDING_DINO),
        "6 GB",
        "on a GPU not measured; encode 13 s on a CPU",
    ),
    EngineParts(
        "sam3",
        "SAM 3 for words, exemplars and clicks on one trunk, with CLIP and DINOv2, for a GPU",
        (ModelPart("decoder", "facebook/sam3", SAM_LICENCE), _CLIP, _DINO_BASE),
        "8 GB",
        "on a GPU not measured; encode 43 s and 3 s for each phrase on a CPU",
    ),
    _around(
        "sam-base",
        "SAM ViT-B with CLIP, DINOv2 and OmDet-Turbo",
        ModelPart("decoder", "facebook/sam-vit-base", APACHE),
        ("4 GB", "encode 8 s, click 0.05 s on a CPU (decoder alone)"),
    ),
    _around(
        "sam-large",
        "SAM ViT-L with CLIP, DINOv2 and OmDet-Turbo",
        ModelPart("decoder", "facebook/sam-vit-large", APACHE),
        ("5 GB", "encode 21 s, click 0.05 s on a CPU (decoder alone)"),
    ),
    _around(
        "sam-huge",
        "SAM ViT-H with CLIP, DINOv2 and OmDet-Turbo, for a GPU",
        ModelPart("decoder", "facebook/sam-vit-huge", APACHE),
        ("7 GB", "not measured"),
    ),
    _around(
        "sam-hq-base",
        "SAM-HQ ViT-B with CLIP, DINOv2 and OmDet-Turbo: finer edges",
        ModelPart("decoder", "syscv-community/sam-hq-vit-base", APACHE),
        ("4 GB", "encode 10 s, click 0.12 s on a CPU (decoder alone)"),
    ),
    _around(
        "sam-hq-large",
        "SAM-HQ ViT-L with CLIP, DINOv2 and OmDet-Turbo: finer edges",
        ModelPart("decoder", "syscv-community/sam-hq-vit-large", APACHE),
        ("5 GB", "not measured"),
    ),
)


if TYPE_CHECKING:
    from backend.engines.base import Engine

ENTRY_POINT_GROUP = "maskloom.engines"
OWN_WEIGHTS = Path(__file__).parents[1] / "weights"
ANYWHERE = Placement()
_LOOK = 1 << 20
"""Bytes that are read of each end of a large file."""


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

    def weights_in(self, home: Path) -> Path | None:
        """Where the weights are when the settings do not say: in the preset itself, or below the home folder."""
        return self.weights

    def load(self, weights: Path | None, placement: Placement = ANYWHERE) -> Engine:
        """Build the engine, which chooses its place itself; Raises SetupError when its weights are missing."""
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


@dataclass(frozen=True, slots=True)
class ReleasedPreset(EnginePreset):
    """An engine of one published checkpoint: a file that is named, or else one that its builder gets from the hub.

    ``build`` is ``module:attribute`` of a function ``(weights: Path | None, placement: Placement) -> Engine``.
    """

    def load(self, weights: Path | None, placement: Placement = ANYWHERE) -> Engine:
        """Build the engine. Raises SetupError when its weights cannot be had or do not fit."""
        return _resolve(self.build)(weights, placement)


@dataclass(frozen=True, slots=True)
class BundlePreset(EnginePreset):
    """An engine of several published models, which lie together in one folder, the bundle.

    ``build`` is ``module:attribute`` of a function ``(folder: Path, name: str, placement: Placement) -> Engine``.
    """

    parts: EngineParts | None = None

    def weights_in(self, home: Path) -> Path | None:
        return home / "engines" / self.name

    def load(self, weights: Path | None, placement: Placement = ANYWHERE) -> Engine:
        """Build the engine from its bundle. Raises SetupError that says how to get it when there is none."""
        if weights is None or not weights.is_dir():
            raise SetupError(
                f"the engine {self.name!r} needs its models in {weights or 'a folder'}: run 'maskloom fetch {self.name}' where "
                "there is a network, or name the folder of a bundle with MASKLOOM_WEIGHTS"
            )
        built = cast("Callable[[Path, str, Placement], Engine]", _resolve(self.build))
        return built(weights, self.version(weights), placement)

    def refine(self, engine: Engine, weights: Path | None, placement: Placement = ANYWHERE) -> Engine:
        """An engine whose masks the decoder of this one refines. Raises SetupError that says how to get it."""
        if weights is None or not weights.is_dir():
            raise SetupError(
                f"MASKLOOM_REFINE={self.name} needs the models in {weights or 'a folder'}: run 'maskloom fetch {self.name}' "
                "where there is a network"
            )
        return _resolve("backend.engines.sam.refine:refined")(engine, weights / "decoder", placement)

    def version(self, weights: Path | None) -> str:
        return f"{self.name}-{fingerprint(weights)}" if weights is not None and weights.is_dir() else f"{self.name}-missing"


def fingerprint(folder: Path) -> str:
    """Ten letters that change with any file of a folder; of large files the size, the beginning and the end are read."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".part")):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}:{size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_LOOK))
            if size > _LOOK:
                file.seek(max(size - _LOOK, _LOOK))
                digest.update(file.read(_LOOK))
    return digest.hexdigest()[:10]


def _seem(name: str, summary: str) -> ReleasedPreset:
    attribute = name.removeprefix("seem-").replace("-", "_")
    licence = "Apache-2.0: xdecoder/SEEM"
    return ReleasedPreset(name, f"backend.engines.seem.releases:{attribute}", f"SEEM {summary}", licence)


def _production(parts: EngineParts) -> BundlePreset:
    return BundlePreset(parts.name, "backend.engines.sam.engine:build", parts.summary, parts.licence, parts=parts)


ENGINES: dict[str, EnginePreset] = {
    preset.name: preset
    for preset in (
        EnginePreset(
            "embedded",
            "backend.engines.embedded:build",
            "small joint-space model that ships with Maskloom: offline, quick, modest quality",
            "Apache-2.0 (see its model card for the training photos)",
            OWN_WEIGHTS / "embedded.safetensors",
        ),
        EnginePreset(
            "colour",
            "backend.engines.colour:build",
            "no weights: colour words and connected pixels, for tests and for trying the service",
            "Apache-2.0",
        ),
        _seem("seem-focal-t", "Focal-T v1 for a CPU (0.7 GB, 1.6 GB of memory)"),
        _seem("seem-focal-t-v0", "Focal-T v0 (0.7 GB, 1.6 GB of memory)"),
        _seem("seem-focal-t-demo", "Focal-T, phrases and drawings composed (0.7 GB, 1.6 GB of memory)"),
        _seem("seem-focal-l", "Focal-L v1 (1.4 GB, 3.3 GB of memory)"),
        _seem("seem-focal-l-v0", "Focal-L v0 (1.4 GB, 3.3 GB of memory)"),
        _seem("seem-focal-l-demo", "Focal-L, phrases and drawings composed (1.4 GB, 3.3 GB of memory)"),
        _seem("seem-samvit-b", "SAM ViT-B v1, for a GPU (0.9 GB)"),
        _seem("seem-samvit-l", "SAM ViT-L v1, for a GPU (1.8 GB)"),
        *(_production(parts) for parts in PRODUCTION_ENGINES),
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


def find_refiner(name: str) -> BundlePreset:
    """The preset of a name whose decoder can refine masks. Raises SetupError that lists those that can."""
    preset = find_engine(name)
    if not isinstance(preset, BundlePreset):
        able = ", ".join(sorted(other.name for other in ENGINES.values() if isinstance(other, BundlePreset)))
        raise SetupError(f"the engine {name!r} cannot refine masks; MASKLOOM_REFINE can be {able}")
    return preset


def _resolve(path: str) -> Callable[..., Engine]:
    module, _, attribute = path.partition(":")
    return cast("Callable[..., Engine]", getattr(importlib.import_module(module), attribute))
