"""OWLv2: a detector that compares the boxes of an image with each phrase by itself.

Minderer et al. 2023, "Scaling Open-Vocabulary Object Detection".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backend.engines.pretrained import import_class, load_pretrained
from backend.engines.sam.detecting import Detector, boxes_of, inside, load_tokenizer
from backend.engines.sam.text_grounding import Boxes
from backend.engines.sam.transforms import resize_image
from backend.values.placement import Placement
from prompts.geometry import Size
from prompts.retreat import retreating

THRESHOLD = 0.1
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
GREY = 0.5


class Owlv2(Detector):
    """The detector (see Grounder); images are padded with grey to a square, to which its boxes are relative."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self._side = int(model.config.vision_config.image_size)

    @retreating
    @torch.inference_mode()
    def detect(self, tensors: Mapping[str, Tensor], size: Size, phrases: Sequence[str]) -> Boxes:
        if not phrases:
            return boxes_of(torch.zeros(0, 4), torch.zeros(0, 1), phrases, THRESHOLD, (1, 1))
        length = self._model.config.text_config.max_position_embeddings
        read = self._tokenizer(list(phrases), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        found = self._model(
            pixel_values=self._pixels(tensors),
            input_ids=read["input_ids"].to(self.device),
            attention_mask=read["attention_mask"].to(self.device),
        )
        longer = float(max(size.height, size.width))
        return inside(boxes_of(found.pred_boxes[0], found.logits[0].sigmoid(), phrases, THRESHOLD, (longer, longer)), size)

    def _pixels(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The input ``(1, 3, side, side)``."""
        image = tensors["pixels"].numpy()
        longer = max(image.shape[:2])
        covered = Size(*(max(round(side * self._side / longer), 1) for side in image.shape[:2]))
        pixels = resize_image(image, covered, self.device) / 255
        padding = (0, self._side - covered.width, 0, self._side - covered.height)
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, STD))
        return ((functional.pad(pixels, padding, value=GREY) - mean) / std)[None]


def load(folder: Path, placement: Placement) -> Owlv2:
    """The detector in a folder."""
    return Owlv2(load_pretrained(import_class("Owlv2ForObjectDetection"), folder, placement), load_tokenizer(folder))
