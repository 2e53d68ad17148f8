"""Detectors that take words: which module loads which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from backend.engines.pretrained import read_model_type
from backend.engines.sam import grounding_dino, omdet, owlv2
from backend.engines.sam.text_grounding import Grounder
from backend.values.errors import SetupError
from backend.values.placement import Placement

FAMILIES: Mapping[str, Callable[[Path, Placement], Grounder]] = {
    "omdet-turbo": omdet.load,
    "grounding-dino": grounding_dino.load,
    "mm-grounding-dino": grounding_dino.load,
    "owlv2": owlv2.load,
}
"""By the ``model_type`` of a folder's config.json; LLMDet is an MM-Grounding-DINO."""


def load(folder: Path, placement: Placement) -> Grounder:
    """The detector in a folder. Raises SetupError when there is none, or one of an unknown family."""
    model_type = read_model_type(folder)
    if model_type not in FAMILIES:
        raise SetupError(f"{folder} holds a {model_type!r} model; known detectors are {', '.join(FAMILIES)}")
    return FAMILIES[model_type](folder, placement)
