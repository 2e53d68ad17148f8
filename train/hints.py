"""What the image encoder tells the mask decoder in training: joint-space vectors under a view, and where a name is likely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.engines.embedded import prompt_features
from backend.engines.embedded.engine import EmbeddedDecoder
from backend.engines.embedded.from_text import Calibration
from backend.engines.embedded.network import ImageEncoder, ViewDecoder, fold_batch_norm
from backend.engines.embedded.views import look, under
from backend.values.features import ImageFeatures
from prompts.geometry import size_of
from train.names import Names
from train.rounds import View

NAMED = 0.3
"""The share of clicks and boxes that come with the object's name."""
MOST_SEEN = 4000
"""Photos whose vectors are kept, about 0.4 MB each; every pasted photo is a new one."""
UNSEEN = 0.45
"""The share of views without vectors: on photos that the encoder was trained on they tell more than they will on others."""


class Hints:
    """A trained image encoder, which looks at each training photo once."""

    def __init__(self, encoder: ImageEncoder, names: Names, seed: int) -> None:
        self._scale, self._bias = float(encoder.text_scale.detach().exp()), float(encoder.text_bias.detach())
        nothing = Calibration(1, 0, 1, 0, 0, 0)
        fold_batch_norm(encoder)
        self._looking = EmbeddedDecoder(encoder, ViewDecoder(), nothing, names.vectors)
        self._vectors = dict(zip(names.names, names.vectors, strict=True))
        self._seen: dict[str, ImageFeatures] = {}
        self._dice = np.random.default_rng(seed)

    def grids(self, views: Sequence[View]) -> Tensor:
        """Joint-space vectors ``(N, D, 24, 24)`` under each view."""
        return torch.stack([self._under(view) for view in views])

    def some(self, views: Sequence[View], grids: Tensor) -> Tensor:
        """The same vectors, all zero for some of the views."""
        kept = self._dice.random(len(views)) >= UNSEEN
        return grids * torch.from_numpy(kept)[:, None, None, None]

    def say(self, views: Sequence[View], grids: Tensor) -> None:
        """Tell some fresh views their object's name; where the previous answer is asked for, the name's map takes its place."""
        for view, grid in zip(views, grids, strict=True):
            if view.rounds > 1 or view.name is None:
                continue
            if view.kind == "previous" and self._dice.random() < 0.6:
                self._as_previous(view, grid)
            elif self._dice.random() < NAMED:
                view.maps[prompt_features.SAID] = self._map(view, grid)

    def _as_previous(self, view: View, grid: Tensor) -> None:
        assert view.source is not None
        assert view.name is not None
        everywhere = look(view.source.name_mask(view.name).astype(np.uint8) * 255, view.window, outside=0) > 127
        everywhere = everywhere[:, ::-1].copy() if view.mirrored else everywhere
        found = self._map(view, grid)
        claimed = np.kron(found > 0.5, np.ones((2, 2), np.bool_))
        if (claimed & everywhere).sum() > 0.2 * (claimed | everywhere).sum():
            view.maps[prompt_features.PREVIOUS], view.target, view.share = found, everywhere, 1.0

    def _map(self, view: View, grid: Tensor) -> NDArray[np.float32]:
        assert view.name is not None
        logits = torch.einsum("d,dhw->hw", self._vectors[view.name], grid) * self._scale + self._bias
        chance = torch.sigmoid(logits)[None, None]
        return np.asarray(
            torch.nn.functional.interpolate(chance, size=(prompt_features.MAP_SIDE,) * 2, mode="bilinear")[0, 0].numpy()
        )

    def _under(self, view: View) -> Tensor:
        assert view.source is not None
        key = str(view.source.row.image)
        if key not in self._seen:
            (features,) = self._looking.encode_images([view.source.image])
            while len(self._seen) >= MOST_SEEN:
                self._seen.pop(next(iter(self._seen)))
            self._seen[key] = ImageFeatures(features.size, features.grid.half().clone())
        grid = under(self._seen[key].grid, size_of(view.source.image), [view.window])[0]
        return grid.flip(2) if view.mirrored else grid
