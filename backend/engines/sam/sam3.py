"""SAM 3 and SAM 3 LiteText: words and exemplars find all instances of a concept; clicks go to SAM 3's tracker or to SAM 2.1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backend.engines.catalogue import Placement
from backend.engines.device import Chunks, computing, import_class, load_pretrained, resolve
from backend.engines.sam.detectors import load_tokenizer
from backend.engines.sam.geometry import box_of, stability
from backend.engines.sam.references import Likeness
from backend.engines.sam.text_grounding import Grounding, LikeFinder
from backend.engines.sam.transforms import (
    HALF_MEAN,
    HALF_STD,
    FramedPrompts,
    MaskCandidates,
    PromptableNetwork,
    SquashFrame,
    call_arguments,
)
from backend.values.errors import SetupError
from backend.values.features import ImageFeatures
from prompts.encoders import with_cpu_fallback
from prompts.kinds import Image

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


class ConceptDetector:
    """SAM 3's detector, or SAM 3 LiteText's, which reads words with a smaller network: an image is encoded once and then asked
    about concepts.
    """

    def __init__(self, model: Any, tokenizer: Any, dtype: torch.dtype = torch.float32) -> None:
        self.model, self._tokenizer, self._dtype = model, tokenizer, dtype
        self._read = lru_cache(maxsize=1024)(self._read_phrase)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    def to(self, device: torch.device) -> None:
        """Move all weights."""
        self.model.to(device)
        self._read.cache_clear()

    def see(self, pixels: Tensor) -> Any:
        """What the trunk and its neck make of inputs ``(B, 3, side, side)``."""
        with computing(self.device, self._dtype):
            return self.model.vision_encoder(pixels.to(self.device))

    @torch.inference_mode()
    def find(self, embeddings: Mapping[str, Tensor], phrase: str, exemplars: Exemplars | None = None) -> Concepts:
        """Everything on an image that is called by a phrase, or that is like the exemplars on it."""
        text, attended = self._read(phrase)
        boxes = {} if exemplars is None else {"input_boxes": exemplars.boxes, "input_boxes_labels": exemplars.labels}
        with torch.compiler.set_stance("force_eager"):  # torchvision compiles roi_align for minutes where it lacks its own
            found = self.model(
                vision_embeds=self._vision(embeddings),
                text_embeds=text,
                attention_mask=attended,
                **{name: tensor[None].to(self.device) for name, tensor in boxes.items()},
            )
        presence = found.presence_logits[0].sigmoid()
        return Concepts(found.pred_masks[0].float(), found.pred_logits[0].sigmoid() * presence, float(presence))

    def _vision(self, embeddings: Mapping[str, Tensor]) -> Any:
        """An encoded image as the detector takes it: it leaves out the last of its levels, so that one more is named."""
        maps = [embeddings[f"concept{k}"][None].to(self.device) for k in range(_LEVELS)]
        place = self.model.vision_encoder.neck.position_encoding
        places = [place(level.shape, level.device, level.dtype) for level in maps]
        return SimpleNamespace(
            fpn_hidden_states=[*maps, None], fpn_position_encoding=[*places, None], hidden_states=None, attentions=None
        )

    @torch.inference_mode()
    def _read_phrase(self, phrase: str) -> tuple[Any, Tensor]:
        read = self._tokenizer([phrase], return_tensors="pt", padding="max_length", max_length=TEXT_LENGTH, truncation=True)
        ids, attended = read["input_ids"].to(self.device), read["attention_mask"].to(self.device)
        return self.model.get_text_features(input_ids=ids, attention_mask=attended, return_dict=True), attended


def concept_maps(seen: Any) -> dict[str, Tensor]:
    """The maps ``(B, C, h, w)`` by name that a detector's questions are answered from."""
    return {f"concept{k}": level for k, level in enumerate(seen.fpn_hidden_states[:_LEVELS])}


