"""Names of engines and what stands behind each: one table of recipes, open to other packages' entry points."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from backend.values.errors import SetupError

if TYPE_CHECKING:
    from backend.engines.base import Engine

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DtypeName = Literal["auto", "float32", "bfloat16"]
APACHE, MIT, SAM_LICENCE = "Apache-2.0", "MIT", "SAM License (gated: ask for access on the model's page, then set HF_TOKEN)"
SAM_DERIVED = "SAM License (made from SAM 3)"
DINOV3_LICENCE = "DINOv3 License (gated: ask for access on the model's page, then set HF_TOKEN)"
SAM_MODULES, SEEM_MODULES = ("transformers", "open_clip", "torchvision", "timm"), ("huggingface_hub", "open_clip")
ENTRY_POINT_GROUP = "maskloom.engines"
OWN_WEIGHTS = Path(__file__).parents[1] / "weights"
_END = 1 << 20
"""Bytes that are read of each end of a large file."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A device and a number format. "auto" takes a GPU where there is one, with bfloat16 there and float32 elsewhere.

    ``vocabulary`` is the folder in which the vectors of names are kept between runs; without one they are computed anew.
    """

    device: DeviceName = "auto"
    dtype: DtypeName = "auto"
    vocabulary: Path | None = None


ANYWHERE = Placement()


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model on the hub that an engine is made of: its ``role`` names its folder in the engine's bundle; ``revision`` is the
    commit that this release was tested with, None where none was; ``files`` are those that are read, empty for what models of
    transformers and open_clip are read from.
    """

    role: str
    repository: str
    licence: str
    revision: str | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an engine is made that can be asked for by name.

    ``build`` is ``module:attribute`` of a function ``(weights: Path | None, placement: Placement) -> Engine``. It reads
    ``weights`` when the settings name none. Published ``models`` lie together in one folder, the bundle, which
    ``maskloom fetch`` fills. ``modules`` are those of the extra ``engines`` that it imports. ``costs`` are memory and time, in
    words for whoever chooses. Engines that read the same files share a ``bundle``, named after one of them.
    """

    name: str
    build: str
    summary: str
    own_licence: str = ""
    weights: Path | None = None
    models: tuple[PublishedModel, ...] = ()
    costs: str = ""
    modules: tuple[str, ...] = ()
    bundle: str = ""

    @property
    def licence(self) -> str:
        """Every licence once, with the models that are under it."""
        under: dict[str, list[str]] = {self.own_licence: []} if self.own_licence else {}
        for model in self.models:
            under.setdefault(model.licence, []).append(model.repository)
        return "; ".join(f"{licence}: {', '.join(names)}" if names else licence for licence, names in under.items())

    @property
    def can_refine(self) -> bool:
        """Whether its decoder can refine the masks of another engine."""
        return any(model.role == "decoder" for model in self.models)

    def weights_in(self, home: Path) -> Path | None:
        """Where the weights are when the settings do not say: in the recipe itself, or below the home folder."""
        return home / "engines" / (self.bundle or self.name) if self.models else self.weights

    def version(self, weights: Path | None) -> str:
        """The name of the engine with these weights, which changes with them; told without loading a model."""
        path = weights or self.weights
        if path is None:
            return f"{self.name}-{'missing' if self.models else 1}"
        try:
            return f"{self.name}-{fingerprint(path) if path.exists() else 'missing'}"
        except OSError as error:
            raise SetupError(f"the weights of the engine {self.name!r} at {path} cannot be read: {error}") from error

    def load(self, weights: Path | None, placement: Placement = ANYWHERE) -> Engine:
        """Build the engine. Raises SetupError that says how to get its weights when there are none, or they do not fit."""
        path = weights or self.weights
        if self.models and (path is None or not path.exists()):
            raise SetupError(
                f"the engine {self.name!r} needs its models in {path or 'a folder'}: run 'maskloom fetch {self.name}' where "
                "there is a network, or name the folder of a bundle with MASKLOOM_WEIGHTS"
            )
        if path is not None and not path.exists():
            raise SetupError(f"the engine {self.name!r} needs its weights at {path}, and there is no such file")
        build = cast("Callable[[Path | None, Placement], Engine]", _resolve(self.build))
        return replace(build(path, placement), name=self.name, version=self.version(path))

    def refine(self, engine: Engine, weights: Path | None, placement: Placement = ANYWHERE) -> Engine:
        """An engine whose masks the decoder of this one refines. Raises SetupError that says how to get it."""
        if weights is None or not weights.is_dir():
            raise SetupError(
                f"MASKLOOM_REFINE={self.name} needs the models in {weights or 'a folder'}: run 'maskloom fetch {self.name}' "
                "where there is a network"
            )
        refined = cast("Callable[[Engine, Path, Placement], Engine]", _resolve("backend.engines.sam.refine:refined"))
        return refined(engine, weights / "decoder", placement)


def fingerprint(path: Path) -> str:
    """Ten letters that change with a file, or with any file of a folder; of large files in a folder the size, the beginning and
    the end are read.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:10]
    digest = hashlib.sha256()
    for part in sorted(part for part in path.rglob("*") if part.is_file() and not _is_of_a_transfer(part)):
        size = part.stat().st_size
        digest.update(f"{part.relative_to(path)}:{size}\n".encode())
        with part.open("rb") as file:
            digest.update(file.read(_END))
            if size > _END:
                file.seek(max(size - _END, _END))
                digest.update(file.read(_END))
    return digest.hexdigest()[:10]


