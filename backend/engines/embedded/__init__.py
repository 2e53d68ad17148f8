"""The embedded engine: its own small network, whose weights ship with the package; see backend/weights/MODEL_CARD.md."""

from __future__ import annotations

from pathlib import Path

from backend.engines.base import Engine
from backend.engines.catalogue import ANYWHERE, Placement
from backend.engines.embedded.engine import SHIPPED, read
from backend.engines.embedded.tracking import EmbeddedTracker
from prompts.encoders.embedded import EmbeddedTextEncoder
from prompts.space import JointSpace


def build(weights: Path | None, placement: Placement = ANYWHERE) -> Engine:
    """The engine from a safetensors file, the shipped one where None is given. Raises SetupError."""
    loaded = read(weights or SHIPPED)
    text = EmbeddedTextEncoder(loaded.tower)
    space = JointSpace(loaded.version, text, loaded.calibration.text_scale)
    return Engine("embedded", loaded.version, space, loaded.decoder, EmbeddedTracker(loaded.decoder))
