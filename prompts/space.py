"""The joint space: every kind of prompt becomes tokens, rows of unit vectors that can be compared, when somebody reads them.

A prompt's meaning here does not depend on where it came from: a phrase, a click and a region of another image are all rows
``(N, D)``, and their similarity to the image's features says what they point at.
The visual sampler reads any region of an image as tokens, and as prototypes of its parts and surroundings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, assert_never

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from prompts.geometry import BoolArray, FloatArray, Size, clip_box, polygon_mask
from prompts.kinds import (
    BoxPrompt,
    DrawnPrompt,
    MaskPrompt,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    PromptSet,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from prompts.phrases import Vocabulary

MAX_POINTS = 512


class FeatureMap(Protocol):
    """What the joint space needs of an image's features: unit vectors of the joint space, read at places."""

    @property
    def size(self) -> Size: ...

    def sample(self, points: FloatArray) -> Tensor:
        """The features ``(N, D)`` at ``points (N, 2)`` in pixels."""
        ...

    def pool(self, mask: BoolArray) -> Tensor:
        """The mean feature ``(D,)`` of a region ``(H, W)``."""
        ...


def sample_points(mask: BoolArray, most: int = MAX_POINTS, seed: int = 0) -> FloatArray:
    """At most ``most`` pixel centres ``(N, 2)`` inside a mask, spread by a seeded shuffle; none for an empty mask."""
    counts = np.count_nonzero(mask, axis=1)
    total = int(counts.sum())
    if total <= most:
        rows, columns = np.nonzero(mask)
    else:  # by row and place in it: eight bytes for every pixel of a large mask would be more than the mask
        ranks = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
        ends = np.cumsum(counts)
        rows = np.searchsorted(ends, ranks, side="right")
        places = ranks - (ends - counts)[rows]
        columns = np.concatenate([np.flatnonzero(mask[row])[places[rows == row]] for row in np.unique(rows)])
    return np.asarray(np.stack([columns, rows], axis=1) + 0.5, np.float64)


def visual_token(features: FeatureMap, mask: BoolArray) -> Tensor:
    """One unit vector ``(1, D)`` for a region, the mean of its sampled points; no rows ``(0, D)`` for an empty one."""
    return point_token(features, sample_points(mask))


