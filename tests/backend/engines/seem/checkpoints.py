"""Checkpoints in the layout of SEEM's official files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from backend.engines.seem.engine import NOT_WEIGHTS


def save_checkpoint(network: nn.Module, path: Path) -> None:
    """Write a network in the layout of the official files, the two entries that are no weights included."""
    constants = {key: torch.ones(shape) for key, shape in NOT_WEIGHTS.items()}
    weights = {key: value.contiguous().clone() for key, value in network.state_dict().items()}
    torch.save({**constants, **weights}, path)
