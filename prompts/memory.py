"""Memory prompts: what earlier rounds about one object established."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prompts.geometry import BoolArray, size_of
from prompts.kinds import PromptSet


@dataclass(frozen=True, slots=True)
class ObjectMemory:
    """The answer of the previous round about the same object.

    ``low_res_logits (h, w)`` are the previous mask in the decoder's own resolution; ``space`` is the version of the engine
    that made them, because another engine must not read them.
    """

    low_res_logits: NDArray[np.float16]
    space: str


def owner_of(objects: Sequence[PromptSet], before: BoolArray) -> int | None:
    """Which of several drawn objects (see PromptSet.objects) the previous mask ``(H, W)`` is of: the one whose drawing covers
    most of it, the smallest drawing where several cover as much, and None where none does. A single object owns it anyway.
    """
    if len(objects) == 1:
        return 0
    size = size_of(before)
    drawn = [each.region(size) | each.region(size, positive=False) for each in objects]
    covered = [int((region & before).sum()) for region in drawn]
    best = max(range(len(objects)), key=lambda k: (covered[k], -int(drawn[k].sum())), default=None)
    return best if best is not None and covered[best] else None
