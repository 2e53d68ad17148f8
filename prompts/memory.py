"""Memory prompts: what earlier rounds about one object established, and whose they are among several objects."""

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


def best_cut(inside: NDArray[np.float32], outside: NDArray[np.float32]) -> float | None:
    """The threshold at or above which lie the most values of ``inside (N,)`` and the fewest of ``outside (M,)``, each counted
    as a share of its own (the largest balanced accuracy, Brodersen et al. 2010); the middle of the gap, or the least value of
    ``inside`` where there is nothing outside. None without values inside.
    """
    if not len(inside):
        return None
    if not len(outside):
        return float(inside.min())
    values = np.unique(np.concatenate([inside, outside]))
    cuts = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2])
    balance = [(inside >= cut).mean() - (outside >= cut).mean() for cut in cuts]
    return float(cuts[int(np.argmax(balance))])


def owner_of(objects: Sequence[PromptSet], before: BoolArray) -> int | None:
    """Which of several drawn objects (see PromptSet.objects) the previous mask ``(H, W)`` is of: the one whose drawing covers
    most of it, the smallest drawing where several cover as much, and None where none does. A single object owns it anyway.
    """
    size = size_of(before)
    return owner_among([each.region(size) | each.region(size, positive=False) for each in objects], before)


def owner_among(drawings: Sequence[BoolArray], before: BoolArray) -> int | None:
    """The same for the pixels ``(H, W)`` of each object's drawing."""
    if len(drawings) == 1:
        return 0
    covered = [int((drawing & before).sum()) for drawing in drawings]
    best = max(range(len(drawings)), key=lambda k: (covered[k], -int(drawings[k].sum())), default=None)
    return best if best is not None and covered[best] else None
