"""Views of an image at one object, cut out at the decoder's size, and the masks that come back from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from backend.engines.device import has_bfloat16
from backend.engines.embedded import network
from backend.engines.embedded.network import VOTE_SIDE, ViewDecoder, factor_to
from backend.values.features import ImageFeatures
from backend.values.masks import Masks, MaskSet, RunLengths
from prompts.geometry import BoolArray, Size, mask_box, size_of
from prompts.kinds import Image, MaskPrompt, PolygonPrompt, PromptSet, ScribblePrompt

SIDE, CLOSE_SIDE = 96, 192
"""Pixels of a view: whatever the window covers, the mask decoder sees it at the first size, the backbone at the second."""


@dataclass(frozen=True, slots=True)
class Window:
    """A square of ``length`` pixels whose top-left corner is pixel ``(x, y)``; it may reach beyond the image."""

    x: int
    y: int
    length: int

    def to_view(self, points: NDArray[np.float64], side: int = SIDE) -> NDArray[np.float64]:
        """Image points ``(N, 2)`` as points of a view of ``side`` pixels."""
        return (np.asarray(points, np.float64).reshape(-1, 2) - (self.x, self.y)) * (side / self.length)

    def inside(self, size: Size) -> tuple[int, int, int, int]:
        """The part of the window that lies on the image, ``(x0, y0, x1, y1)``."""
        return max(self.x, 0), max(self.y, 0), min(self.x + self.length, size.width), min(self.y + self.length, size.height)


def whole(size: Size) -> Window:
    """The smallest window that holds an image."""
    length = max(size.height, size.width)
    return Window((size.width - length) // 2, (size.height - length) // 2, length)


def around(box: tuple[float, float, float, float], margin: float, least: int = 24) -> Window:
    """The window around a box whose length is the box's long side times ``margin``, at least ``least`` pixels."""
    x0, y0, x1, y1 = box
    length = max(round(max(x1 - x0, y1 - y0) * margin), least)
    return Window(round((x0 + x1 - length) / 2), round((y0 + y1 - length) / 2), length)


