"""SAM 3: how its detector for words and exemplars and its decoder for clicks are loaded, and share one trunk.

Carion et al. 2025, "SAM 3: Segment Anything with Concepts". The image goes through the trunk once; a neck each makes of it what
the detector (Sam3Model) and the click decoder (Sam3TrackerModel) read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from backend.engines.pretrained import computing, import_class, load_pretrained, resolve
from backend.engines.sam.detecting import load_tokenizer
from backend.engines.sam.promptable import FramedPrompts, MaskCandidates, call_arguments
from backend.engines.sam.transforms import HALF_MEAN, HALF_STD, SquashFrame
from backend.values.placement import Placement
from prompts.retreat import retreating

TEXT_LENGTH = 32
EXEMPLARS_ALONE = "visual"
"""The word that stands for "what the exemplar boxes show", as in training."""
_LEVELS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Exemplars:
    """Boxes ``(N, 4)`` as relative centre and sides, and which of them show what is wanted, ``(N,)`` 1 or 0."""

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Concepts:
    """What the detector finds of one concept: mask logits ``(Q, h, w)``, scores ``(Q,)`` in 0..1, and whether the concept is
    there at all, in 0..1.
    """

    logits: Tensor
    scores: Tensor
    presence: float


class Sam3Network:
    """A SAM 3 (see PromptableNetwork) that also finds concepts."""

    def __init__(self, detector: Any, tracker: Any, tokenizer: Any, dtype: torch.dtype = torch.float32) -> None:
        tracker.vision_encoder.backbone = detector.vision_encoder.backbone
        self._detector, self._tracker, self._tokenizer, self._dtype = detector, tracker, tokenizer, dtype
        self.frame = SquashFrame(int(tracker.prompt_encoder.input_image_size), HALF_MEAN, HALF_STD)
        self.low_res_side = int(tracker.prompt_encoder.mask_input_size[0])
        self._read = lru_cache(maxsize=1024)(self._read_phrase)

    @property
    def device(self) -> torch.device:
        device: torch.device = self._tracker.no_memory_embedding.device
        return device

    def to(self, device: torch.device) -> None:
        self._detector.to(device)
        self._tracker.to(device)
        self._read.cache_clear()

    def encode(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        with computing(self.device, self._dtype):
            seen = self._detector.vision_encoder(pixels.to(self.device))
            levels = self._for_clicks(seen.last_hidden_state, pixels)
        maps = {f"concept{k}": level for k, level in enumerate(seen.fpn_hidden_states[:_LEVELS])}
        maps |= {f"level{k}": level for k, level in enumerate(levels)}
        return [{name: level[image].float() for name, level in maps.items()} for image in range(len(pixels))]

    def decode(self, embeddings: Mapping[str, Tensor], prompts: FramedPrompts) -> MaskCandidates:
        levels = [embeddings[f"level{k}"][None].to(self.device) for k in range(_LEVELS)]
        found = self._tracker(image_embeddings=levels, **call_arguments(prompts))
        return MaskCandidates(found.pred_masks[0], found.iou_scores[0], found.object_score_logits[0, :, 0])

    @retreating
    @torch.inference_mode()
    def find(self, embeddings: Mapping[str, Tensor], phrase: str, exemplars: Exemplars | None = None) -> Concepts:
        """Everything on an image that is called by a phrase, or that is like the exemplars on it."""
        text, attended = self._read(phrase)
        boxes = {} if exemplars is None else {"input_boxes": exemplars.boxes, "input_boxes_labels": exemplars.labels}
        with torch.compiler.set_stance("force_eager"):  # torchvision compiles roi_align for minutes where it lacks its own
            found = self._detector(
                vision_embeds=self._vision(embeddings),
                text_embeds=text,
                attention_mask=attended,
                **{name: tensor[None].to(self.device) for name, tensor in boxes.items()},
            )
        presence = found.presence_logits[0].sigmoid()
        return Concepts(found.pred_masks[0].float(), found.pred_logits[0].sigmoid() * presence, float(presence))

    def _for_clicks(self, hidden: Tensor, pixels: Tensor) -> list[Tensor]:
        """The click decoder's three maps of the trunk's tokens ``(B, N, C)``, the finer two as its mask decoder uses them."""
        encoder, decoder = self._tracker.vision_encoder, self._tracker.mask_decoder
        patch = encoder.config.backbone_config.patch_size
        height, width = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        maps, _ = encoder.neck(hidden.reshape(len(pixels), height, width, -1).permute(0, 3, 1, 2))
        nothing_remembered = self._tracker.no_memory_embedding.reshape(1, -1, 1, 1)
        return [decoder.conv_s0(maps[0]), decoder.conv_s1(maps[1]), maps[2] + nothing_remembered]

    def _vision(self, embeddings: Mapping[str, Tensor]) -> Any:
        """An encoded image as the detector takes it: it leaves out the last of its levels, so that one more is named."""
        maps = [embeddings[f"concept{k}"][None].to(self.device) for k in range(_LEVELS)]
        place = self._detector.vision_encoder.neck.position_encoding
        places = [place(level.shape, level.device, level.dtype) for level in maps]
        return SimpleNamespace(
            fpn_hidden_states=[*maps, None], fpn_position_encoding=[*places, None], hidden_states=None, attentions=None
        )

    @torch.inference_mode()
    def _read_phrase(self, phrase: str) -> tuple[Any, Tensor]:
        read = self._tokenizer([phrase], return_tensors="pt", padding="max_length", max_length=TEXT_LENGTH, truncation=True)
        ids, attended = read["input_ids"].to(self.device), read["attention_mask"].to(self.device)
        return self._detector.get_text_features(input_ids=ids, attention_mask=attended, return_dict=True), attended


def exemplars_of(boxes: Sequence[Sequence[float]], labels: Sequence[int], size: tuple[int, int]) -> Exemplars:
    """Boxes ``(x0, y0, x1, y1)`` in pixels of an image of a height and width, as exemplars."""
    corners = torch.tensor(boxes, dtype=torch.float32) / torch.tensor([size[1], size[0], size[1], size[0]])
    middle, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return Exemplars(torch.cat([middle, sides], dim=1), torch.tensor(labels))


def load(folder: Path, model_type: str, placement: Placement) -> Sam3Network:
    """The network in a folder."""
    detector, tracker = (load_pretrained(import_class(name), folder, placement) for name in ("Sam3Model", "Sam3TrackerModel"))
    return Sam3Network(detector, tracker, load_tokenizer(folder), resolve(placement)[1])
