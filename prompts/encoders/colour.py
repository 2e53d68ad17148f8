"""A joint space that can be checked by eye: phrases and pixels meet in RGB, without any weights.

A colour ``(r, g, b)`` in 0..1 becomes ``(2r - 1, 2g - 1, 2b - 1, w) / sqrt(6)`` with ``w`` chosen so that the vector has
length 1. Equal colours have cosine 1, red and orange 0.86, red and grey 0.71, black and white 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from PIL import ImageColor
from torch import Tensor

DIMENSIONS = 4


def embed_colours(rgb: Tensor) -> Tensor:
    """Colours ``(..., 3)`` in 0..1 as unit vectors ``(..., 4)``."""
    centred = 2 * rgb - 1
    last = (6 - (centred**2).sum(dim=-1, keepdim=True)).sqrt()
    return torch.cat([centred, last], dim=-1) / 6**0.5


class ColourTextEncoder:
    """The colour words of a phrase as a mean colour; a phrase without any is the zero vector, which resembles nothing."""

    def encode_text(self, phrases: Sequence[str]) -> Tensor:
        """Unit vectors ``(N, 4)`` for N phrases."""
        return torch.stack([_encode(phrase) for phrase in phrases]) if phrases else torch.zeros(0, DIMENSIONS)


def _encode(phrase: str) -> Tensor:
    words = re.findall(r"[a-z]+", phrase.lower())
    colours = [ImageColor.getrgb(word)[:3] for word in words if word in ImageColor.colormap]
    if not colours:
        return torch.zeros(DIMENSIONS)
    return torch.nn.functional.normalize(embed_colours(torch.tensor(colours) / 255).mean(dim=0), dim=0)
