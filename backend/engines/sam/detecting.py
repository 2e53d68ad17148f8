"""What the detectors share: a tokenizer from a folder, inputs of a size, and boxes in pixels without doubles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.engines.pretrained import import_class
from backend.engines.sam.everything import non_maximum_suppression
from backend.engines.sam.text_grounding import Boxes
from backend.engines.sam.transforms import resize_image
from backend.values.errors import SetupError
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
        return import_class("AutoTokenizer").from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise SetupError(f"the tokenizer in {folder} cannot be loaded: {error}") from error


def network_input(tensors: Mapping[str, Tensor], size: Size, device: torch.device, colours: tuple[Any, Any]) -> Tensor:
    """The kept copy of the image, resized and normalised by mean and deviation of 0..1: ``(1, 3, h, w)``."""
    pixels = resize_image(tensors["pixels"].numpy(), size, device) / 255
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in colours)
    return ((pixels - mean) / std)[None]


def fit(size: Size, shortest: int, longest: int) -> Size:
    """A size of the same proportions whose shorter side is ``shortest``, if its longer one then is no more than ``longest``."""
    low, high = sorted((size.height, size.width))
    scale = min(shortest / low, longest / high)
    return Size(max(round(size.height * scale), 1), max(round(size.width * scale), 1))


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
