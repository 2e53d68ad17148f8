"""Where an engine computes and how exactly, as settings say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DtypeName = Literal["auto", "float32", "bfloat16"]
KeptDtypeName = Literal["float32", "float16"]


@dataclass(frozen=True, slots=True)
class Placement:
    """A device and a number format. "auto" takes a GPU where there is one, with bfloat16 there and float32 elsewhere."""

    device: DeviceName = "auto"
    dtype: DtypeName = "auto"
