"""SEEM's memory prompts: learned tokens that look at an image only where the previous round's mask was.

After Zou et al. 2023, "Segment Everything Everywhere All at Once", section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

TOKENS = 32


@dataclass(frozen=True, slots=True)
class MaskMemory:
    """The previous round's answers about m objects: mask logits ``(m, h, w)`` and the prompt each belongs to, ``(m,)``."""

    logits: Tensor
    owner: Tensor

    def split(self) -> Tensor:
        """Which of the m masks each of the 32 memory tokens follows, ``(32,)``: as even a share as possible."""
        return torch.arange(TOKENS, device=self.logits.device) * len(self.logits) // TOKENS

    def outside(self, size: tuple[int, int]) -> Tensor:
        """The pixels ``(32, h * w)`` of a map of this size that lie outside the mask a token follows."""
        resized = functional.interpolate(self.logits[None], size=size, mode="bilinear", align_corners=False)[0]
        return (resized.sigmoid() < 0.5).flatten(1)[self.split()]
