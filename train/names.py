"""The names that a data folder knows, with their vectors in the joint space."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """Every known name and its unit vector, ``vectors (M, D)``."""

    names: tuple[str, ...]
    vectors: Tensor

    @property
    def index(self) -> dict[str, int]:
        """The row of each name."""
        return {name: k for k, name in enumerate(self.names)}
