"""OmDet-Turbo: a quick detector for a list of words (Zhao et al. 2024, "Real-time Transformer-based Open-Vocabulary
Detection").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backend.engines.pretrained import import_class, load_pretrained
from backend.engines.sam.detecting import Detector, boxes_of, inside, load_tokenizer, network_input
from backend.engines.sam.text_grounding import Boxes
from backend.engines.sam.transforms import IMAGENET_MEAN, IMAGENET_STD
from backend.values.placement import Placement
from prompts.geometry import Size
from prompts.retreat import retreating

THRESHOLD = 0.3
LENGTH = 77


class OmDet(Detector):
    """The detector (see Grounder); images are squashed to a square."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self._side = int(model.config.image_size)

    @retreating
    @torch.inference_mode()
    def detect(self, tensors: Mapping[str, Tensor], size: Size, phrases: Sequence[str]) -> Boxes:
        if not phrases:
            return boxes_of(torch.zeros(0, 4), torch.zeros(0, 1), phrases, THRESHOLD, (1, 1))
        device = self.device
        found = self._model(
            pixel_values=network_input(tensors, Size(self._side, self._side), device, (IMAGENET_MEAN, IMAGENET_STD)),
            **self._tokens("classes", phrases),
            **self._tokens("tasks", [f"Detect {', '.join(phrases)}."]),
            classes_structure=torch.tensor([len(phrases)], device=device),
        )
        scores = found.decoder_class_logits[0, :, : len(phrases)].sigmoid()
        return inside(boxes_of(found.decoder_coord_logits[0], scores, phrases, THRESHOLD, (size.width, size.height)), size)

    def _tokens(self, of: str, texts: Sequence[str]) -> dict[str, Tensor]:
        read = self._tokenizer(list(texts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
        return {f"{of}_{name}": read[name].to(self.device) for name in ("input_ids", "attention_mask")}


def load(folder: Path, placement: Placement) -> OmDet:
    """The detector in a folder."""
    return OmDet(load_pretrained(import_class("OmDetTurboForObjectDetection"), folder, placement), load_tokenizer(folder))
