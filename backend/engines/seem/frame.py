"""How an image lies in the network's input: resized, then padded at the right and the bottom; and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image as pillow
from torch import Tensor
from torch.nn import functional

from backend.engines.seem.network import normalise
from prompts.geometry import BoolArray, FloatArray, Size, size_of
from prompts.kinds import Image

Enlargement = Literal["bilinear", "bicubic"]
CLICK_REACH = 1
"""A click is a square of 3 x 3 pixels of the network's input, as in training."""


@dataclass(frozen=True, slots=True)
class InputSize:
    """The input that a network expects: the short side in pixels, at most this long a long side, and what sides divide by."""

    short: int
    longest: int
    divisor: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One image's place in the network's input: its own ``size``, its ``content`` after resizing, and the ``padded`` whole."""

    size: Size
    content: Size
    padded: Size

    @classmethod
    def of(cls, size: Size, limits: InputSize) -> Frame:
        """The frame of an image of this size."""
        short, long = sorted((size.height, size.width))
        scale = min(limits.short / short, limits.longest / long)
        content = Size(max(1, round(size.height * scale)), max(1, round(size.width * scale)))
        padded = Size(*(-(-side // limits.divisor) * limits.divisor for side in (content.height, content.width)))
        return cls(size, content, padded)

    def prepare(self, image: Image) -> Tensor:
        """An image ``(H, W, 3)`` as the network's input ``(1, 3, padded height, padded width)``."""
        resized = pillow.fromarray(image).resize((self.content.width, self.content.height), pillow.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]
        return self._pad(normalise(pixels))

    def place(self, mask: BoolArray) -> Tensor:
        """A mask ``(H, W)`` in the input ``(padded height, padded width)`` bool: every input pixel that it touches."""
        whole = torch.tensor(mask, dtype=torch.float32)[None, None]
        touched = functional.adaptive_max_pool2d(whole, (self.content.height, self.content.width))
        return self._pad(touched)[0, 0] > 0

    def place_clicks(self, points: FloatArray) -> Tensor:
        """Clicks ``(N, 2)`` in pixels of the image as a mask of the input, ``(padded height, padded width)`` bool."""
        mask = torch.zeros(self.padded.height, self.padded.width, dtype=torch.bool)
        scale = (self.content.width / self.size.width, self.content.height / self.size.height)
        for x, y in np.floor(points * scale).astype(int).tolist():
            row, column = min(y, self.content.height - 1), min(x, self.content.width - 1)
            above, left = max(row - CLICK_REACH, 0), max(column - CLICK_REACH, 0)
            mask[above : row + CLICK_REACH + 1, left : column + CLICK_REACH + 1] = True
        return mask

    def enlarge(self, logits: Tensor, how: Enlargement = "bilinear") -> Tensor:
        """Mask logits ``(N, h, w)`` over the input, at the image's full size ``(N, H, W)``."""
        full = (self.size.height, self.size.width)
        return functional.interpolate(self.crop(logits)[None], full, mode=how, antialias=how == "bicubic")[0]

    def crop(self, logits: Tensor) -> Tensor:
        """Mask logits ``(N, h, w)`` over the input, at the size of its content, without the padding."""
        padded = functional.interpolate(logits[None], (self.padded.height, self.padded.width), mode="bilinear")
        return padded[0, :, : self.content.height, : self.content.width]

    def spread(self, mask: Tensor) -> BoolArray:
        """A mask ``(h, w)`` bool of the content at the image's full size ``(H, W)``."""
        full = (self.size.height, self.size.width)
        spread: BoolArray = functional.interpolate(mask[None, None].float(), full, mode="bilinear")[0, 0].cpu().numpy() >= 0.5
        return spread

    def content_cells(self, shape: tuple[int, int]) -> tuple[int, int]:
        """How many rows and columns of a map ``(h, w)`` over the input show the image and not its padding."""
        rows = round(self.content.height * shape[0] / self.padded.height)
        columns = round(self.content.width * shape[1] / self.padded.width)
        return max(1, rows), max(1, columns)

    def _pad(self, image: Tensor) -> Tensor:
        right, bottom = self.padded.width - image.shape[-1], self.padded.height - image.shape[-2]
        return functional.pad(image, (0, right, 0, bottom))


def frame_of(image: Image, limits: InputSize) -> Frame:
    """The frame of an image ``(H, W, 3)``."""
    return Frame.of(size_of(image), limits)
