"""What the image encoder tells the mask decoder in training: what it sees under a view, and where a name is likely."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from backend.engines.embedded.network import MAP_SIDE, PREVIOUS, SAID, ViewDecoder
from backend.engines.embedded.places import PlaceEncoder, encoded
from backend.engines.embedded.views import look, under
from prompts.geometry import size_of
from train.data import Photo
from train.names import Names
from train.rounds import View

NAMED = 0.3
"""The share of clicks and boxes that come with the object's name."""
MEANT = 0.6
"""The share of earlier answers that are the places that look like the object's name."""
MOST_SEEN = 5000
"""Photos whose features are kept, about 1.5 MB each."""
UNSEEN = 0.3
"""The share of views without joint-space vectors, and of those without features: on photos that the encoder was trained on they
tell more than they will on others.
"""
PLACES, RIDGE = 200, 1e-5
"""From how many places of a photo a map between features is fitted, and how much it is drawn to nothing."""
FORGOTTEN = 0.4
"""The share of a name's maps of which a part is missing."""


class Hints:
    """A trained image encoder, which looks at each training photo once."""

    def __init__(self, encoder: PlaceEncoder, names: Names, seed: int) -> None:
        self._scale, self._bias = float(encoder.text_scale.detach().exp()), float(encoder.text_bias.detach())
        self._encoder = encoder.eval()
        self._vectors = dict(zip(names.names, names.vectors, strict=True))
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}
        self._dice = np.random.default_rng(seed)

    def grids(self, views: Sequence[View]) -> tuple[Tensor, Tensor]:
        """Joint-space vectors ``(N, D, 24, 24)`` and features ``(N, C, 24, 24)`` under each view."""
        found = [self._under(view) for view in views]
        return torch.stack([grid for grid, _ in found]), torch.stack([context for _, context in found])

    def some(self, views: Sequence[View], maps: Tensor) -> Tensor:
        """The same maps, all zero for some of the views."""
        kept = self._dice.random(len(views)) >= UNSEEN
        return maps * torch.from_numpy(kept)[:, None, None, None]

    def say(self, views: Sequence[View], grids: Tensor) -> None:
        """Tell some fresh views their object's name; where the previous answer is asked for, the name's map takes its place."""
        for view, grid in zip(views, grids, strict=True):
            if view.rounds > 1 or view.name not in self._vectors:
                continue
            if view.kind == "previous" and self._dice.random() < MEANT:
                self._as_previous(view, grid)
            elif self._dice.random() < NAMED:
                view.maps[SAID] = self._map(view, grid)

    def _as_previous(self, view: View, grid: Tensor) -> None:
        assert view.source is not None
        assert view.name is not None
        everywhere = look(view.source.name_mask(view.name).astype(np.uint8) * 255, view.window, outside=0) > 127
        everywhere = everywhere[:, ::-1].copy() if view.mirrored else everywhere
        found = self._map(view, grid)
        claimed = np.kron(found > 0.5, np.ones((2, 2), np.bool_))
        if (claimed & everywhere).sum() > 0.2 * (claimed | everywhere).sum():
            view.maps[PREVIOUS], view.target, view.share = self._forgetful(found), everywhere, 1.0

    def _forgetful(self, found: NDArray[np.float32]) -> NDArray[np.float32]:
        """A name's map, of which a part is missing at times: on new photos the encoder finds heads, wheels and sleeves."""
        if self._dice.random() > FORGOTTEN:
            return found
        side = len(found)
        noise = cv2.resize(self._dice.normal(0, 1, (4, 4)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
        return np.asarray(found / (1 + np.exp(-6 * (noise + self._dice.uniform(-0.2, 1)))), np.float32)

    def _map(self, view: View, grid: Tensor) -> NDArray[np.float32]:
        assert view.name is not None
        logits = torch.einsum("d,dhw->hw", self._vectors[view.name], grid) * self._scale + self._bias
        chance = torch.sigmoid(logits)[None, None]
        side = MAP_SIDE
        return np.asarray(F.interpolate(chance, size=(side, side), mode="bilinear")[0, 0].numpy())

    def _under(self, view: View) -> tuple[Tensor, Tensor]:
        assert view.source is not None
        key = str(view.source.row.image)
        if key not in self._seen:
            while len(self._seen) >= MOST_SEEN:
                self._seen.pop(next(iter(self._seen)))
            context, grid, _ = encoded(self._encoder, view.source.image)
            self._seen[key] = grid.half().clone(), context.half().clone()
        maps = [under(kept, size_of(view.source.image), [view.window])[0] for kept in self._seen[key]]
        grid, context = (part.flip(2) if view.mirrored else part for part in maps)
        return grid, context


@torch.inference_mode()
def follow(decoder: ViewDecoder, before: PlaceEncoder, after: PlaceEncoder, photos: Sequence[Photo]) -> None:
    """Let a decoder that reads the features of one encoder read those of another that was trained on from it: the linear map
    from the new features to the old, by least squares on places of ``photos``, goes into the first layer that reads them.
    """
    dice = torch.Generator().manual_seed(0)
    old, new = [], []
    for photo in photos:
        features = [encoded(each, photo.image)[0].flatten(1).T.cpu() for each in (before, after)]
        picks = torch.randint(len(features[0]), (PLACES,), generator=dice)
        old.append(features[0][picks])
        new.append(F.pad(features[1][picks], (0, 1), value=1.0))
    there, wanted = torch.cat(new).double(), torch.cat(old).double()
    solved = torch.linalg.solve(there.T @ there + RIDGE * len(there) * torch.eye(there.shape[1]), there.T @ wanted).float()
    first = decoder.context[0]
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    weights = first.weight[:, :, 0, 0]
    first.bias.add_(weights @ solved[-1])
    first.weight.copy_((weights @ solved[:-1].T)[:, :, None, None])
