"""SAM, SAM-HQ, SAM 2.1 and EdgeTAM as one kind of network, and objects followed through films by those that can.

The memory over the frames of a film holds recent and prompted frames, object pointers and the score of occlusion. Its networks
are transformers' own video models (Ravi et al. 2024, SAM 2; Zhou et al. 2025, EdgeTAM; Carion et al. 2025, SAM 3); added is the
bound on what a session keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from backend.engines.base import TrackedMask, TrackingSession
from backend.engines.catalogue import Placement
from backend.engines.device import computing, import_class, load_pretrained, resolve
from backend.engines.sam.geometry import geometry_of_drawing
from backend.engines.sam.transforms import (
    FramedPrompts,
    MaskCandidates,
    PadFrame,
    PromptableNetwork,
    SquashFrame,
    call_arguments,
    to_masks,
)
from prompts.geometry import Size, size_of
from prompts.kinds import Image, MaskPrompt, PolygonPrompt, PromptError, PromptSet


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


VIDEO_CLASSES = {
    "sam2_video": "Sam2VideoModel",
    "edgetam_video": "EdgeTamVideoModel",
    "sam3": "Sam3TrackerVideoModel",
    "sam3_video": "Sam3TrackerVideoModel",
}
"""The class that follows objects, by the ``model_type`` of its folder; checkpoints of images alone have no memory."""
MOST_PROMPTED = 32
"""Prompted frames that are remembered for each object; the oldest but the first is forgotten beyond that."""
BOX_CORNERS = (2, 3)
"""The point labels of a box's corners (SAM's prompt encoder)."""


class VideoNetwork(PromptableNetwork, Protocol):
    """The part for single images of a network that follows objects."""

    @property
    def frame(self) -> SquashFrame: ...

    def lend_encoder(self, video_model: Any) -> None:
        """Let the video model of the same checkpoint use this network's image encoder, so that it is in memory once."""
        ...


class Sam2Tracker:
    """Starts sessions of one video network (see Tracker); ``network`` is its part for single images."""

    def __init__(self, network: VideoNetwork, model: Any, session_class: Any, dtype: torch.dtype = torch.float32) -> None:
        self._network = network
        self._model = model
        self._session_class = session_class
        self._dtype = dtype

    def start(self, direction: Literal[1, -1]) -> TrackingSession:
        device = self._network.device
        self._model.to(device)
        state = self._session_class(
            inference_device=device, inference_state_device=device, video_storage_device=device, dtype=torch.float32
        )
        return Sam2Session(self._network, self._model, state, self._dtype, direction)