class Sam3Network:
    """A SAM 3 (see PromptableNetwork) that also finds concepts."""

    def __init__(self, detector: Any, tracker: Any, tokenizer: Any, dtype: torch.dtype = torch.float32) -> None:
        tracker.vision_encoder.backbone = detector.vision_encoder.backbone
        self._detector, self._tracker, self._dtype = ConceptDetector(detector, tokenizer, dtype), tracker, dtype
        self.frame = SquashFrame(int(tracker.prompt_encoder.input_image_size), HALF_MEAN, HALF_STD)
        self.low_res_side = int(tracker.prompt_encoder.mask_input_size[0])

    @property
    def device(self) -> torch.device:
        device: torch.device = self._tracker.no_memory_embedding.device
        return device

    def to(self, device: torch.device) -> None:
        self._detector.to(device)
        self._tracker.to(device)

    def lend_encoder(self, video_model: Any) -> None:
        """See VideoNetwork."""
        video_model.vision_encoder = self._tracker.vision_encoder

    def encode(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        seen = self._detector.see(pixels)
        with computing(self.device, self._dtype):
            levels = self._for_clicks(seen.last_hidden_state, pixels)
        maps = concept_maps(seen) | {f"level{k}": level for k, level in enumerate(levels)}
        return [{name: level[image].float() for name, level in maps.items()} for image in range(len(pixels))]

    def decode(self, embeddings: Mapping[str, Tensor], prompts: FramedPrompts) -> MaskCandidates:
        levels = [embeddings[f"level{k}"][None].to(self.device) for k in range(_LEVELS)]
        found = self._tracker(image_embeddings=levels, **call_arguments(prompts))
        return MaskCandidates(found.pred_masks[0], found.iou_scores[0], found.object_score_logits[0, :, 0])

    @with_cpu_fallback
    def find(self, embeddings: Mapping[str, Tensor], phrase: str, exemplars: Exemplars | None = None) -> Concepts:
        """See ConceptDetector."""
        return self._detector.find(embeddings, phrase, exemplars)

    def _for_clicks(self, hidden: Tensor, pixels: Tensor) -> list[Tensor]:
        """The click decoder's three maps of the trunk's tokens ``(B, N, C)``, the finer two as its mask decoder uses them."""
        encoder, decoder = self._tracker.vision_encoder, self._tracker.mask_decoder
        patch = encoder.config.backbone_config.patch_size
        height, width = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        maps, _ = encoder.neck(hidden.reshape(len(pixels), height, width, -1).permute(0, 3, 1, 2))
        nothing_remembered = self._tracker.no_memory_embedding.reshape(1, -1, 1, 1)
        return [decoder.conv_s0(maps[0]), decoder.conv_s1(maps[1]), maps[2] + nothing_remembered]


def exemplars_of(boxes: Sequence[Sequence[float]], labels: Sequence[int], size: tuple[int, int]) -> Exemplars:
    """Boxes ``(x0, y0, x1, y1)`` in pixels of an image of a height and width, as exemplars."""
    corners = torch.tensor(boxes, dtype=torch.float32) / torch.tensor([size[1], size[0], size[1], size[0]])
    middle, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return Exemplars(torch.cat([middle, sides], dim=1), torch.tensor(labels))


def load_sam3(folder: Path, model_type: str, placement: Placement) -> Sam3Network:
    """The network in a folder."""
    detector, tracker = (load_pretrained(import_class(name), folder, placement) for name in ("Sam3Model", "Sam3TrackerModel"))
    return Sam3Network(detector, tracker, load_tokenizer(folder), resolve(placement)[1])


THRESHOLD = 0.3
LEAST_PRESENCE = 0.3
"""Below this the concept is not on the image, whatever single masks score."""
MOST_FOUND = 100
CONTEXT = 0.5
"""How much of its own sides a reference's box is widened by on each side."""


class ConceptFinder:
    """Finds phrases with SAM 3's detector (see Finder)."""

    def __init__(self, network: Sam3Network) -> None:
        self._network = network

    def find(self, features: ImageFeatures, phrases: Sequence[str]) -> list[Grounding]:
        return [
            finding
            for phrase in phrases
            for finding in _findings(self._network.find(features.tensors, phrase), self._network.low_res_side, phrase)
        ]


class LiteTextFinder:
    """Finds phrases with SAM 3 LiteText (see Finder), beside a decoder of SAM 2.1 that answers what is drawn: the published
    checkpoint holds the detector alone. The trunk looks at the copy of the image that is kept, once for a request's phrases.
    """

    def __init__(self, detector: ConceptDetector) -> None:
        self._detector = detector
        vision = detector.model.config.vision_config
        self._frame = SquashFrame(int(vision.image_size), HALF_MEAN, HALF_STD)

    @property
    def device(self) -> torch.device:
        return self._detector.device

    def to(self, device: torch.device) -> None:
        """Move all weights."""
        self._detector.to(device)

    @with_cpu_fallback
    def find(self, features: ImageFeatures, phrases: Sequence[str]) -> list[Grounding]:
        """See Finder."""
        if not phrases:
            return []
        maps = self._see(features.tensors["pixels"].numpy())
        found = ((phrase, self._detector.find(maps, phrase)) for phrase in phrases)
        return [finding for phrase, concepts in found for finding in _findings(concepts, concepts.logits.shape[-1], phrase)]

    @torch.inference_mode()
    def _see(self, image: Image) -> dict[str, Tensor]:
        seen = self._detector.see(self._frame.pixels(image, self.device)[None])
        return {name: level[0].float() for name, level in concept_maps(seen).items()}


def load_lite_text(folder: Path, network: PromptableNetwork, placement: Placement) -> LiteTextFinder:
    """The finder in a folder, whose masks go on in the frame of a click decoder. Raises SetupError for one that pads images."""
    if not isinstance(network.frame, SquashFrame):
        raise SetupError(f"{folder} holds SAM 3 LiteText, which goes with a decoder of SAM 2.1 or EdgeTAM, not with one of SAM")
    model = load_pretrained(import_class("Sam3LiteTextModel"), folder, placement)
    return LiteTextFinder(ConceptDetector(model, load_tokenizer(folder), resolve(placement)[1]))


class ExemplarFinder:
    """Finds the like of reference regions (see LikeFinder).

    Regions of the same image are exemplar boxes. A region of another image is put beside the target on one canvas, whose
    encoding is only worth its while on a GPU; on a CPU it goes to ``otherwise``.
    """

    def __init__(self, network: Sam3Network, otherwise: LikeFinder) -> None:
        self._network = network
        self._chunks = Chunks(network)
        self._otherwise = otherwise

    def find_like(self, features: ImageFeatures, likenesses: Sequence[Likeness], phrases: Sequence[str]) -> list[Grounding]:
        here = [likeness for likeness in likenesses if likeness.features is features]
        there = [likeness for likeness in likenesses if likeness.features is not features]
        phrase = phrases[0] if len(phrases) == 1 else EXEMPLARS_ALONE
        found = self._exemplars(features, here, phrase) if any(one.prompt.positive for one in here) else []
        if self._network.device.type == "cpu":
            return found + self._otherwise.find_like(features, there, phrases)
        wanted = [likeness for likeness in there if likeness.prompt.positive]
        return found + [finding for likeness in wanted for finding in self._on_canvas(features, likeness, phrase)]

    def _encode(self, canvases: Sequence[Image]) -> list[dict[str, Tensor]]:
        network = self._network
        return network.encode(torch.stack([network.frame.pixels(canvas, network.device) for canvas in canvases]))

    def _exemplars(self, features: ImageFeatures, here: Sequence[Likeness], phrase: str) -> list[Grounding]:
        boxes = [box_of(likeness.prompt.mask).tolist() for likeness in here]
        signs = [int(likeness.prompt.positive) for likeness in here]
        exemplars = exemplars_of(boxes, signs, (features.size.height, features.size.width))
        return _findings(self._network.find(features.tensors, phrase, exemplars), self._network.low_res_side, None)

    def _on_canvas(self, features: ImageFeatures, likeness: Likeness, phrase: str) -> list[Grounding]:
        prompt, target = likeness.prompt, features.tensors["pixels"].numpy()
        canvas, box, seam = share_canvas(prompt.image.pixels, box_of(prompt.mask).tolist(), target)
        (embeddings,) = self._chunks.run([canvas], self._encode)
        found = self._network.find(embeddings, phrase, exemplars_of([box], [1], canvas.shape[:2]))
        right = found.logits[:, :, round(seam * found.logits.shape[-1] / canvas.shape[1]) :]
        return _findings(Concepts(right, found.scores, found.presence), self._network.low_res_side, None)


def share_canvas(reference: Image, box: Sequence[float], target: Image) -> tuple[Image, list[float], int]:
    """A canvas with the reference's box and some context on the left, as large as fits into the target's height and width, and
    the target on the right; the box on it; and the column where the target begins.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    across, down = CONTEXT * (x1 - x0), CONTEXT * (y1 - y0)
    left, top = max(int(x0 - across), 0), max(int(y0 - down), 0)
    crop = reference[top : int(y1 + down) + 1, left : int(x1 + across) + 1]
    scale = min(target.shape[0] / crop.shape[0], target.shape[1] / crop.shape[1])
    height, width = (max(round(side * scale), 1) for side in crop.shape[:2])
    canvas = np.zeros((target.shape[0], width + target.shape[1], 3), np.uint8)
    canvas[:height, :width] = cv2.resize(crop, (width, height), interpolation=cv2.INTER_LINEAR)
    canvas[:, width:] = target
    moved = [(x0 - left) * scale, (y0 - top) * scale, (x1 - left) * scale, (y1 - top) * scale]
    return canvas, moved, width


def _findings(found: Concepts, side: int, phrase: str | None) -> list[Grounding]:
    """What is sure enough, the surest first, in the resolution that the click decoder takes for the next round."""
    if found.presence < LEAST_PRESENCE:
        return []
    best = found.scores.sort(descending=True)
    rows = [row for score, row in zip(best.values.tolist(), best.indices.tolist(), strict=True) if score >= THRESHOLD]
    return [
        Grounding(logits, float(stability(logits)), float(found.scores[row]), phrase)
        for row in rows[:MOST_FOUND]
        for logits in [resized(found.logits[row], side)]
    ]


def resized(logits: Tensor, side: int) -> Tensor:
    """Logits ``(h, w)`` of a frame in another resolution ``(side, side)``."""
    if logits.shape == (side, side):
        return logits
    return functional.interpolate(logits[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0]
