"""Who may look at whom inside the decoder: the one thing in which SEEM v0, SEEM v1 and the official demo differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor


class Group(IntEnum):
    """What a row of the decoder is. Queries answer with masks; tokens and memory only inform them."""

    OBJECT = 0
    """Queries for whatever the image shows."""
    GROUNDING = 1
    """Queries for what a phrase names."""
    SPATIAL = 2
    """Queries for what was drawn."""
    PHRASE = 3
    """Tokens of a phrase."""
    MEMORY = 4
    """Tokens of the previous round."""
    DRAWN = 5
    """Tokens of what was drawn on this image."""
    REFERENCE = 6
    """Tokens of a region of another image."""


QUERIES = (Group.OBJECT, Group.GROUNDING, Group.SPATIAL)
LOOK_AT_THE_IMAGE = (*QUERIES, Group.MEMORY)


@dataclass(frozen=True, slots=True)
class Wiring:
    """Which groups a group may look at, always within one prompt.

    ``queries_per_prompt`` counts the spatial queries of a drawn prompt, None for a copy of every object query; ``nothing`` is
    the pooled vector of a prompt without pixels.
    """

    name: str
    sees: Mapping[Group, tuple[Group, ...]]
    queries_per_prompt: int | None
    nothing: float

    @property
    def composes(self) -> bool:
        """Whether the object queries look at every kind of token; elsewhere phrases and drawings have queries of their own, and
        the object queries never depend on prompts.
        """
        return Group.PHRASE in self.sees[Group.OBJECT]

    def seen(self, groups: Tensor, owners: Tensor) -> Tensor:
        """Which row may look at which, ``(N, N)`` bool, for rows with a group and an owner ``(N,)``."""
        table = torch.zeros(len(Group), len(Group), dtype=torch.bool, device=groups.device)
        for group, others in self.sees.items():
            table[group, list(others)] = True
        return table[groups[:, None], groups[None, :]] & (owners[:, None] == owners[None, :])

    def spatial_queries(self, prompts: int, queries: int) -> Tensor:
        """Which of the learned queries the spatial queries of n prompts copy, prompt after prompt. Where upstream draws
        them at random at every call, they are a fixed spread here.
        """
        if self.queries_per_prompt is None:
            return torch.arange(queries).repeat(prompts)
        return (torch.arange(self.queries_per_prompt * prompts) * 7 + 3) % queries


_SEPARATE = {
    Group.OBJECT: (Group.OBJECT,),
    Group.GROUNDING: (Group.GROUNDING, Group.PHRASE),
    Group.SPATIAL: (Group.SPATIAL, Group.DRAWN, Group.MEMORY),
    Group.PHRASE: (Group.GROUNDING, Group.PHRASE),
    Group.MEMORY: (Group.MEMORY,),
}
_COMPOSED = {
    Group.OBJECT: (Group.OBJECT, Group.PHRASE, Group.DRAWN, Group.REFERENCE),
    Group.PHRASE: (Group.OBJECT, Group.PHRASE),
}

V0 = Wiring("v0", _SEPARATE, None, 0.0)
V1 = Wiring("v1", _SEPARATE, 3, -1.0)
DEMO = Wiring("demo", _COMPOSED, None, 0.0)