def near(xy: tuple[float, float], length: int, size: Size) -> Window:
    """A window of a given length with a point in its middle, moved back onto the image where it would leave it."""
    place = []
    for middle, extent in zip(xy, (size.width, size.height), strict=True):
        start = round(middle - length / 2)
        place.append((extent - length) // 2 if length >= extent else min(max(start, 0), extent - length))
    return Window(place[0], place[1], length)


def look(array: NDArray[np.generic], window: Window, side: int = SIDE, outside: float = 118) -> NDArray[np.generic]:
    """The window's part of ``array (H, W[, C])`` at ``side`` pixels, ``outside`` where it leaves the array.

    Whole numbers stay whole; shrinking averages areas, growing interpolates.
    """
    x0, y0, x1, y1 = window.inside(Size(array.shape[0], array.shape[1]))
    canvas = np.full((window.length, window.length, *array.shape[2:]), outside, array.dtype)
    if x1 > x0 and y1 > y0:
        canvas[y0 - window.y : y1 - window.y, x0 - window.x : x1 - window.x] = array[y0:y1, x0:x1]
    method = cv2.INTER_AREA if window.length > side else cv2.INTER_LINEAR
    return cv2.resize(canvas, (side, side), interpolation=method)


def put_back(view: NDArray[np.float32], window: Window, size: Size, outside: float) -> NDArray[np.float32]:
    """A view ``(S, S)`` as a map ``(H, W)`` of the whole image, ``outside`` where the window did not look."""
    result = np.full((size.height, size.width), outside, np.float32)
    x0, y0, x1, y1 = window.inside(size)
    if x1 > x0 and y1 > y0:
        grown = cv2.resize(view, (window.length, window.length), interpolation=cv2.INTER_LINEAR)
        result[y0:y1, x0:x1] = grown[y0 - window.y : y1 - window.y, x0 - window.x : x1 - window.x]
    return result


Map = NDArray[np.float32]
_CLICK = 1.5
"""Standard deviation of a click in pixels of a prompt map."""


def click_map(points: NDArray[np.float64]) -> Map:
    """Clicks ``(N, 2)`` in view pixels as one map ``(48, 48)``."""
    places = np.arange(network.MAP_SIDE) + 0.5
    scaled = points.reshape(-1, 2) * (network.MAP_SIDE / SIDE)
    across = np.exp(-((places - scaled[:, :1]) ** 2) / (2 * _CLICK**2))
    down = np.exp(-((places - scaled[:, 1:]) ** 2) / (2 * _CLICK**2))
    return np.asarray((down[:, :, None] * across[:, None, :]).max(axis=0, initial=0), np.float32)


def box_map(xyxy: NDArray[np.float64]) -> Map:
    """A box in view pixels as the share of every cell ``(48, 48)`` that it covers."""
    cell = SIDE / network.MAP_SIDE
    starts = np.arange(network.MAP_SIDE) * cell
    across = np.clip(np.minimum(starts + cell, xyxy[2]) - np.maximum(starts, xyxy[0]), 0, cell) / cell
    down = np.clip(np.minimum(starts + cell, xyxy[3]) - np.maximum(starts, xyxy[1]), 0, cell) / cell
    return np.asarray(down[:, None] * across[None, :], np.float32)


def area_map(mask: BoolArray, window: Window) -> Map:
    """The part of a mask ``(H, W)`` under a window as a map ``(48, 48)``."""
    return np.asarray(look(mask.astype(np.float32), window, network.MAP_SIDE, outside=0), np.float32)


def prompt_maps(prompts: PromptSet, shapes: dict[str, BoolArray], window: Window) -> Map:
    """The drawn prompts of one object as maps ``(6, 48, 48)`` of a window.

    ``shapes`` holds what covers an area, rendered once for all windows; see ``drawn_shapes``.
    """
    maps = np.zeros((network.MAPS, network.MAP_SIDE, network.MAP_SIDE), np.float32)
    for channel, label in ((network.POSITIVE, 1), (network.NEGATIVE, 0)):
        points = prompts.point_coords[prompts.point_labels == label]
        if len(points):
            maps[channel] = click_map(window.to_view(points))
    for name, channel in (
        ("positive", network.POSITIVE),
        ("negative", network.NEGATIVE),
        ("rough", network.ROUGH),
    ):
        if name in shapes:
            maps[channel] = np.maximum(maps[channel], area_map(shapes[name], window))
    for box in prompts.boxes:
        maps[network.BOX] = np.maximum(maps[network.BOX], box_map(window.to_view(box.reshape(2, 2)).ravel()))
    return maps


def drawn_shapes(prompts: PromptSet, size: Size) -> dict[str, BoolArray]:
    """The areas ``(H, W)`` that strokes of either sign cover, and the rough outline from polygons and masks."""
    shapes: dict[str, BoolArray] = {}
    for stroke in prompts.of(ScribblePrompt):
        name = "positive" if stroke.positive else "negative"
        shapes[name] = shapes[name] | stroke.mask if name in shapes else stroke.mask
    outlines = PromptSet((*prompts.of(PolygonPrompt), *prompts.of(MaskPrompt)))
    if len(outlines):
        shapes["rough"] = outlines.region(size)
    return shapes


FAR = -12.0
"""The logit of places that no window looked at."""
CONTEXT, REGIONS, CLASSED = "context", "regions", "classed"
"""What the features of an image hold beside its grid: the backbone's features, the map that regions are named from, and what
the classifier sees.
"""
MEMORY_SIDE = 256
"""Long side of the low-resolution logits, in cells; more for a panorama."""


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """The image as the decoder keeps it: its features, and ``pixels (H, W, 3)`` uint8, at most 1024 on the long side."""

    features: ImageFeatures
    pixels: Image

    @classmethod
    def of(cls, features: ImageFeatures) -> Canvas:
        return cls(features, features.tensors["pixels"].cpu().numpy())

    @property
    def size(self) -> Size:
        return size_of(self.pixels)

    @property
    def scale(self) -> tuple[float, float]:
        """Canvas pixels for one pixel of the image, across and down: the sides are rounded to whole pixels each by itself."""
        return self.size.width / self.features.size.width, self.size.height / self.features.size.height


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a window showed of a canvas: logits ``(S, S)``, and the one that its outside has. A hundred of them take less than
    ten maps of the canvas.
    """

    view: NDArray[np.float32]
    window: Window
    canvas: Size
    outside: float = FAR


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One mask: its logits, ``(H, W)`` on the canvas or as a window showed them, and its expected IoU in 0..1."""

    found: NDArray[np.float32] | Seen
    quality: float

    @property
    def logits(self) -> NDArray[np.float32]:
        """``(H, W)`` on the canvas, made anew each time of what a window showed."""
        found = self.found
        return put_back(found.view, found.window, found.canvas, found.outside) if isinstance(found, Seen) else found

    def box(self) -> tuple[int, int, int, int] | None:
        """The box around the mask; None when it is empty."""
        inside: BoolArray = self.logits > 0
        return mask_box(inside)


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A mask decoder, and the backbone through which it looks at each view itself."""

    decoder: ViewDecoder
    backbone: Callable[[Tensor], Sequence[Tensor]]

    def read(self, views: Sequence[Image], maps: NDArray[np.float32], grid: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """The logits and the judged quality of views ``(192, 192, 3)``; see ViewDecoder."""
        device = next(self.decoder.parameters()).device
        images = as_images(views, device)
        close = looked_at(self.backbone, images)
        logits, quality = self.decoder(shrunk(images), torch.from_numpy(maps).to(device), grid, context, close)
        return logits.float(), quality.float()


def as_images(views: Sequence[Image], device: torch.device) -> Tensor:
    """Views ``(S, S, 3)`` as one tensor ``(N, 3, S, S)`` in 0..255."""
    images = torch.from_numpy(np.stack(views)).to(device).permute(0, 3, 1, 2).float()
    return images.contiguous(memory_format=torch.channels_last)


def shrunk(images: Tensor) -> Tensor:
    """Images ``(N, 3, S, S)`` in 0..255 as a decoder of views reads them, of 96 pixels and in 0..1."""
    return F.avg_pool2d(images, images.shape[-1] // SIDE) / 255


def looked_at(backbone: Callable[[Tensor], Sequence[Tensor]], images: Tensor) -> list[Tensor]:
    """What the backbone makes of images ``(N, 3, S, S)`` in 0..255 that a decoder of views reads."""
    with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=has_bfloat16(images.device)):
        return [each.float() for each in backbone(images)]


def decode_views(reader: Reader, canvas: Canvas, windows: Sequence[Window], maps: NDArray[np.float32]) -> list[Answer]:
    """One answer for each window with its prompt maps ``(N, 6, 48, 48)``."""
    views = [np.asarray(look(canvas.pixels, window, CLOSE_SIDE), np.uint8) for window in windows]
    seen = (canvas.features.grid, canvas.features.tensors[CONTEXT])
    grid, context = (under(each, canvas.size, windows) for each in seen)
    logits, quality = reader.read(views, maps, grid, context)
    judged = torch.sigmoid(quality).tolist()
    return [
        Answer(Seen(view, window, canvas.size), share)
        for view, window, share in zip(logits.cpu().numpy(), windows, judged, strict=True)
    ]


def under(grid: Tensor, size: Size, windows: Sequence[Window], side: int = VOTE_SIDE) -> Tensor:
    """The part of a map ``(D, h, w)`` of an image that lies under each window, ``(N, D, side, side)``; zero outside."""
    steps = (torch.arange(side, device=grid.device, dtype=torch.float32) + 0.5) / side
    places = []
    for window in windows:
        across = (window.x + steps * window.length) / size.width * 2 - 1
        down = (window.y + steps * window.length) / size.height * 2 - 1
        places.append(torch.stack([across.expand(side, side), down[:, None].expand(side, side)], dim=2))
    return F.grid_sample(grid.float().expand(len(windows), -1, -1, -1), torch.stack(places), align_corners=False)


def to_masks(answers: Iterable[Answer], labels: Sequence[str | None], canvas: Canvas) -> MaskSet:
    """Answers as a mask set at the image's full size, one after the other; those without a single pixel are left out."""
    size, wide = canvas.features.size, (canvas.features.size.width, canvas.features.size.height)
    runs, rows, scores, low, shown = [], [], [], [], []
    for row, answer in enumerate(answers):
        logits = answer.logits
        full = RunLengths.of(np.asarray(cv2.resize(logits, wide, interpolation=cv2.INTER_LINEAR)) > 0)
        if full.area:
            runs.append(full)
            rows.append(row)
            scores.append(answer.quality)
            low.append(_low_resolution(logits))
            shown.append(_embedding(logits, canvas.features))
    if not runs:
        return MaskSet.empty(size)
    return MaskSet(
        masks=Masks(size, tuple(runs)),
        scores=np.array(scores, np.float32),
        labels=tuple(labels[row] for row in rows),
        low_res_logits=np.stack(low),
        embeddings=np.stack(shown),
    )


def memory_on(canvas: Canvas, low_res_logits: NDArray[np.float16]) -> NDArray[np.float32]:
    """Remembered logits ``(h, w)`` at the canvas's size."""
    wide = (canvas.size.width, canvas.size.height)
    return np.asarray(cv2.resize(low_res_logits.astype(np.float32), wide, interpolation=cv2.INTER_LINEAR), np.float32)


def chance_of(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logistic function."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))), np.float32)


def _low_resolution(logits: NDArray[np.float32]) -> NDArray[np.float16]:
    height, width = logits.shape
    factor = factor_to(MEMORY_SIDE, logits.shape)
    cells = (max(1, round(width * factor)), max(1, round(height * factor)))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(logits, cells, interpolation=method), np.float16)


def _embedding(logits: NDArray[np.float32], features: ImageFeatures) -> NDArray[np.float32]:
    """What a region shows, a unit vector ``(D,)``, from the map that regions are named from."""
    grid = features.tensors.get(REGIONS, features.grid)
    cells = (grid.shape[2], grid.shape[1])
    weight = torch.from_numpy(np.asarray(cv2.resize((logits > 0).astype(np.float32), cells, interpolation=cv2.INTER_AREA)))
    pooled = (grid.float() * (weight.to(grid.device) + 1e-6)).sum(dim=(1, 2))
    return np.asarray(F.normalize(pooled, dim=0).cpu().numpy(), np.float32)


__all__ = ["SIDE", "Answer", "Canvas", "chance_of", "decode_views", "memory_on", "to_masks", "under"]
