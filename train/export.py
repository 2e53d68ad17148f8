"""The last stage: the three trained networks as one float16 checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from backend.decoders.embedded.encoder import ImageEncoder
from backend.decoders.embedded.said import Calibration
from backend.decoders.embedded.view_decoder import ViewDecoder
from backend.decoders.embedded.weights import write
from prompts.encoders.embedded import TextTower


def export(folder: Path, weights: Path, calibration: Calibration) -> None:
    """Write ``weights`` from ``encoder.pt``, ``masks.pt`` and ``text.pt`` in ``folder``: the averaged networks."""
    networks = (ImageEncoder(), ViewDecoder(), TextTower())
    keys = (("encoder.pt", "average"), ("masks.pt", "average"), ("text.pt", "tower"))
    for network, (file, key) in zip(networks, keys, strict=True):
        network.load_state_dict(torch.load(folder / file, weights_only=True, map_location="cpu")[key])
    weights.parent.mkdir(parents=True, exist_ok=True)
    write(weights, networks, calibration)
