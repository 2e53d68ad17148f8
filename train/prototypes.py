"""What photos show of scenery: prototypes of its places and regions, and where places of each name end.

What a network was hardly taught, such as sky, has a look all the same: the mean of what was seen of it, above what is seen
everywhere (Snell et al. 2017). Means bear names that are wrong now and then, as those that rules tell are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from backend.engines.embedded.engine import EmbeddedDecoder
from backend.engines.embedded.evidence import Calibration, Prototypes
from backend.engines.embedded.from_text import meaning, shares_of
from backend.engines.embedded.views import REGIONS
from train import scenery
from train.crops import PLAIN
from train.data import CUTOUTS, Photo
from train.names import Names

FEWEST, MOST = 3, 16
"""How many photos show a name that has a prototype, and of how many it is made at most."""
COVERED, FEWEST_CELLS = 0.6, 4
"""The share of a place that a name covers where it is seen, and how many such places a photo has at least."""
SAID = 8
"""What a name says counts as much as so many photos of it."""
SHARES = np.linspace(0.2, 1.2, 41)
"""Where places may end: these shares of the usual cosine inside."""
DOUBT = 3
"""An end that holds for all names counts as much as so many photos of one."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """One name on one photo: the photo's places ``(D, h, w)`` in half precision, how much of each the name covers ``(h, w)``,
    and what its region shows ``(D,)``.
    """

    name: str
    grid: Tensor
    share: Tensor
    region: Tensor

    @property
    def inside(self) -> Tensor:
        """The mean ``(D,)`` of places that show the name."""
        cells = (self.share > COVERED).float()
        return (self.grid.float() * cells).sum(dim=(1, 2)) / cells.sum()


def seen_of(decoder: EmbeddedDecoder, photos: Sequence[Photo]) -> list[Sight]:
    """What photos show of each name, of the first few that show it whole."""
    counts: dict[str, int] = defaultdict(int)
    found: list[Sight] = []
    order = np.random.default_rng(0).permutation(len(photos)).tolist()
    for photo in _with_grounds(photos[k] for k in order):
        told = {photo.row.names[key] for key in photo.regions if key in scenery.NAMES}  # of which there may be more
        names = [name for name in sorted({*photo.text_names(), *told}) if counts[name] < MOST]
        if not names:
            continue
        (features,) = decoder.encode_images([photo.image])
        masks = [photo.name_mask(name) for name in names]
        shares, regions = shares_of(masks, features.grid), features.tensors[REGIONS].float()
        shown, grid = meaning(regions, shares_of(masks, regions)), features.grid.half()
        for name, share, region in zip(names, shares, shown, strict=True):
            if (share > COVERED).sum() >= FEWEST_CELLS:
                counts[name] += 1
                found.append(Sight(name, grid, share, region))
    return [sight for sight in found if counts[sight.name] >= FEWEST]


def _with_grounds(photos: Iterator[Photo]) -> Iterator[Photo]:
    """Photos with their scenery, each followed by itself with the ground about its things."""
    for photo in photos:
        if photo.row.source in (CUTOUTS, *PLAIN):
            continue
        shown = scenery.with_scenery(photo) if photo.row.source in scenery.SOURCES else photo
        around = scenery.ground(photo) if photo.row.source in scenery.SOURCES else None
        yield from (each for each in (shown, around) if each is not None)


def prototypes(decoder: EmbeddedDecoder, photos: Sequence[Photo], names: Names) -> tuple[Names, Prototypes]:
    """The names in another order, those of scenery that photos show enough first, and the prototypes of these, of which
    ``usual`` are the cosines at which their places end; see ``settled``. All other names tell what is seen everywhere, and
    where places end as a rule.
    """
    sights: dict[str, list[Sight]] = defaultdict(list)
    for sight in seen_of(decoder, photos):
        sights[sight.name].append(sight)
    vectors = dict(zip(names.names, names.vectors, strict=True))
    seen = {name: some for name, some in sights.items() if name in vectors}
    kept = sorted(name for name in seen if name in scenery.EVERY.values())
    order = [*kept, *(name for name in names.names if name not in kept)]
    names = Names(tuple(order), torch.stack([vectors[name] for name in order]))
    if not kept:
        return names, Prototypes.none(names.vectors.shape[1])
    said = torch.stack([vectors[name] for name in seen])
    everywhere = torch.stack([sight.region for some in seen.values() for sight in some]).mean(dim=0)
    inside = [[sight.inside for sight in some] for some in seen.values()]
    places = _between(said, inside, decoder.taught.places.mean(dim=0))
    regions = _between(said, [[sight.region for sight in some] for some in seen.values()], everywhere)
    usual = torch.tensor(ends(places, list(seen.values())), dtype=torch.float32)
    rows = [list(seen).index(name) for name in kept]
    return names, Prototypes(places[rows], regions[rows], usual[rows])


def _between(said: Tensor, seen: Sequence[Sequence[Tensor]], everywhere: Tensor) -> Tensor:
    """Unit vectors ``(P, D)`` between what names say and what was seen of each above what is seen ``everywhere (D,)``."""
    means = torch.stack([torch.stack(list(each)).mean(dim=0) for each in seen]) - everywhere
    share = torch.tensor([len(each) / (len(each) + SAID) for each in seen])[:, None]
    return F.normalize((1 - share) * said + share * F.normalize(means, dim=1), dim=1)


def ends(places: Tensor, shown: Sequence[Sequence[Sight]]) -> list[float]:
    """The cosine with each of ``places (P, D)`` above which places are the name, by their mean IoU on the photos that show it;
    a little drawn to the share of the cosine inside that is best for all names.
    """
    insides, curves = [], []
    for place, some in zip(places, shown, strict=True):
        insides.append(float(np.median([float(sight.inside @ place) for sight in some])))
        curves.append([_ious(sight, place, insides[-1] * SHARES) for sight in some])
    usual = np.mean([np.mean(some, axis=0) for some in curves], axis=0)
    best = [int((np.sum(some, axis=0) + DOUBT * usual).argmax()) for some in curves]
    return [inside * float(SHARES[k]) for inside, k in zip(insides, best, strict=True)]


def _ious(sight: Sight, place: Tensor, levels: Floats) -> Floats:
    alike = torch.einsum("d,dhw->hw", place, sight.grid.float()).numpy()
    truth = sight.share.numpy() > 0.5
    return np.array([(truth & (alike > level)).sum() / max((truth | (alike > level)).sum(), 1) for level in levels])


def settled(shown: Prototypes, calibration: Calibration) -> Prototypes:
    """Prototypes whose places end above the usual cosine by as much as those of any phrase."""
    return replace(shown, usual=shown.usual + calibration.text_bias / calibration.text_scale)
