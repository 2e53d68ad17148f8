"""Grounding DINO, MM-Grounding-DINO and LLMDet: detectors that read all phrases as one text.

Liu et al. 2023, "Grounding DINO"; Zhao et al. 2024, "MM-Grounding-DINO"; Fu et al. 2025, "LLMDet".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backend.decoders.finding import Boxes
from backend.decoders.frames import IMAGENET_MEAN, IMAGENET_STD
from backend.decoders.grounders.detecting import Detector, boxes_of, fit, inside, load_tokenizer, network_input
from backend.decoders.pretrained import import_class, load_pretrained, read_model_type
from backend.placement import Placement
from prompts.geometry import Size
from prompts.retreat import retreating

THRESHOLD = 0.25
CLASSES = {"grounding-dino": "GroundingDinoForObjectDetection", "mm-grounding-dino": "MMGroundingDinoForObjectDetection"}


class GroundingDino(Detector):
    """The detector (see Grounder); images keep their proportions."""

    def __init__(self, model: Any, tokenizer: Any, shortest: int = 800, longest: int = 1333) -> None:
        super().__init__(model, tokenizer)
        self._shortest, self._longest = shortest, longest

    @retreating
    @torch.inference_mode()
    def detect(self, tensors: Mapping[str, Tensor], size: Size, phrases: Sequence[str]) -> Boxes:
        if not phrases:
            return boxes_of(torch.zeros(0, 4), torch.zeros(0, 1), phrases, THRESHOLD, (1, 1))
        device = self.device
        text, owners = self._tokens(phrases)
        framed = fit(size, self._shortest, self._longest)
        found = self._model(
            pixel_values=network_input(tensors, framed, device, (IMAGENET_MEAN, IMAGENET_STD)),
            **{name: tensor.to(device) for name, tensor in text.items()},
        )
        tokens = found.logits[0].sigmoid()[:, : owners.shape[1]]
        scores = torch.stack([tokens[:, owner.to(device)].amax(dim=1) for owner in owners], dim=1)
        return inside(boxes_of(found.pred_boxes[0], scores, phrases, THRESHOLD, (size.width, size.height)), size)

    def _tokens(self, phrases: Sequence[str]) -> tuple[Mapping[str, Tensor], Tensor]:
        """The text "a cat. a dog." as tokens, and which of them belong to each phrase, ``(P, T)`` bool."""
        clean = [phrase.lower().replace(".", " ").strip() for phrase in phrases]
        text = "".join(f"{phrase}. " for phrase in clean).strip()
        read = self._tokenizer([text], return_tensors="pt", return_offsets_mapping=True)
        (offsets,) = read.pop("offset_mapping")
        owners, start = torch.zeros(len(phrases), len(offsets), dtype=torch.bool), 0
        for number, phrase in enumerate(clean):
            end = start + len(phrase)
            owners[number] = (offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 1] > offsets[:, 0])
            start = end + len(". ")
        return read, owners


def load(folder: Path, placement: Placement) -> GroundingDino:
    """The detector in a folder."""
    model = load_pretrained(import_class(CLASSES[read_model_type(folder)]), folder, placement)
    return GroundingDino(model, load_tokenizer(folder))