def _is_of_a_transfer(part: Path) -> bool:
    return part.name.endswith(".part") or ".cache" in part.parts


def _resolve(path: str) -> object:
    return EntryPoint("build", path, ENTRY_POINT_GROUP).load()


_CLIP = PublishedModel("clip", "timm/vit_base_patch16_clip_224.openai", MIT)


_DINO_SMALL = PublishedModel("dino", "facebook/dinov2-with-registers-small", APACHE)


_DINOV3_SMALL = PublishedModel("dino", "facebook/dinov3-vits16-pretrain-lvd1689m", DINOV3_LICENCE)


_DINO_BASE = PublishedModel("dino", "facebook/dinov2-with-registers-base", APACHE)


_OMDET = PublishedModel("grounder", "omlab/omdet-turbo-swin-tiny-hf", APACHE)


_GROUNDING_DINO = PublishedModel("grounder", "IDEA-Research/grounding-dino-base", APACHE)


_LITE_TEXT = PublishedModel("grounder", "vil-uob/sam3-litetext-s0", SAM_DERIVED)


_SAM2_LARGE = PublishedModel("decoder", "facebook/sam2.1-hiera-large", APACHE)


def _sam(name: str, summary: str, models: tuple[PublishedModel, ...], costs: str) -> Recipe:
    """An engine around a decoder of the SAM family."""
    return Recipe(name, "backend.engines.sam.engine:build", summary, models=models, costs=costs, modules=SAM_MODULES)


def _around(name: str, summary: str, decoder: PublishedModel, costs: str) -> Recipe:
    """A decoder for a laptop's or a server's CPU, with small models around it."""
    return _sam(name, summary, (decoder, _CLIP, _DINO_SMALL, _OMDET), costs)


def _seem(name: str, summary: str, file: str, bundle: str = "") -> Recipe:
    """A release of SEEM, whose weights are one file."""
    build = f"backend.engines.seem.engine:{name.removeprefix('seem-').replace('-', '_').upper()}.build"
    models = (PublishedModel("seem", "xdecoder/SEEM", APACHE, files=(file,)),)
    return Recipe(name, build, f"SEEM {summary}", models=models, modules=SEEM_MODULES, bundle=bundle)


