"""Detectors that take words: OmDet-Turbo, OWLv2 and Grounding DINO, each behind the same call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backend.engines.catalogue import Placement
from backend.engines.device import config_argument, import_class, load_pretrained, read_model_type
from backend.engines.sam.text_grounding import Boxes, Grounder, non_maximum_suppression
from backend.engines.sam.transforms import IMAGENET_MEAN, IMAGENET_STD, resize_image
from backend.values.errors import SetupError
from prompts.encoders import with_cpu_fallback
from prompts.geometry import Size

SAME_BOX_IOU = 0.5
MOST_BOXES = 100


class Detector:
    """A network with the tokenizer of its words."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._tokenizer = tokenizer

    @property
    def device(self) -> torch.device:
        device: torch.device = self._model.device
        return device

    def to(self, device: torch.device) -> None:
        """Move all weights."""
        self._model.to(device)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder. Raises SetupError when its files are missing."""
    try:
        return import_class("AutoTokenizer").from_pretrained(folder, local_files_only=True, **config_argument(folder))
    except Exception as error:  # whatever the code of others raises, the folder is what to look at
        raise SetupError(f"the tokenizer in {folder} cannot be loaded: {type(error).__name__}: {error}") from error


def network_input(tensors: Mapping[str, Tensor], size: Size, device: torch.device, colours: tuple[Any, Any]) -> Tensor:
    """The kept copy of the image, resized and normalised by mean and deviation of 0..1: ``(1, 3, h, w)``."""
    pixels = resize_image(tensors["pixels"].numpy(), size, device) / 255
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in colours)
    return ((pixels - mean) / std)[None]


def fit(size: Size, shortest: int, longest: int) -> Size:
    """A size of the same proportions whose shorter side is ``shortest``, if its longer one then is no more than ``longest``:
    the shorter side is rounded, the longer one truncated, as DETR's processors do.
    """
    low, high = sorted((size.height, size.width))
    exact = shortest if high / low * shortest <= longest else longest * low / high
    if round(exact) == low:
        return size
    short, long = max(round(exact), 1), max(int(exact * high / low), 1)
    return Size(short, long) if size.height <= size.width else Size(long, short)


def boxes_of(centred: Tensor, scores: Tensor, phrases: Sequence[str], threshold: float, scale: tuple[float, float]) -> Boxes:
    """Boxes ``(Q, 4)`` as relative centre and sides, and scores ``(Q, P)`` for P phrases, as boxes in pixels.

    Every box goes to its best phrase; below the threshold it is dropped, as is one that overlaps a better one of its phrase.
    The surest hundred come, the surest first. ``scale`` is the width and height in pixels of what the boxes are relative to.
    """
    best, which = scores.float().cpu().max(dim=1)
    surest_first = best.argsort(descending=True, stable=True)
    chosen = surest_first[best[surest_first] > threshold][: MOST_BOXES * 4]
    middle, half = centred.float().cpu()[chosen, :2].numpy(), centred.float().cpu()[chosen, 2:].numpy() / 2
    corners = np.concatenate([middle - half, middle + half], axis=1).astype(np.float64) * (*scale, *scale)
    strength, owner = best[chosen].double().numpy(), which[chosen].numpy()
    kept: list[int] = []
    for number in range(len(phrases)):
        mine = np.flatnonzero(owner == number)
        kept += mine[non_maximum_suppression(corners[mine], strength[mine].tolist(), SAME_BOX_IOU)].tolist()
    kept = sorted(kept)[:MOST_BOXES]
    return Boxes(corners[kept], strength[kept], tuple(phrases[k] for k in owner[kept].tolist()))


def surest(parts: Sequence[Boxes]) -> Boxes:
    """The boxes of several looks at one image together: the surest hundred, the surest first."""
    phrases = [phrase for part in parts for phrase in part.phrases]
    corners, scores = np.concatenate([part.xyxy for part in parts]), np.concatenate([part.scores for part in parts])
    order = np.argsort(-scores, kind="stable")[:MOST_BOXES]
    return Boxes(corners[order], scores[order], tuple(phrases[k] for k in order.tolist()))


def inside(boxes: Boxes, size: Size) -> Boxes:
    """The boxes cut to the image; those that lie outside are dropped."""
    low, high = np.zeros(4), np.array([size.width, size.height] * 2, np.float64)
    cut = np.clip(boxes.xyxy, low, high)
    kept = np.flatnonzero((cut[:, 2] - cut[:, 0] >= 1) & (cut[:, 3] - cut[:, 1] >= 1))
    return Boxes(cut[kept], boxes.scores[kept], tuple(boxes.phrases[k] for k in kept.tolist()))


OMDET_THRESHOLD = 0.3
LENGTH = 77


class OmDet(Detector):
    """The detector (see Grounder); images are squashed to a square."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self._side = int(model.config.image_size)

    @with_cpu_fallback
    @torch.inference_mode()
    def detect(self, tensors: Mapping[str, Tensor], size: Size, phrases: Sequence[str]) -> Boxes:
        if not phrases:
            return boxes_of(torch.zeros(0, 4), torch.zeros(0, 1), phrases, OMDET_THRESHOLD, (1, 1))
        device = self.device
        found = self._model(
            pixel_values=network_input(tensors, Size(self._side, self._side), device, (IMAGENET_MEAN, IMAGENET_STD)),
            **self._tokens("classes", phrases),
            **self._tokens("tasks", [f"Detect {', '.join(phrases)}."]),
            classes_structure=torch.tensor([len(phrases)], device=device),
        )
        scores = found.decoder_class_logits[0, :, : len(phrases)].sigmoid()
        return inside(
            boxes_of(found.decoder_coord_logits[0], scores, phrases, OMDET_THRESHOLD, (size.width, size.height)), size
        )

    def _tokens(self, of: str, texts: Sequence[str]) -> dict[str, Tensor]:
        read = self._tokenizer(list(texts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
        return {f"{of}_{name}": read[name].to(self.device) for name in ("input_ids", "attention_mask")}


def load_omdet(folder: Path, placement: Placement) -> OmDet:
    """The detector in a folder."""
    return OmDet(load_pretrained(import_class("OmDetTurboForObjectDetection"), folder, placement), load_tokenizer(folder))


OWLV2_THRESHOLD = 0.1
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
GREY = 0.5


class Owlv2(Detector):
    """The detector (see Grounder); images are padded with grey to a square, to which its boxes are relative."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(model, tokenizer)
        self._side = int(model.config.vision_config.image_size)

    @with_cpu_fallback
    @torch.inference_mode()
    def detect(self, tensors: Mapping[str, Tensor], size: Size, phrases: Sequence[str]) -> Boxes:
        if not phrases:
            return boxes_of(torch.zeros(0, 4), torch.zeros(0, 1), phrases, OWLV2_THRESHOLD, (1, 1))
        length = self._model.config.text_config.max_position_embeddings
        read = self._tokenizer(list(phrases), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        found = self._model(
            pixel_values=self._pixels(tensors),
            input_ids=read["input_ids"].to(self.device),
            attention_mask=read["attention_mask"].to(self.device),
        )
        longer = float(max(size.height, size.width))
        return inside(
            boxes_of(found.pred_boxes[0], found.logits[0].sigmoid(), phrases, OWLV2_THRESHOLD, (longer, longer)), size
        )

    def _pixels(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The input ``(1, 3, side, side)``."""
        image = tensors["pixels"].numpy()
        longer = max(image.shape[:2])
        covered = Size(*(max(round(side * self._side / longer), 1) for side in image.shape[:2]))
        pixels = resize_image(image, covered, self.device) / 255
        padding = (0, self._side - covered.width, 0, self._side - covered.height)
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, STD))
        return ((functional.pad(pixels, padding, value=GREY) - mean) / std)[None]


