"""Examples of labels: places inside and outside of regions that were shown, and where an image looks like them.

Places are compared with their nearest ones on either side, not with one mean: a thing has many parts, and so have its
surroundings (after Cover & Hart 1967; Zhang et al. 2023, "Personalize Segment Anything Model with One Shot").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from prompts.geometry import BoolArray

NEAREST = 5
MOST_PLACES = 1024
"""Places that are kept of one example on either side, and of all examples together four times as many."""
INSIDE, OUTSIDE = 0.7, 0.2
"""The share of a place that a region covers at least, or at most."""
SURROUNDINGS = 0.5
"""The cosine that stands for surroundings nobody showed."""
_AT_ONCE = 4096
"""Places that are compared at once, which bounds the memory that it takes."""


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Unit vectors of the places ``inside (P, D)`` what was shown and ``outside (Q, D)`` of it."""

    inside: Tensor
    outside: Tensor

    def __len__(self) -> int:
        return len(self.inside)

    def refused(self) -> Examples:
        """The same region as an example of what the label is not; what surrounds it says nothing."""
        return Examples(self.inside[:0], self.inside)


def example_of(places: Tensor, region: BoolArray) -> Examples:
    """One region ``(H, W)`` of an image whose places ``(D, h, w)`` are unit vectors; empty where the region is."""
    share = _cover(region, (places.shape[1], places.shape[2]))
    least = min(INSIDE, float(share.max()))
    inside = (share >= least) & (share > 0)
    return Examples(_some(places, inside), _some(places, (share < OUTSIDE) & ~inside))


def together(examples: Iterable[Examples]) -> Examples:
    """Several examples of one label as one. Raises ValueError where there is none."""
    shown = list(examples)
    if not shown:
        raise ValueError("expected at least one example, got none")
    inside, outside = torch.cat([each.inside for each in shown]), torch.cat([each.outside for each in shown])
    return Examples(thinned(inside, 4 * MOST_PLACES), thinned(outside, 4 * MOST_PLACES))


@dataclass(frozen=True, slots=True, eq=False)
class ShownImage:
    """What the regions of one image show: places ``inside`` those of each label, ``(P, D)`` by label, places ``outside (Q, D)``
    of all of them, and those of regions that were ``refused`` for a label; unit vectors in half precision. ``counts`` is how
    many regions of each label it has, ``meant`` what those of a label show as wholes, unit vectors ``(M, D)``, where an engine
    tells.
    """

    inside: Mapping[str, Tensor]
    outside: Tensor
    refused: Mapping[str, Tensor] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    meant: Mapping[str, Tensor] = field(default_factory=dict)

    def showing(self, labels: Collection[str]) -> ShownImage:
        """The same with what is inside the regions of some labels alone."""
        return replace(self, inside={label: places for label, places in self.inside.items() if label in labels})

    @property
    def nbytes(self) -> int:
        every = (self.outside, *self.inside.values(), *self.refused.values())
        return sum(places.numel() * places.element_size() for places in every)


Regions = Sequence[tuple[str, BoolArray]]
"""Regions ``(H, W)`` of an image with their labels."""


def shown_image(places: Tensor, regions: Regions, refused: Regions = ()) -> ShownImage:
    """What regions, accepted and ``refused`` ones, show of an image whose places ``(D, h, w)`` are unit vectors: those of one
    label are together one example. Outside is what no accepted region covers, where there is one.
    """
    wanted, unwanted = by_label(regions), by_label(refused)
    outside = places.flatten(1).T[:0]
    if wanted:
        outside = example_of(places, np.logical_or.reduce(list(wanted.values()))).outside
    inside = {label: example_of(places, region).inside.half() for label, region in wanted.items()}
    against = {label: example_of(places, region).inside.half() for label, region in unwanted.items()}
    return ShownImage(inside, outside.half(), against, Counter(label for label, _ in regions))


def by_label(regions: Regions) -> dict[str, BoolArray]:
    """All regions of each label as one."""
    found: dict[str, BoolArray] = {}
    for label, region in regions:
        found[label] = found[label] | region if label in found else region
    return found


def meant_by(label: str, images: Iterable[ShownImage]) -> Tensor | None:
    """What a label's regions show as wholes, unit vectors ``(M, D)``: the mean over images; None where no engine has told."""
    known = [image.meant[label].float() for image in images if label in image.meant]
    return functional.normalize(torch.stack(known).mean(dim=0), dim=1) if known else None


def likeness(places: Tensor, examples: Examples, nearest: int = NEAREST) -> Tensor:
    """How much more places ``(D, h, w)`` look like what is inside than like what is outside: a difference of cosines
    ``(h, w)``, each the mean of the ``nearest`` ones; -1 everywhere where nothing was shown.
    """
    flat = places.flatten(1).T.float()
    if not len(examples.inside):
        return flat.new_full((places.shape[1], places.shape[2]), -1.0)
    return (near(flat, examples.inside, nearest) - near(flat, examples.outside, nearest)).reshape(places.shape[1:])


def near(places: Tensor, shown: Tensor, nearest: int = NEAREST) -> Tensor:
    """The mean cosine ``(N,)`` of places ``(N, D)`` with the ``nearest`` of those ``(P, D)`` that were shown."""
    if not len(shown):
        return places.new_full((len(places),), SURROUNDINGS)
    known = shown.to(places).T
    parts = [(some @ known).topk(min(nearest, len(shown)), dim=1).values.mean(dim=1) for some in torch.split(places, _AT_ONCE)]
    return torch.cat(parts)


def _some(places: Tensor, cells: NDArray[np.bool_]) -> Tensor:
    """The vectors ``(N, D)`` of cells ``(h, w)``, evenly chosen where there are many."""
    return thinned(places.flatten(1).T[torch.from_numpy(np.flatnonzero(cells))], MOST_PLACES)


def thinned(vectors: Tensor, most: int) -> Tensor:
    """At most ``most`` of vectors ``(N, D)``, evenly chosen."""
    if len(vectors) <= most:
        return vectors
    return vectors[torch.linspace(0, len(vectors) - 1, most).round().long()]


def _cover(region: BoolArray, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The share ``(h, w)`` of each cell that a region ``(H, W)`` covers."""
    whole = torch.from_numpy(region.astype(np.float32))[None, None]
    share: NDArray[np.float32] = functional.adaptive_avg_pool2d(whole, shape)[0, 0].numpy()
    return share
