"""The rows of SEEM's decoder: the groups that they form, who may look at whom, and the tokens of drawings and of memory.

Who may look at whom is the one thing in which SEEM v0, SEEM v1 and the official demo differ. The visual sampler and the memory
prompts make tokens that see only where somebody drew, or where the last mask was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor
from torch.nn import functional


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


MAX_POINTS = 512


@dataclass(frozen=True, slots=True)
class SpatialPoints:
    """Pixels of n prompts: ``xy (N, 2)`` in 0..1 of the frame's width and height, and whose each one is, ``owner (N,)``."""

    xy: Tensor
    owner: Tensor


@dataclass(frozen=True, slots=True)
class VisualTokens:
    """n prompts as tokens: ``levels``, one ``(T, D)`` for each feature level; ``owner (T,)``, the prompt of each token;
    ``pooled`` and ``negative_pooled (n, D)``, the mean mask feature of each prompt's positive and negative pixels.
    """

    levels: tuple[Tensor, ...]
    owner: Tensor
    pooled: Tensor
    negative_pooled: Tensor

    def __len__(self) -> int:
        return len(self.pooled)

    def to(self, device: torch.device) -> VisualTokens:
        """The same on a device."""
        levels = tuple(level.to(device) for level in self.levels)
        return VisualTokens(levels, *(each.to(device) for each in (self.owner, self.pooled, self.negative_pooled)))


def choose_points(masks: Tensor, most: int = MAX_POINTS, seed: int = 0) -> SpatialPoints:
    """At most ``most`` pixels of masks ``(n, H, W)`` bool, in order; where there are more, every prompt has the same share of
    the chances (weighted sampling without replacement, by Gumbel keys).
    """
    owner, row, column = masks.nonzero(as_tuple=True)
    if len(owner) > most:
        generator = torch.Generator().manual_seed(seed)
        share = 1 / torch.bincount(owner, minlength=len(masks))[owner].float()
        gumbel = -torch.empty(len(owner)).exponential_(generator=generator).log()
        chosen = (share.log() + gumbel.to(share.device)).topk(most).indices.sort().values
        owner, row, column = owner[chosen], row[chosen], column[chosen]
    height, width = masks.shape[1:]
    return SpatialPoints(torch.stack([column / width, row / height], dim=1), owner)


def read_points(features: Tensor, points: SpatialPoints) -> Tensor:
    """Features ``(1, D, h, w)`` at the points, ``(N, D)``, interpolated between pixels."""
    grid = (2 * points.xy - 1).to(features.dtype)[None, None]
    return functional.grid_sample(features, grid, mode="bilinear", align_corners=True)[0, :, 0].T


class SpatialSampler:
    """The sampler with its learned parts: one projection ``(D, D)`` for each level, and what is added to positive and to
    negative tokens, ``signs (2, D)``. ``nothing`` fills the pooled vector of a prompt without pixels.
    """

    def __init__(self, projections: Sequence[Tensor], signs: Tensor, nothing: float) -> None:
        self._projections = tuple(projections)
        self._signs = signs
        self._nothing = nothing

    def sample(self, levels: Sequence[Tensor], mask_features: Tensor, masks: tuple[Tensor, Tensor]) -> VisualTokens:
        """``levels`` and ``mask_features (1, D, h, w)`` of one image; its positive and negative masks ``(n, H, W)`` bool."""
        positive, negative = (choose_points(mask) for mask in masks)
        return VisualTokens(
            levels=tuple(
                torch.cat([self._project(level, number, positive, 0), self._project(level, number, negative, 1)])
                for number, level in enumerate(levels)
            ),
            owner=torch.cat([positive.owner, negative.owner]),
            pooled=self._pool(mask_features, positive, len(masks[0])),
            negative_pooled=self._pool(mask_features, negative, len(masks[1])),
        )

    def _project(self, level: Tensor, number: int, points: SpatialPoints, sign: int) -> Tensor:
        return read_points(level, points) @ self._projections[number] + self._signs[sign]

    def _pool(self, mask_features: Tensor, points: SpatialPoints, count: int) -> Tensor:
        """The mean ``(count, D)`` of each prompt's points."""
        total = mask_features.new_zeros(count, mask_features.shape[1])
        total.index_add_(0, points.owner, read_points(mask_features, points))
        number = torch.bincount(points.owner, minlength=count)[:, None]
        return torch.where(number > 0, total / number.clamp(min=1), self._nothing)


def stack_tokens(parts: Sequence[VisualTokens]) -> VisualTokens:
    """Prompts of several images side by side: the first part's prompts, then the second's."""
    offsets = [sum(len(part) for part in parts[:k]) for k in range(len(parts))]
    return VisualTokens(
        levels=tuple(torch.cat(level) for level in zip(*(part.levels for part in parts), strict=True)),
        owner=torch.cat([part.owner + offset for part, offset in zip(parts, offsets, strict=True)]),
        pooled=torch.cat([part.pooled for part in parts]),
        negative_pooled=torch.cat([part.negative_pooled for part in parts]),
    )


def repeat_tokens(tokens: VisualTokens, prompts: int) -> VisualTokens:
    """All tokens once for each of n prompts, as one more thing that was said with each of them."""
    owner = torch.arange(prompts, device=tokens.owner.device).repeat_interleave(len(tokens.owner))
    pooled, negative = (rows.mean(dim=0, keepdim=True) for rows in (tokens.pooled, tokens.negative_pooled))
    return VisualTokens(
        levels=tuple(level.repeat(prompts, 1) for level in tokens.levels),
        owner=owner,
        pooled=pooled.expand(prompts, -1),
        negative_pooled=negative.expand(prompts, -1),
    )


def merge_tokens(first: VisualTokens, second: VisualTokens) -> VisualTokens:
    """The same n prompts said twice, on two images: the tokens of both; the pooled vectors of the first."""
    return VisualTokens(
        levels=tuple(torch.cat(pair) for pair in zip(first.levels, second.levels, strict=True)),
        owner=torch.cat([first.owner, second.owner]),
        pooled=first.pooled,
        negative_pooled=first.negative_pooled,
    )
