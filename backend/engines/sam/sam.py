"""SAM and SAM-HQ: how their networks in transformers are loaded and called.

Kirillov et al. 2023, "Segment Anything"; Ke et al. 2023, "Segment Anything in High Quality".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backend.engines.pretrained import computing, import_class, load_pretrained, resolve
from backend.engines.sam.promptable import FramedPrompts, MaskCandidates, call_arguments
from backend.engines.sam.transforms import PadFrame
from backend.values.placement import Placement


class SamNetwork:
    """A SAM network (see PromptableNetwork)."""

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        self._model = model
        self._dtype = dtype
        self.frame = PadFrame(int(model.config.vision_config.image_size))
        self.low_res_side = 4 * int(model.prompt_encoder.image_embedding_size[0])

    @property
    def device(self) -> torch.device:
        device: torch.device = self._model.shared_image_embedding.positional_embedding.device
        return device

    def to(self, device: torch.device) -> None:
        self._model.to(device)

    def encode(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        with computing(self.device, self._dtype):
            found = self._model.get_image_embeddings(pixels.to(self.device))
        return [{"embedding": image.float()} for image in found]

    def decode(self, embeddings: Mapping[str, Tensor], prompts: FramedPrompts) -> MaskCandidates:
        return self._candidates(
            self._model(image_embeddings=embeddings["embedding"][None].to(self.device), **call_arguments(prompts))
        )

    def _candidates(self, found: Any) -> MaskCandidates:
        certain = torch.full_like(found.iou_scores[0, :, 0], torch.inf)
        return MaskCandidates(found.pred_masks[0], found.iou_scores[0], certain)


class SamHqNetwork(SamNetwork):
    """A SAM-HQ network: its mask decoder also looks at what the image encoder saw on the way."""

    def encode(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        with computing(self.device, self._dtype):
            found, on_the_way = self._model.get_image_embeddings(pixels.to(self.device))
        return [
            {"embedding": found[image].float(), "on_the_way": torch.stack([level[image] for level in on_the_way]).float()}
            for image in range(len(pixels))
        ]

    def decode(self, embeddings: Mapping[str, Tensor], prompts: FramedPrompts) -> MaskCandidates:
        return self._candidates(
            self._model(
                image_embeddings=embeddings["embedding"][None].to(self.device),
                intermediate_embeddings=[level[None] for level in embeddings["on_the_way"].to(self.device)],
                **call_arguments(prompts),
            )
        )


def load(folder: Path, model_type: str, placement: Placement) -> SamNetwork:
    """The network in a folder."""
    if model_type == "sam_hq":
        return SamHqNetwork(load_pretrained(import_class("SamHQModel"), folder, placement), resolve(placement)[1])
    return SamNetwork(load_pretrained(import_class("SamModel"), folder, placement), resolve(placement)[1])