class Sam2Session:
    """One film (see TrackingSession); the state is transformers' inference session, from which old frames are taken away."""

    def __init__(self, network: VideoNetwork, model: Any, state: Any, dtype: torch.dtype, direction: Literal[1, -1]) -> None:
        self._network = network
        self._model = model
        self._state = state
        self._dtype = dtype
        self._direction = direction
        self._reach = max(int(model.num_maskmem), int(model.config.max_object_pointers_in_encoder))

    def follow(self, frame: int, image: Image) -> dict[int, TrackedMask]:
        """See TrackingSession."""
        return self._run(frame, image) if self._state.obj_ids else {}

    def prompt(self, frame: int, image: Image, object_id: int, prompts: PromptSet) -> TrackedMask:
        """See TrackingSession."""
        points, mask = _inputs_of(prompts, size_of(image), self._network)
        number = self._state.obj_id_to_idx(object_id)
        if points is not None:
            self._state.add_point_inputs(number, frame, points)
            self._state.remove_mask_inputs(number, frame)
        else:
            self._state.add_mask_inputs(number, frame, mask)
            self._state.remove_point_inputs(number, frame)
        self._state.obj_with_new_inputs = [object_id]
        self._state.output_dict_per_obj[number]["cond_frame_outputs"].pop(frame, None)
        found = self._run(frame, image)[object_id]
        self._keep_as_prompted(number, frame)
        return found

    @torch.inference_mode()
    def _run(self, frame: int, image: Image) -> dict[int, TrackedMask]:
        """Every object's answer on a frame; those that were followed to it before get the same one again."""
        pixels = self._network.frame.pixels(image, self._network.device)
        with computing(self._network.device, self._dtype):
            out = self._model(self._state, frame_idx=frame, frame=pixels[None], reverse=self._direction == -1)
        self._forget(frame)
        masks = to_masks(self._network.frame, out.pred_masks[:, 0], size_of(image))
        there = torch.sigmoid(out.object_score_logits.float().flatten()).tolist()
        return {
            number: TrackedMask(mask & (score > 0.5), score)
            for number, mask, score in zip(out.object_ids, masks, there, strict=True)
        }

    def _keep_as_prompted(self, number: int, frame: int) -> None:
        """A corrected frame is remembered like a prompted one (SAM 2's ``add_all_frames_to_correct_as_cond``)."""
        outputs = self._state.output_dict_per_obj[number]
        corrected = outputs["non_cond_frame_outputs"].pop(frame, None)
        if corrected is not None:
            outputs["cond_frame_outputs"][frame] = corrected
        prompted = outputs["cond_frame_outputs"]
        if len(prompted) > MOST_PROMPTED:
            del prompted[list(prompted)[1]]

    def _forget(self, frame: int) -> None:
        """Take away what no later frame can reach: other frames' pixels, old outputs, and every mask at full size."""
        self._state.processed_frames = {frame: self._state.processed_frames[frame]}
        for number, outputs in self._state.output_dict_per_obj.items():
            followed = outputs["non_cond_frame_outputs"]
            for old in [key for key in followed if abs(frame - key) > self._reach]:
                del followed[old]
            for kept in (*followed.values(), *outputs["cond_frame_outputs"].values()):
                kept.pop("high_res_masks", None)
            tracked = self._state.frames_tracked_per_obj[number]
            for old in [key for key in tracked if abs(frame - key) > self._reach]:
                del tracked[old]
            for inputs in (self._state.point_inputs_per_obj[number], self._state.mask_inputs_per_obj[number]):
                for old in [key for key in inputs if key != frame]:
                    del inputs[old]


def load_tracker(folder: Path, model_type: str, network: VideoNetwork, placement: Placement) -> Sam2Tracker | None:
    """The tracker of the checkpoint that ``network`` is from, whose image encoder it shares; None where that has no memory."""
    name = VIDEO_CLASSES.get(model_type)
    if name is None:
        return None
    model = load_pretrained(import_class(name), folder, placement)
    network.lend_encoder(model)
    return Sam2Tracker(network, model, import_class(name.replace("Model", "InferenceSession")), resolve(placement)[1])


def _inputs_of(prompts: PromptSet, size: Size, network: VideoNetwork) -> tuple[dict[str, Tensor] | None, Tensor | None]:
    """What is drawn of one object as points ``(1, 1, P, 2)`` with labels ``(1, 1, P)`` or, where outlines alone say it, as a
    mask ``(1, 1, side, side)`` that is taken as it is.
    """
    outlines = PromptSet(prompts.of(MaskPrompt) + prompts.of(PolygonPrompt))
    if len(outlines) == len(prompts.drawn) and outlines.region(size).any():
        covered = network.frame.shrink(outlines.region(size), network.frame.side)
        return None, (covered >= 0.5).float()[None, None]
    geometry = geometry_of_drawing(prompts, size, network, None)
    coords, labels = geometry.point_coords, geometry.point_labels
    if geometry.box is not None:
        coords = np.concatenate([geometry.box.reshape(2, 2), coords])
        labels = np.concatenate([BOX_CORNERS, labels])
    if not labels.any():
        raise PromptError("expected something drawn on the object to follow, got nothing or only what it is not")
    points = torch.from_numpy(network.frame.points(coords, size)).float()
    return {"point_coords": points[None, None], "point_labels": torch.from_numpy(labels).int()[None, None]}, None
