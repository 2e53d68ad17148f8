"""A promptable network and a CLIP whose right answers can be told by eye: equal colours are one thing.

They stand in for SAM and CLIP where the way between words and masks is tested; the networks themselves are tested apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from backend.engines.colour import ColourTextEncoder, embed_colours
from backend.engines.sam.transforms import FramedPrompts, MaskCandidates, PadFrame, SquashFrame
from prompts.kinds import Image

SIDE = 128
LOW = 64


class ColourNetwork:
    """The connected cells that have the colour under the points, or in the middle of the box, less those under negative ones.

    Its three candidates for one click are the single cell under it, the whole thing, and everything. It believes in all objects
    as much as ``presence``, a logit, says.
    """

    def __init__(self, frame: SquashFrame | PadFrame | None = None, presence: float = torch.inf) -> None:
        self.presence = presence
        self.frame = frame or SquashFrame(SIDE, (0, 0, 0), (1, 1, 1))
        self.low_res_side = LOW
        self.device = torch.device("cpu")
        self.moved_to: list[torch.device] = []
        self.calls: list[int] = []

    def to(self, device: torch.device) -> None:
        self.moved_to.append(device)

    def encode(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        cells = torch.nn.functional.interpolate(pixels, (LOW, LOW), mode="nearest")
        return [{"cells": image.round()} for image in cells]

    def decode(self, embeddings: Mapping[str, Tensor], prompts: FramedPrompts) -> MaskCandidates:
        count = len(prompts.points) if prompts.points is not None else len(prompts.boxes)  # type: ignore[arg-type]
        self.calls.append(count)
        rows = [self._decode(embeddings["cells"], prompts, row) for row in range(count)]
        predicted = torch.tensor([[0.5, 0.95, 0.4]] if prompts.multimask_output else [[0.95]]).expand(count, -1)
        return MaskCandidates(torch.stack(rows), predicted, torch.full((count,), self.presence))

    def _decode(self, cells: Tensor, prompts: FramedPrompts, row: int) -> Tensor:
        thing = np.zeros((LOW, LOW), np.bool_)
        if prompts.logits is not None:
            thing |= prompts.logits[0].numpy() > 0
        for x, y, sign in self._seeds(prompts, row):
            part = _connected(cells, x, y)
            thing = thing | part if sign else thing & ~part
        masks = [thing]
        if prompts.multimask_output:
            cell = np.zeros_like(thing)
            x, y, _ = self._seeds(prompts, row)[0]
            cell[y, x] = True
            masks = [cell, thing, np.ones_like(thing)]
        return torch.from_numpy(np.where(np.stack(masks), 8.0, -8.0).astype(np.float32))

    def _seeds(self, prompts: FramedPrompts, row: int) -> list[tuple[int, int, bool]]:
        scale = LOW / SIDE
        seeds: list[tuple[float, float, bool]] = []
        if prompts.points is not None and prompts.labels is not None:
            signs = prompts.labels[row].tolist()
            seeds += [(x, y, sign == 1) for (x, y), sign in zip(prompts.points[row].tolist(), signs, strict=True)]
        elif prompts.boxes is not None:
            x0, y0, x1, y1 = prompts.boxes[row].tolist()
            seeds.append(((x0 + x1) / 2, (y0 + y1) / 2, True))
        return [(min(int(x * scale), LOW - 1), min(int(y * scale), LOW - 1), sign) for x, y, sign in seeds]


def _connected(cells: Tensor, x: int, y: int) -> np.ndarray:
    same = (cells - cells[:, y : y + 1, x : x + 1]).abs().amax(dim=0) < 0.1
    _, numbered = cv2.connectedComponents(same.numpy().astype(np.uint8), connectivity=4)
    connected: np.ndarray = numbered == numbered[y, x]
    return connected


class ColourClip:
    """Phrases, patches and crops as colours; a phrase without a colour is white, like the ground of the pictures."""

    logit_scale = 100.0
    device = torch.device("cpu")

    def encode_text(self, phrases: Sequence[str]) -> Tensor:
        found = ColourTextEncoder().encode_text(phrases)
        white = embed_colours(torch.ones(1, 3))
        return torch.where(found.norm(dim=-1, keepdim=True) > 0, found, white)

    def encode_patches(self, image: Image) -> Tensor:
        cells = cv2.resize(image, (32, 32), interpolation=cv2.INTER_NEAREST)
        return embed_colours(torch.from_numpy(cells.astype(np.float32) / 255)).permute(2, 0, 1)

    def encode_crops(self, crops: Sequence[Image]) -> Tensor:
        pixels = [crop.reshape(-1, 3).astype(np.float32) / 255 for crop in crops]
        strongest = [some[(some.max(axis=1) - some.min(axis=1)).argmax()] for some in pixels]
        return embed_colours(torch.from_numpy(np.stack(strongest)))