_SAM_FAMILY = (
    _around(
        "edgetam-cpu",
        "EdgeTAM with CLIP, DINOv2 and OmDet-Turbo: the choice for a CPU",
        PublishedModel("decoder", "yonigozlan/EdgeTAM-hf", APACHE),
        "3 GB; encode 0.4 s, click 0.04 s on a CPU (decoder alone)",
    ),
    _sam(
        "edgetam-dinov3",
        "EdgeTAM with CLIP, DINOv3 for references and OmDet-Turbo",
        (PublishedModel("decoder", "yonigozlan/EdgeTAM-hf", APACHE), _CLIP, _DINOV3_SMALL, _OMDET),
        "3 GB; not measured",
    ),
    _around(
        "sam2-tiny",
        "SAM 2.1 tiny with CLIP, DINOv2 and OmDet-Turbo",
        PublishedModel("decoder", "facebook/sam2.1-hiera-tiny", APACHE),
        "3 GB; encode 2 s, click 0.04 s on a CPU (decoder alone)",
    ),
    _around(
        "sam2-small",
        "SAM 2.1 small with CLIP, DINOv2 and OmDet-Turbo",
        PublishedModel("decoder", "facebook/sam2.1-hiera-small", APACHE),
        "3 GB; encode 3 s, click 0.04 s on a CPU (decoder alone)",
    ),
    _around(
        "sam2-base-plus",
        "SAM 2.1 base+ with CLIP, DINOv2 and OmDet-Turbo",
        PublishedModel("decoder", "facebook/sam2.1-hiera-base-plus", APACHE),
        "4 GB; encode 4.5 s, click 0.04 s on a CPU (decoder alone)",
    ),
    _sam(
        "sam2-large",
        "SAM 2.1 large with CLIP, DINOv2 and Grounding DINO, for a GPU",
        (_SAM2_LARGE, _CLIP, _DINO_BASE, _GROUNDING_DINO),
        "6 GB; on a GPU not measured; encode 13 s on a CPU",
    ),
    _sam(
        "sam3",
        "SAM 3 for words, exemplars and clicks on one trunk, with CLIP and DINOv2, for a GPU",
        (PublishedModel("decoder", "facebook/sam3", SAM_LICENCE), _CLIP, _DINO_BASE),
        "8 GB; on a GPU not measured; encode 43 s and 3 s for each phrase on a CPU",
    ),
    _sam(
        "sam3-litetext",
        "SAM 3 LiteText for words, SAM 2.1 large for clicks, with CLIP and DINOv2, for a GPU",
        (_SAM2_LARGE, _CLIP, _DINO_BASE, _LITE_TEXT),
        "7 GB; not measured",
    ),
    _around(
        "sam-base",
        "SAM ViT-B with CLIP, DINOv2 and OmDet-Turbo",
        PublishedModel("decoder", "facebook/sam-vit-base", APACHE),
        "4 GB; encode 8 s, click 0.05 s on a CPU (decoder alone)",
    ),
    _around(
        "sam-large",
        "SAM ViT-L with CLIP, DINOv2 and OmDet-Turbo",
        PublishedModel("decoder", "facebook/sam-vit-large", APACHE),
        "5 GB; encode 21 s, click 0.05 s on a CPU (decoder alone)",
    ),
    _around(
        "sam-huge",
        "SAM ViT-H with CLIP, DINOv2 and OmDet-Turbo, for a GPU",
        PublishedModel("decoder", "facebook/sam-vit-huge", APACHE),
        "7 GB; not measured",
    ),
    _around(
        "sam-hq-base",
        "SAM-HQ ViT-B with CLIP, DINOv2 and OmDet-Turbo: finer edges",
        PublishedModel("decoder", "syscv-community/sam-hq-vit-base", APACHE),
        "4 GB; encode 10 s, click 0.12 s on a CPU (decoder alone)",
    ),
    _around(
        "sam-hq-large",
        "SAM-HQ ViT-L with CLIP, DINOv2 and OmDet-Turbo: finer edges",
        PublishedModel("decoder", "syscv-community/sam-hq-vit-large", APACHE),
        "5 GB; not measured",
    ),
)


ENGINES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "embedded",
            "backend.engines.embedded:build",
            "small joint-space model that ships with Maskloom: offline, quick, modest quality",
            "Apache-2.0 (see its model card for the training photos)",
            OWN_WEIGHTS / "embedded.safetensors",
        ),
        Recipe(
            "colour",
            "backend.engines.colour:build",
            "no weights: colour words and connected pixels, for tests and for trying the service",
            "Apache-2.0",
        ),
        _seem("seem-focal-t", "Focal-T v1 for a CPU (0.7 GB, 1.6 GB of memory)", "seem_focalt_v1.pt"),
        _seem("seem-focal-t-v0", "Focal-T v0 (0.7 GB, 1.6 GB of memory)", "seem_focalt_v0.pt"),
        _seem(
            "seem-focal-t-demo",
            "Focal-T, as in its demo (0.7 GB, 1.6 GB of memory)",
            "seem_focalt_v0.pt",
            "seem-focal-t-v0",
        ),
        _seem("seem-focal-l", "Focal-L v1 (1.4 GB, 3.3 GB of memory)", "seem_focall_v1.pt"),
        _seem("seem-focal-l-v0", "Focal-L v0 (1.4 GB, 3.3 GB of memory)", "seem_focall_v0.pt"),
        _seem(
            "seem-focal-l-demo",
            "Focal-L, as in its demo (1.4 GB, 3.3 GB of memory)",
            "seem_focall_v0.pt",
            "seem-focal-l-v0",
        ),
        _seem("seem-samvit-b", "SAM ViT-B v1, for a GPU (0.9 GB)", "seem_samvitb_v1.pt"),
        _seem("seem-samvit-l", "SAM ViT-L v1, for a GPU (1.8 GB)", "seem_samvitl_v1.pt"),
        *_SAM_FAMILY,
    )
}


def find_engine(name: str) -> Recipe:
    """The recipe of a name, from the table or from another package; Raises SetupError that lists the known names."""
    if name in ENGINES:
        return ENGINES[name]
    others = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name in others:
        return cast(Recipe, others[name].load())
    raise SetupError(f"there is no engine {name!r}; known engines: {', '.join(sorted({*ENGINES, *others}))}")


def find_refiner(name: str) -> Recipe:
    """The recipe of a name whose decoder can refine masks. Raises SetupError that lists those that can."""
    recipe = find_engine(name)
    if not recipe.can_refine:
        able = ", ".join(sorted(other.name for other in ENGINES.values() if other.can_refine))
        raise SetupError(f"the engine {name!r} cannot refine masks; MASKLOOM_REFINE can be {able}")
    return recipe
