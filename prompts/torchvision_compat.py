"""Why importing torchvision can fail beside a working torch, and what makes it succeed.

When torch and torchvision come from different builds (a CPU torch beside a CUDA torchvision is the common case), torchvision's
compiled part cannot load, and importing torchvision stops with ``operator torchvision::nms does not exist``, because it
describes operators that nobody has defined. open_clip and transformers import torchvision, so they stop as well. Declaring the
two operators is enough for everything that does no detection with them.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@functools.cache
def declare_missing_operators() -> torch.library.Library | None:
    """Declare torchvision's operators if its compiled part is there but cannot load; to be called before it is imported.

    The declarations live as long as the returned library, which is kept. None where nothing had to be done.
    """
    if not _compiled_part_is_broken():
        return None
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library


def _compiled_part_is_broken() -> bool:
    """Whether torchvision is installed and none of its compiled parts can be loaded beside this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or hasattr(torch.ops.torchvision, "nms"):
        return False
    for compiled in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(compiled)  # type: ignore[no-untyped-call]
        except OSError:
            continue
        return False
    return True
