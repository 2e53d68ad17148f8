"""What a network of the SAM family is given and gives: the frame of its input, prompts about objects in it, and candidates.

SAM 2 and later squash the image to a square; SAM keeps its proportions and pads it to one. Nothing else needs to know which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from prompts.geometry import BoolArray, FloatArray, Size, size_of
from prompts.kinds import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF_MEAN = HALF_STD = (0.5, 0.5, 0.5)


class InputFrame(Protocol):
    """The square input of a network, ``side`` pixels wide, and the way into it and back."""

    @property
    def side(self) -> int: ...

    def pixels(self, image: Image, device: torch.device) -> Tensor:
        """The network's input ``(3, side, side)`` float32."""
        ...

    def points(self, points: FloatArray, size: Size) -> FloatArray:
        """Points ``(N, 2)`` in pixels of an image of this size, to the frame."""
        ...

    def resize(self, logits: Tensor, size: Size) -> Tensor:
        """Logits ``(N, h, w)`` of the whole frame, to ``(N, H, W)`` of the image."""
        ...

    def shrink(self, mask: BoolArray | NDArray[np.float32], side: int) -> Tensor:
        """How much of each cell of a grid ``(side, side)`` over the frame a mask ``(H, W)``, or shares, cover, in 0..1."""
        ...


@dataclass(frozen=True, slots=True)
class SquashFrame:
    """The image is stretched to the square, whatever its proportions (SAM 2, EdgeTAM, SAM 3)."""

    side: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def pixels(self, image: Image, device: torch.device) -> Tensor:
        return _normalise(resize_image(image, Size(self.side, self.side), device), self.mean, self.std)

    def points(self, points: FloatArray, size: Size) -> FloatArray:
        return points * (self.side / size.width, self.side / size.height)

    def resize(self, logits: Tensor, size: Size) -> Tensor:
        return _interpolate(logits, size)

    def shrink(self, mask: BoolArray | NDArray[np.float32], side: int) -> Tensor:
        return _interpolate(torch.from_numpy(mask.astype(np.float32))[None], Size(side, side), antialias=True)[0]


@dataclass(frozen=True, slots=True)
class PadFrame:
    """The image keeps its proportions; its longer side fills the square, and zeros the rest (SAM, SAM-HQ)."""

    side: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def covered(self, size: Size) -> Size:
        """How much of the square an image of this size takes."""
        scale = self.side / max(size.height, size.width)
        return Size(max(int(size.height * scale + 0.5), 1), max(int(size.width * scale + 0.5), 1))

    def pixels(self, image: Image, device: torch.device) -> Tensor:
        covered = self.covered(size_of(image))
        resized = _normalise(resize_image(image, covered, device), self.mean, self.std)
        return functional.pad(resized, (0, self.side - covered.width, 0, self.side - covered.height))

    def points(self, points: FloatArray, size: Size) -> FloatArray:
        covered = self.covered(size)
        return points * (covered.width / size.width, covered.height / size.height)

    def resize(self, logits: Tensor, size: Size) -> Tensor:
        covered = self.covered(size)
        whole = _interpolate(logits, Size(self.side, self.side))
        return _interpolate(whole[:, : covered.height, : covered.width], size)

    def shrink(self, mask: BoolArray | NDArray[np.float32], side: int) -> Tensor:
        covered = self.covered(size_of(mask))
        resized = _interpolate(torch.from_numpy(mask.astype(np.float32))[None], covered, antialias=True)
        whole = functional.pad(resized, (0, self.side - covered.width, 0, self.side - covered.height))
        return _interpolate(whole, Size(side, side), antialias=True)[0]


def resize_image(image: Image, size: Size, device: torch.device) -> Tensor:
    """An image ``(H, W, 3)`` as ``(3, h, w)`` float32 in 0..255, bilinear with antialiasing, rounded as image files are."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # of its own: the image cannot be written to
    if device.type == "cpu":
        resized = functional.interpolate(pixels, (size.height, size.width), mode="bilinear", antialias=True)
    else:
        whole = pixels.to(device).float()
        resized = functional.interpolate(whole, (size.height, size.width), mode="bilinear", antialias=True).round()
    return resized[0].float().to(device)


def to_masks(frame: InputFrame, logits: Tensor, size: Size) -> BoolArray:
    """Logits ``(N, h, w)`` as masks ``(N, H, W)``, one at a time, so that many masks of a large image fit into memory."""
    masks = np.zeros((len(logits), size.height, size.width), np.bool_)
    for row, mask in enumerate(logits):
        masks[row] = (frame.resize(mask[None].float(), size)[0] > 0).cpu().numpy()
    return masks


def _normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Channels 0..255 ``(3, h, w)``, less their mean and divided by their deviation, both given for 0..1."""
    shift, scale = (torch.tensor(values, device=pixels.device)[:, None, None] * 255 for values in (mean, std))
    return (pixels - shift) / scale


