"""Grounding DINO, MM-Grounding-DINO and LLMDet: detectors that read all phrases as one text.

Liu et al. 2023, "Grounding DINO"; Zhao et al. 2024, "MM-Grounding-DINO"; Fu et al. 2025, "LLMDet".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backend.engines.pretrained import import_class, load_pretrained, read_model_type
from backend.engines.sam.detecting import Detector, boxes_of, fit, inside, load_tokenizer, network_input, surest
from backend.engines.sam.text_grounding import Boxes
from backend.engines.sam.transforms import IMAGENET_MEAN, IMAGENET_STD
from backend.values.placement import Placement
from prompts.geometry import Size
from prompts.retreat import retreating

THRESHOLD = 0.25
_ENDS = 2
"""Tokens that begin and end every text."""
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
        pixels = network_input(tensors, fit(size, self._shortest, self._longest), self.device, (IMAGENET_MEAN, IMAGENET_STD))
        return inside(surest([self._look(pixels, size, text) for text in self._texts(phrases)]), size)

    def _look(self, pixels: Tensor, size: Size, phrases: Sequence[str]) -> Boxes:
        """The boxes of phrases that fit into one text."""
        text, owners = self._tokens(phrases)
        found = self._model(pixel_values=pixels, **{name: tensor.to(self.device) for name, tensor in text.items()})
        tokens = found.logits[0].sigmoid()[:, : owners.shape[1]]
        scores = torch.stack([tokens.masked_fill(~owner.to(tokens.device), 0).amax(dim=1) for owner in owners], dim=1)
        return boxes_of(found.pred_boxes[0], scores, phrases, THRESHOLD, (size.width, size.height))

    def _texts(self, phrases: Sequence[str]) -> list[list[str]]:
        """The phrases in as many texts as it takes: the network reads only so many tokens at once."""
        room = int(self._model.config.max_text_len) - _ENDS
        texts: list[list[str]] = [[]]
        left = room
        for phrase in phrases:
            length = len(self._tokenizer(f"{_plain(phrase)}.")["input_ids"]) - _ENDS
            if length > left and texts[-1]:
                texts.append([])
                left = room
            texts[-1].append(phrase)
            left -= length
        return texts

    def _tokens(self, phrases: Sequence[str]) -> tuple[Mapping[str, Tensor], Tensor]:
        """The text "a cat. a dog." as tokens, and which of them belong to each phrase, ``(P, T)`` bool."""
        clean = [_plain(phrase) for phrase in phrases]
        text, most = "".join(f"{phrase}. " for phrase in clean).strip(), int(self._model.config.max_text_len)
        read = self._tokenizer([text], return_tensors="pt", return_offsets_mapping=True, truncation=True, max_length=most)
        (offsets,) = read.pop("offset_mapping")
        owners, start = torch.zeros(len(phrases), len(offsets), dtype=torch.bool), 0
        for number, phrase in enumerate(clean):
            end = start + len(phrase)
            owners[number] = (offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 1] > offsets[:, 0])
            start = end + len(". ")
        return read, owners


def _plain(phrase: str) -> str:
    """A phrase as it stands in a text, whose full stops divide phrases."""
    return phrase.lower().replace(".", " ").strip()


def load(folder: Path, placement: Placement) -> GroundingDino:
    """The detector in a folder."""
    model = load_pretrained(import_class(CLASSES[read_model_type(folder)]), folder, placement)
    return GroundingDino(model, load_tokenizer(folder))
