"""An encoded image as SEEM sees it, and as everybody else does: ImageFeatures with a grid of the joint space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from backend.engines.seem.frame import Frame, InputSize
from backend.engines.seem.maps import mask_quality
from backend.engines.seem.pixel_fpn import PixelFeatures
from backend.engines.seem.predictor import Prediction
from backend.engines.seem.wiring import Group
from backend.values.features import ImageFeatures

GRID_LEVEL = 2
"""The grid lies at stride 8, on the finest of the three feature levels."""


@dataclass(frozen=True, slots=True)
class SeemImage:
    """An image in its frame: its pixels' features, and what the object queries saw in it before anything was asked."""

    frame: Frame
    pixels: PixelFeatures
    objects: Prediction

    @classmethod
    def unpack(cls, features: ImageFeatures, limits: InputSize, device: torch.device) -> SeemImage:
        """The other direction of ``pack``, on the network's device: features that were kept on disk come back on the CPU."""
        tensors = {name: tensor.to(device) for name, tensor in features.tensors.items()}
        levels = (tensors["level_0"], tensors["level_1"], tensors["level_2"])
        embedding = tensors["embedding"]
        place = torch.zeros(len(embedding), dtype=torch.long, device=embedding.device)
        objects = Prediction(embedding, tensors["mask_embedding"], place + Group.OBJECT, place)
        return cls(Frame.of(features.size, limits), PixelFeatures(levels, tensors["mask_features"]), objects)

    def pack(self, objectness: Tensor) -> ImageFeatures:
        """Everything as tensors, with the joint-space grid; ``objectness (Q,)`` is how sure each object query is."""
        levels = {f"level_{i}": level for i, level in enumerate(self.pixels.levels)}
        tensors = {
            **levels,
            "mask_features": self.pixels.mask_features,
            "embedding": self.objects.embedding,
            "mask_embedding": self.objects.mask_embedding,
        }
        return ImageFeatures(self.frame.size, self._grid(objectness).cpu(), tensors)

    def _grid(self, objectness: Tensor) -> Tensor:
        """What each place shows, as unit vectors ``(D, h, w)`` that can be compared with text: the mean embedding of the
        object queries, each weighted by how sure it is of itself and of the place.
        """
        level = self.pixels.levels[GRID_LEVEL]
        size = (int(level.shape[2]), int(level.shape[3]))
        logits = self.objects.masks(functional.interpolate(self.pixels.mask_features, size, mode="bilinear"))
        rows, columns = self.frame.content_cells(size)
        weight = (objectness * mask_quality(logits))[:, None, None] * logits.sigmoid()[:, :rows, :columns]
        unit = functional.normalize(self.objects.embedding, dim=-1)
        return functional.normalize(torch.einsum("qd,qhw->dhw", unit, weight), dim=0)
