"""What every network of the SAM family is asked and answers: geometry in, mask candidates out.

Such a network knows no words. An object is points, a box and the logits of an earlier mask; everything else that a prompt means
has to be said in these terms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.engines.sam.transforms import Frame
from prompts.geometry import FloatArray, Size


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
    def frame(self) -> Frame: ...

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
