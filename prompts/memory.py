"""Memory prompts: what earlier rounds about one object established."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ObjectMemory:
    """The answer of the previous round about the same object.

    ``low_res_logits (h, w)`` are the previous mask in the decoder's own resolution; ``space`` is the version of the engine
    that made them, because another engine must not read them.
    """

    low_res_logits: NDArray[np.float16]
    space: str