def drawn_points(prompt: DrawnPrompt, size: Size) -> FloatArray:
    """The pixel centres ``(N, 2)`` that tell what a prompt shows: those of a stroke or a mask; of a box or a rough outline the
    middle alone, as its edge shows what is around.
    """
    match prompt:
        case PointPrompt(xy=(x, y)):
            x0, y0, _, _ = clip_box((x, y, x, y), size)
            return np.array([[x0 + 0.5, y0 + 0.5]])
        case BoxPrompt():
            x0, y0, x1, y1 = clip_box(prompt.xyxy, size)
            return np.array([[(x0 + x1) // 2 + 0.5, (y0 + y1) // 2 + 0.5]])
        case PolygonPrompt():
            rows, columns = np.nonzero(polygon_mask(prompt.points, size))
            return np.floor([[columns.mean() + 0.5, rows.mean() + 0.5]]) + 0.5 if len(rows) else np.empty((0, 2))
        case ScribblePrompt() | MaskPrompt():
            return sample_points(prompt.mask)
        case _:
            assert_never(prompt)


def point_token(features: FeatureMap, points: FloatArray) -> Tensor:
    """One unit vector ``(1, D)``, the mean at ``points (N, 2)`` in pixels; no rows ``(0, D)`` without a point."""
    tokens = features.sample(points)
    if not len(tokens):
        return tokens
    return torch.nn.functional.normalize(tokens.mean(dim=0, keepdim=True), dim=-1)


MAX_PARTS = 8
RING = 0.15
"""How far the surroundings reach, as a share of the side of a square as large as the region."""
_ROUNDS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Prototypes:
    """A region: ``parts (P, D)`` and ``background (B, D)``, unit vectors; and the patches of its whole image, ``patches (D, h,
    w)`` with those of the region, ``inside (h, w)``.
    """

    parts: Tensor
    background: Tensor
    patches: Tensor
    inside: BoolArray


def stratified_points(mask: BoolArray, most: int = MAX_POINTS) -> FloatArray:
    """At most ``most`` pixel centres ``(N, 2)`` inside a mask, one for each cell of a grid, the one nearest to the middle of
    its cell's pixels: the same every time, and spread over every part.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return np.zeros((0, 2))
    side = max(math.isqrt(len(rows) // most), 1)
    while len(np.unique(cells := (rows // side) * (mask.shape[1] // side + 1) + columns // side)) > most:
        side = max(side + 1, side * 5 // 4)
    _, cell, count = np.unique(cells, return_inverse=True, return_counts=True)
    middle = [np.bincount(cell, weights=values)[cell] / count[cell] for values in (rows, columns)]
    distance = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2
    order = np.lexsort((distance, cell))
    first = order[np.concatenate([[0], np.cumsum(count)[:-1]])]
    return np.stack([columns[first], rows[first]], axis=1) + 0.5


def surroundings(mask: BoolArray) -> BoolArray:
    """The pixels around a mask ``(H, W)``, within a ring."""
    reach = max(round(RING * math.sqrt(int(mask.sum()))), 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    grown: BoolArray = cv2.dilate(mask.astype(np.uint8), kernel).astype(np.bool_)
    return grown & ~mask


def prototypes_of(patches: Tensor, mask: BoolArray) -> Prototypes | None:
    """The prototypes of a region ``(H, W)`` of the image whose patches ``(D, h, w)`` are given; None for an empty region.

    Patches on its edge show both sides: they belong neither to the parts nor to the surroundings.
    """
    if not mask.any():
        return None
    shape = (patches.shape[1], patches.shape[2])
    inside = cells_inside(mask, shape)
    ring = surroundings(inside | (_cover(mask, shape) > 0))
    return Prototypes(find_parts(_vectors(patches, inside)), find_parts(_vectors(patches, ring)), patches, inside)


def _vectors(patches: Tensor, cells: BoolArray) -> Tensor:
    """The patches ``(N, D)`` in cells ``(h, w)``, at most 512 of them, spread over all."""
    columns, rows = np.floor(stratified_points(cells)).astype(np.intp).T
    return patches[:, torch.from_numpy(rows), torch.from_numpy(columns)].T


def cells_inside(mask: BoolArray, shape: tuple[int, int]) -> BoolArray:
    """The cells ``(h, w)`` of which a mask covers most, and the one of which it covers the most when it covers most of none."""
    cover = _cover(mask, shape)
    inside: BoolArray = cover >= min(0.5, float(cover.max()))
    return inside


def _cover(mask: BoolArray, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The share ``(h, w)`` of each cell that a mask ``(H, W)`` covers."""
    whole = torch.from_numpy(mask.astype(np.float32))[None, None]
    cover: NDArray[np.float32] = functional.adaptive_avg_pool2d(whole, shape)[0, 0].numpy()
    return cover


def find_parts(vectors: Tensor, most: int = MAX_PARTS) -> Tensor:
    """At most ``most`` unit vectors ``(P, D)`` that stand for unit vectors ``(N, D)``: first each the farthest from those
    before, then moved to the mean of those nearest to it.
    """
    if len(vectors) <= 1:
        return vectors
    centres = functional.normalize(vectors.mean(dim=0, keepdim=True), dim=-1)
    centres = vectors[(vectors @ centres.T).argmax(dim=0)]
    while len(centres) < min(most, len(vectors)):
        nearest = (vectors @ centres.T).amax(dim=1)
        if float(nearest.min()) > 0.999:
            break
        centres = torch.cat([centres, vectors[nearest.argmin()][None]])
    for _ in range(_ROUNDS):
        owner = (vectors @ centres.T).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, owner, vectors)
        filled = sums.norm(dim=-1, keepdim=True) > 1e-6
        centres = torch.where(filled, functional.normalize(sums, dim=-1), centres)
    return centres


def margin(patches: Tensor, prototypes: Prototypes) -> Tensor:
    """How much more patches ``(D, h, w)`` resemble the region than its surroundings, as a difference of cosines ``(h, w)``."""
    flat = patches.flatten(1).T
    like = (flat @ prototypes.parts.T).amax(dim=1)
    unlike = (flat @ prototypes.background.T).amax(dim=1) if len(prototypes.background) else torch.zeros_like(like)
    return (like - unlike).reshape(patches.shape[1:])


def matches_back(patches: Tensor, prototypes: Prototypes) -> Tensor:
    """The patches ``(h, w)`` bool whose most similar patch in the whole reference image lies inside the region."""
    nearest = (patches.flatten(1).T @ prototypes.patches.flatten(1)).argmax(dim=1)
    return torch.from_numpy(prototypes.inside).flatten()[nearest].reshape(patches.shape[1:])


class TextEncoder(Protocol):
    """Phrases into the joint space."""

    def encode_text(self, phrases: Sequence[str]) -> Tensor:
        """Unit vectors ``(N, D)`` for N phrases."""
        ...


class PromptTokens:
    """The tokens of a prompt set, each computed when it is first read: what no engine reads costs nothing.

    Every property is ``(N, D)`` of unit vectors, with no rows where nothing was said; the ``negative`` ones are what the answer
    must not be. ``text`` has one row for each of ``phrases``.
    """

    def __init__(self, space: JointSpace, prompts: PromptSet, here: FeatureMap, references: Sequence[FeatureMap]) -> None:
        self._space = space
        self.prompts = prompts
        self._here = here
        self.references = tuple(zip(prompts.of(ReferencePrompt), references, strict=True))
        """Each reference with the features of its image, for engines that read more of a region than its token."""

    @property
    def phrases(self) -> tuple[str, ...]:
        return self.prompts.phrases

    @cached_property
    def text(self) -> Tensor:
        return self._said(positive=True)

    @cached_property
    def negative_text(self) -> Tensor:
        return self._said(positive=False)

    @cached_property
    def reference(self) -> Tensor:
        return self._shown(positive=True)

    @cached_property
    def negative_reference(self) -> Tensor:
        return self._shown(positive=False)

    def of(self, prompt: Prompt) -> Tensor:
        """The token ``(1, D)`` of one prompt of the set; no row ``(0, D)`` for an empty region."""
        match prompt:
            case TextPrompt():
                return self._space.embed_phrases([prompt.phrase])
            case ReferencePrompt():
                there = next(features for reference, features in self.references if reference is prompt)
                return visual_token(there, prompt.mask)
            case PointPrompt() | BoxPrompt() | PolygonPrompt() | ScribblePrompt() | MaskPrompt():
                return point_token(self._here, drawn_points(prompt, self._here.size))
            case _:
                assert_never(prompt)

    def _said(self, *, positive: bool) -> Tensor:
        phrases = [text.phrase for text in self.prompts.of(TextPrompt) if text.positive == positive]
        return self._space.embed_phrases(phrases) if phrases else self._nothing()

    def _shown(self, *, positive: bool) -> Tensor:
        tokens = [visual_token(there, at.mask) for at, there in self.references if at.positive == positive]
        return torch.cat([self._nothing(), *tokens])

    def _nothing(self) -> Tensor:
        return self._here.sample(np.empty((0, 2)))


class JointSpace:
    """One visual-semantic space: a text encoder, the visual sampler and the scale of their similarity.

    ``name`` identifies the space; vectors of different spaces must never meet.
    """

    def __init__(self, name: str, text_encoder: TextEncoder, logit_scale: float = 100.0) -> None:
        self.name = name
        self.logit_scale = logit_scale
        self._text_encoder = text_encoder

    def embed(self, prompts: PromptSet, features: FeatureMap, references: Sequence[FeatureMap] = ()) -> PromptTokens:
        """The tokens of a prompt set on an image, none of which is computed yet; ``references`` are the features of its
        reference images, in order.
        """
        return PromptTokens(self, prompts, features, references)

    def embed_phrases(self, phrases: Sequence[str]) -> Tensor:
        """Unit vectors ``(N, D)`` of N phrases."""
        return self._text_encoder.encode_text(phrases)

    def embed_vocabulary(self, vocabulary: Vocabulary) -> Tensor:
        """Unit vectors ``(L, D)``, one for each label: the mean of its phrases."""
        rows = [self.embed_phrases(entry.phrases).mean(dim=0) for entry in vocabulary.entries]
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)

    def similarity(self, left: Tensor, right: Tensor) -> Tensor:
        """Cosine similarity ``(N, M)`` of unit vectors ``(N, D)`` and ``(M, D)``."""
        return left @ right.T
