"""Which module loads which family of promptable networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from backend.engines.pretrained import read_model_type
from backend.engines.sam import sam, sam2, sam3
from backend.engines.sam.promptable import PromptableNetwork
from backend.values.errors import SetupError
from backend.values.placement import Placement

FAMILIES: Mapping[str, Callable[[Path, str, Placement], PromptableNetwork]] = {
    "sam": sam.load,
    "sam_hq": sam.load,
    **dict.fromkeys(sam2.CLASSES, sam2.load),
    "sam3": sam3.load,
    "sam3_video": sam3.load,
}
"""By the ``model_type`` of a folder's config.json."""


def load_network(folder: Path, placement: Placement) -> PromptableNetwork:
    """The promptable network in a folder. Raises SetupError when there is none, or one of an unknown family."""
    model_type = read_model_type(folder)
    if model_type not in FAMILIES:
        raise SetupError(f"{folder} holds a {model_type!r} model; known are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type](folder, model_type, placement)
