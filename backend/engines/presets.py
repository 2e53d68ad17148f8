"""The production engines: which published models each consists of, under which licences, and what to expect of it.

Times are of two threads of a server CPU at full size with random weights; on a GPU they have not been measured. Licences and
access are as the models' cards stated them; check them before you use a model.
"""

from __future__ import annotations

from dataclasses import dataclass

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
