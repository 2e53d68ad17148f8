"""SAM 2.1 and EdgeTAM: how their networks in transformers are loaded and called.

Ravi et al. 2024, "SAM 2: Segment Anything in Images and Videos"; Zhou et al. 2025, "EdgeTAM: On-Device Track Anything Model".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backend.engines.pretrained import computing, import_class, load_pretrained, resolve
from backend.engines.sam.promptable import FramedPrompts, MaskCandidates, call_arguments
from backend.engines.sam.transforms import SquashFrame
from backend.values.placement import Placement

CLASSES = {"sam2": "Sam2Model", "sam2_video": "Sam2Model", "edgetam": "EdgeTamModel", "edgetam_video": "EdgeTamModel"}
"""The network's class by the ``model_type`` of its folder; the published checkpoints are those of the video models."""


class Sam2Network:
    """A SAM 2 or EdgeTAM network (see PromptableNetwork).

    Its image embeddings are three maps: the first two, finer ones are kept as the mask decoder uses them.
    """

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        self._model = model
        self._dtype = dtype
        self.frame = SquashFrame(int(model.prompt_encoder.input_image_size))
        self.low_res_side = int(model.prompt_encoder.mask_input_size[0])

    @property
    def device(self) -> torch.device:
        device: torch.device = self._model.no_memory_embedding.device
        return device

    def to(self, device: torch.device) -> None:
        self._model.to(device)

    def encode(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        with computing(self.device, self._dtype):
            levels = self._model.get_image_embeddings(pixels.to(self.device))
        return [{f"level{k}": level[image].float() for k, level in enumerate(levels)} for image in range(len(pixels))]

    def decode(self, embeddings: Mapping[str, Tensor], prompts: FramedPrompts) -> MaskCandidates:
        levels = [embeddings[name][None].to(self.device) for name in ("level0", "level1", "level2")]
        found = self._model(image_embeddings=levels, **call_arguments(prompts))
        return MaskCandidates(found.pred_masks[0], found.iou_scores[0], found.object_score_logits[0, :, 0])


def load(folder: Path, model_type: str, placement: Placement) -> Sam2Network:
    """The network in a folder."""
    return Sam2Network(load_pretrained(import_class(CLASSES[model_type]), folder, placement), resolve(placement)[1])