def load_owlv2(folder: Path, placement: Placement) -> Owlv2:
    """The detector in a folder."""
    return Owlv2(load_pretrained(import_class("Owlv2ForObjectDetection"), folder, placement), load_tokenizer(folder))


GROUNDING_DINO_THRESHOLD = 0.25
_ENDS = 2
"""Tokens that begin and end every text."""
CLASSES = {"grounding-dino": "GroundingDinoForObjectDetection", "mm-grounding-dino": "MMGroundingDinoForObjectDetection"}


class GroundingDino(Detector):
    """The detector (see Grounder); images keep their proportions."""

    def __init__(self, model: Any, tokenizer: Any, shortest: int = 800, longest: int = 1333) -> None:
        super().__init__(model, tokenizer)
        self._shortest, self._longest = shortest, longest

    @with_cpu_fallback
    @torch.inference_mode()
    def detect(self, tensors: Mapping[str, Tensor], size: Size, phrases: Sequence[str]) -> Boxes:
        if not phrases:
            return boxes_of(torch.zeros(0, 4), torch.zeros(0, 1), phrases, GROUNDING_DINO_THRESHOLD, (1, 1))
        pixels = network_input(tensors, fit(size, self._shortest, self._longest), self.device, (IMAGENET_MEAN, IMAGENET_STD))
        return inside(surest([self._look(pixels, size, text) for text in self._texts(phrases)]), size)

    def _look(self, pixels: Tensor, size: Size, phrases: Sequence[str]) -> Boxes:
        """The boxes of phrases that fit into one text."""
        text, owners = self._tokens(phrases)
        found = self._model(pixel_values=pixels, **{name: tensor.to(self.device) for name, tensor in text.items()})
        tokens = found.logits[0].sigmoid()[:, : owners.shape[1]]
        scores = torch.stack([tokens.masked_fill(~owner.to(tokens.device), 0).amax(dim=1) for owner in owners], dim=1)
        return boxes_of(found.pred_boxes[0], scores, phrases, GROUNDING_DINO_THRESHOLD, (size.width, size.height))

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


def load_grounding_dino(folder: Path, placement: Placement) -> GroundingDino:
    """The detector in a folder."""
    model = load_pretrained(import_class(CLASSES[read_model_type(folder)]), folder, placement)
    return GroundingDino(model, load_tokenizer(folder))


DETECTORS: Mapping[str, Callable[[Path, Placement], Grounder]] = {
    "omdet-turbo": load_omdet,
    "grounding-dino": load_grounding_dino,
    "mm-grounding-dino": load_grounding_dino,
    "owlv2": load_owlv2,
}
"""By the ``model_type`` of a folder's config.json; LLMDet is an MM-Grounding-DINO."""


def load_detector(folder: Path, placement: Placement) -> Grounder:
    """The detector in a folder. Raises SetupError when there is none, or one of an unknown family."""
    model_type = read_model_type(folder)
    if model_type not in DETECTORS:
        raise SetupError(f"{folder} holds a {model_type!r} model; known detectors are {', '.join(DETECTORS)}")
    return DETECTORS[model_type](folder, placement)
