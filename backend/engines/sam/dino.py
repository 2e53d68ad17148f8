"""DINO features: patches that are alike where things are alike, across images, without any words.

Oquab et al. 2023, "DINOv2"; Darcet et al. 2023, "Vision Transformers Need Registers"; Siméoni et al. 2025, "DINOv3".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backend.engines.device import computing, import_class, load_pretrained, read_model_type, resolve
from backend.engines.sam.transforms import IMAGENET_MEAN, IMAGENET_STD, resize_image
from backend.values.errors import SetupError
from backend.values.placement import Placement
from prompts.cpu_fallback import with_cpu_fallback
from prompts.geometry import Size, size_of
from prompts.kinds import Image

CLASSES = {
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}
LONGER_SIDE = 518


class Dino:
    """A DINO network; its patches come on the CPU."""

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32, longer_side: int = LONGER_SIDE) -> None:
        self._model = model
        self._dtype = dtype
        self._longer_side = longer_side
        self._patch = int(model.config.patch_size)
        self._before = 1 + int(getattr(model.config, "num_register_tokens", 0))

    @property
    def device(self) -> torch.device:
        device: torch.device = next(iter(self._model.parameters())).device
        return device

    def to(self, device: torch.device) -> None:
        """Move all weights."""
        self._model.to(device)

    @with_cpu_fallback
    @torch.inference_mode()
    def encode_patches(self, image: Image) -> Tensor:
        """Unit vectors ``(D, h, w)`` of the patches of an image ``(H, W, 3)``."""
        size = size_of(image)
        scale = self._longer_side / max(size.height, size.width)
        rows, columns = (max(round(side * scale / self._patch), 1) for side in (size.height, size.width))
        pixels = resize_image(image, Size(rows * self._patch, columns * self._patch), self.device) / 255
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        with computing(self.device, self._dtype):
            tokens = self._model(((pixels - mean) / std)[None]).last_hidden_state
        return functional.normalize(tokens[0, self._before :].float(), dim=-1).T.reshape(-1, rows, columns).cpu()


def load(folder: Path, placement: Placement) -> Dino:
    """The network in a folder. Raises SetupError for another kind of model."""
    model_type = read_model_type(folder)
    if model_type not in CLASSES:
        raise SetupError(f"{folder} holds a {model_type!r} model; known are {', '.join(CLASSES)}")
    return Dino(load_pretrained(import_class(CLASSES[model_type]), folder, placement), resolve(placement)[1])
