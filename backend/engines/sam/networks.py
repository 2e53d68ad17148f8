"""SAM, SAM-HQ, SAM 2.1 and EdgeTAM as one kind of network: encode an image once, decode masks for each prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.engines.device import computing, import_class, load_pretrained, resolve
from backend.engines.sam.transforms import Frame, PadFrame, SquashFrame
from backend.values.placement import Placement
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


class SamNetwork:
    """A SAM network (see PromptableNetwork)."""

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        self._model = model
        self._dtype = dtype
        self.frame = PadFrame(int(model.config.vision_config.image_size))
        self.low_res_side = 4 * int(model.prompt_encoder.image_embedding_size[0])

    @property
    def device(self) -> torch.device:
        device: torch.device = self._model.shared_image_embedding.positional_embedding.device
        return device

    def to(self, device: torch.device) -> None:
        self._model.to(device)

    def encode(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        with computing(self.device, self._dtype):
            found = self._model.get_image_embeddings(pixels.to(self.device))
        return [{"embedding": image.float()} for image in found]

    def decode(self, embeddings: Mapping[str, Tensor], prompts: FramedPrompts) -> MaskCandidates:
        return self._candidates(
            self._model(image_embeddings=embeddings["embedding"][None].to(self.device), **call_arguments(prompts))
        )

    def _candidates(self, found: Any) -> MaskCandidates:
        certain = torch.full_like(found.iou_scores[0, :, 0], torch.inf)
        return MaskCandidates(found.pred_masks[0], found.iou_scores[0], certain)


class SamHqNetwork(SamNetwork):
    """A SAM-HQ network: its mask decoder also looks at what the image encoder saw on the way."""

    def encode(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        with computing(self.device, self._dtype):
            found, on_the_way = self._model.get_image_embeddings(pixels.to(self.device))
        return [
            {"embedding": found[image].float(), "on_the_way": torch.stack([level[image] for level in on_the_way]).float()}
            for image in range(len(pixels))
        ]

    def decode(self, embeddings: Mapping[str, Tensor], prompts: FramedPrompts) -> MaskCandidates:
        return self._candidates(
            self._model(
                image_embeddings=embeddings["embedding"][None].to(self.device),
                intermediate_embeddings=[level[None] for level in embeddings["on_the_way"].to(self.device)],
                **call_arguments(prompts),
            )
        )


def load_sam(folder: Path, model_type: str, placement: Placement) -> SamNetwork:
    """The network in a folder."""
    if model_type == "sam_hq":
        return SamHqNetwork(load_pretrained(import_class("SamHQModel"), folder, placement), resolve(placement)[1])
    return SamNetwork(load_pretrained(import_class("SamModel"), folder, placement), resolve(placement)[1])


SAM2_CLASSES = {"sam2": "Sam2Model", "sam2_video": "Sam2Model", "edgetam": "EdgeTamModel", "edgetam_video": "EdgeTamModel"}
"""The network's class by the ``model_type`` of its folder; the published checkpoints are those of the video models."""


class Sam2Network:
    """A SAM 2 or EdgeTAM network (see PromptableNetwork).

    Its image embeddings are three maps: the first two, finer ones are kept as the mask decoder uses them.
    """

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        self._model = model
        self._dtype = dtype
        self.frame = SquashFrame(int(model.prompt_encoder.input_image_size))
        self.low_res_side = int(model.prompt_encoder.mask_input_size[0])

    @property
    def device(self) -> torch.device:
        device: torch.device = self._model.no_memory_embedding.device
        return device

    def to(self, device: torch.device) -> None:
        self._model.to(device)

    def lend_encoder(self, video_model: Any) -> None:
        """Let the video model of the same checkpoint use this network's image encoder, so that it is in memory once."""
        video_model.vision_encoder = self._model.vision_encoder

    def encode(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        with computing(self.device, self._dtype):
            levels = self._model.get_image_embeddings(pixels.to(self.device))
        return [{f"level{k}": level[image].float() for k, level in enumerate(levels)} for image in range(len(pixels))]

    def decode(self, embeddings: Mapping[str, Tensor], prompts: FramedPrompts) -> MaskCandidates:
        levels = [embeddings[name][None].to(self.device) for name in ("level0", "level1", "level2")]
        found = self._model(image_embeddings=levels, **call_arguments(prompts))
        return MaskCandidates(found.pred_masks[0], found.iou_scores[0], found.object_score_logits[0, :, 0])


def load_sam2(folder: Path, model_type: str, placement: Placement) -> Sam2Network:
    """The network in a folder."""
    return Sam2Network(load_pretrained(import_class(SAM2_CLASSES[model_type]), folder, placement), resolve(placement)[1])
