"""Where an engine computes, how exactly, and where it keeps vectors of names, as settings say it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DtypeName = Literal["auto", "float32", "bfloat16"]
KeptDtypeName = Literal["float32", "float16"]


@dataclass(frozen=True, slots=True)
class Placement:
    """A device and a number format. "auto" takes a GPU where there is one, with bfloat16 there and float32 elsewhere.

    ``vocabulary`` is the folder in which the vectors of names are kept between runs; without one they are computed anew.
    """

    device: DeviceName = "auto"
    dtype: DtypeName = "auto"
    vocabulary: Path | None = None


ANYWHERE = Placement()
