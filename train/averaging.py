"""Averages of weights: over the steps of a training, and of a network before and after it."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class Average:
    """``model`` follows the trained network by one part in ``1 / (1 - decay)`` a step, faster in the first steps."""

    def __init__(self, model: nn.Module, decay: float = 0.998) -> None:
        self.model = copy.deepcopy(model).eval()
        self._decay = decay
        self._steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        for mine, theirs in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)


def mixed(before: Network, after: Network, share: float) -> Network:
    """The network with ``share`` of its weights from after it was trained on, the rest from before: it keeps what it knew of
    things that the training does not show (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
    """
    both = zip(before.state_dict().items(), after.state_dict().values(), strict=True)
    found = copy.deepcopy(after)
    found.load_state_dict({name: old.lerp(new, share) if old.is_floating_point() else new for (name, old), new in both})
    return found