def _interpolate(maps: Tensor, size: Size, *, antialias: bool = False) -> Tensor:
    shape = (size.height, size.width)
    return functional.interpolate(maps[None], shape, mode="bilinear", align_corners=False, antialias=antialias)[0]


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """One object as a network of the SAM family understands it, in pixels of the image.

    ``point_coords (P, 2)``, ``point_labels (P,)`` (1 inside, 0 outside), ``box (4,)`` or None, and ``logits (h, w)`` of an
    earlier mask in the network's frame or None.
    """

    point_coords: FloatArray
    point_labels: NDArray[np.int64]
    box: FloatArray | None = None
    logits: Tensor | None = None

    @property
    def is_one_click(self) -> bool:
        """A single click inside, which may mean a part, the object or a group: only this has several answers."""
        return self.box is None and self.logits is None and len(self.point_labels) == 1 and bool(self.point_labels[0])


@dataclass(frozen=True, slots=True, eq=False)
class FramedPrompts:
    """N objects in the network's frame: ``points (N, P, 2)`` with ``labels (N, P)`` or None, ``boxes (N, 4)`` or None, and,
    for one object alone, ``logits (1, h, w)`` or None.
    """

    points: Tensor | None
    labels: Tensor | None
    boxes: Tensor | None
    logits: Tensor | None
    multimask_output: bool


@dataclass(frozen=True, slots=True, eq=False)
class MaskCandidates:
    """K candidates for each of N objects: ``logits (N, K, h, w)``, ``iou_predictions (N, K)``, and ``object_logits (N,)``,
    above 0 where the network believes that the object is there at all (infinite where it has no opinion).
    """

    logits: Tensor
    iou_predictions: Tensor
    object_logits: Tensor

    def __len__(self) -> int:
        return len(self.logits)


class PromptableNetwork(Protocol):
    """A network of the SAM family."""

    @property
    def frame(self) -> InputFrame: ...

    @property
    def low_res_side(self) -> int:
        """The side of its mask logits."""
        ...

    @property
    def device(self) -> torch.device: ...

    def to(self, device: torch.device) -> None:
        """Move all weights."""
        ...

    def encode(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        """The image embeddings of inputs ``(B, 3, side, side)``, by name, for each image."""
        ...

    def decode(self, embeddings: Mapping[str, Tensor], prompts: FramedPrompts) -> MaskCandidates:
        """The candidates of every object on one image."""
        ...


def call_arguments(prompts: FramedPrompts) -> dict[str, Any]:
    """Prompts on one image as every model of the SAM family in transformers takes them."""
    return {
        "input_points": None if prompts.points is None else prompts.points[None],
        "input_labels": None if prompts.labels is None else prompts.labels[None],
        "input_boxes": None if prompts.boxes is None else prompts.boxes[None],
        "input_masks": None if prompts.logits is None else prompts.logits[None],
        "multimask_output": prompts.multimask_output,
    }


def decode_objects(
    network: PromptableNetwork, embeddings: Mapping[str, Tensor], objects: Sequence[Geometry], size: Size, chunk: int
) -> list[MaskCandidates]:
    """The candidates of each object, in order; at most ``chunk`` objects at a time.

    Objects of one call have to be alike: with or without box, and with as many points, because a point that fills up a row is
    looked at all the same (its embedding is zero, but the attention is spread over one more token). One with earlier logits
    goes alone.
    """
    return [
        MaskCandidates(found.logits[k : k + 1], found.iou_predictions[k : k + 1], found.object_logits[k : k + 1])
        for group in _alike(objects, chunk)
        for found in [network.decode(embeddings, _frame(network, group, size))]
        for k in range(len(group))
    ]


def _alike(objects: Iterable[Geometry], chunk: int) -> Iterable[list[Geometry]]:
    """Neighbours that can be asked together."""
    group: list[Geometry] = []
    for item in objects:
        if group and (len(group) == chunk or item.logits is not None or _kind(item) != _kind(group[0])):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _kind(item: Geometry) -> tuple[bool, int, bool, bool]:
    return item.box is not None, len(item.point_labels), item.logits is not None, item.is_one_click


def _frame(network: PromptableNetwork, objects: Sequence[Geometry], size: Size) -> FramedPrompts:
    """Objects of one kind, in the network's frame."""
    first, device = objects[0], network.device
    points = labels = boxes = None
    if len(first.point_labels):
        framed = [network.frame.points(item.point_coords, size) for item in objects]
        points = torch.from_numpy(np.stack(framed)).float().to(device)
        labels = torch.from_numpy(np.stack([item.point_labels for item in objects])).to(device)
    corners = [network.frame.points(item.box.reshape(2, 2), size).reshape(4) for item in objects if item.box is not None]
    if corners:
        boxes = torch.from_numpy(np.stack(corners)).float().to(device)
    logits = first.logits[None].to(device) if first.logits is not None else None
    return FramedPrompts(points, labels, boxes, logits, multimask_output=first.is_one_click)
