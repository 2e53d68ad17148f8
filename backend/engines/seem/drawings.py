"""What was drawn on an image, object by object, as masks of the network's input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from backend.engines.seem.frame import Frame
from backend.engines.seem.memory_tokens import MaskMemory
from prompts.kinds import PointPrompt, PromptSet
from prompts.memory import ObjectMemory


@dataclass(frozen=True, slots=True)
class Drawings:
    """n drawn objects: ``positive`` and ``negative (n, H, W)`` bool in the padded frame, and the previous round about one of
    them.
    """

    positive: Tensor
    negative: Tensor
    memory: MaskMemory | None

    def __len__(self) -> int:
        return len(self.positive)


def render(prompts: PromptSet, frame: Frame, memory: ObjectMemory | None, device: torch.device) -> Drawings:
    """Everything that was drawn, each object (see PromptSet.objects) on its own.

    Memory belongs to the object whose drawing covers most of the previous mask. An object that was only told what it is not
    is shown its previous mask instead of a drawing. Objects that nothing shows are left out.
    """
    objects = list(prompts.objects())
    empty = torch.zeros(0, frame.padded.height, frame.padded.width, dtype=torch.bool)
    positive = torch.stack([_region(each, frame, positive=True) for each in objects]) if objects else empty
    negative = torch.stack([_region(each, frame, positive=False) for each in objects]) if objects else empty
    remembered = None
    if memory is not None and objects:
        logits = torch.tensor(memory.low_res_logits, dtype=torch.float32)
        before = _enlarge(logits, frame)
        owner = _owner(positive, negative, before)
        if not positive[owner].any():
            positive[owner] = before & ~negative[owner]
        remembered = (logits, owner)
    return _drop_empty(positive, negative, remembered, device)


def _region(prompts: PromptSet, frame: Frame, *, positive: bool) -> Tensor:
    """The drawn prompts of one sign as one mask ``(H, W)`` of the input."""
    regions = PromptSet(tuple(prompt for prompt in prompts.drawn if not isinstance(prompt, PointPrompt)))
    clicks = prompts.point_coords[prompts.point_labels == int(positive)]
    return frame.place(regions.region(frame.size, positive=positive)) | frame.place_clicks(clicks)


def _enlarge(logits: Tensor, frame: Frame) -> Tensor:
    """The previous mask ``(H, W)`` bool, from its low-resolution logits."""
    size = (frame.padded.height, frame.padded.width)
    return functional.interpolate(logits[None, None], size, mode="bilinear")[0, 0] > 0


def _owner(positive: Tensor, negative: Tensor, before: Tensor) -> int:
    covered = ((positive | negative) & before).sum(dim=(1, 2))
    return int(covered.argmax())


def _drop_empty(positive: Tensor, negative: Tensor, remembered: tuple[Tensor, int] | None, device: torch.device) -> Drawings:
    """Only the objects that have positive pixels, and the memory if its object is one of them."""
    kept = positive.any(dim=2).any(dim=1).nonzero()[:, 0].tolist()
    memory = None
    if remembered is not None and remembered[1] in kept:
        owner = torch.tensor([kept.index(remembered[1])], device=device)
        memory = MaskMemory(remembered[0][None].to(device), owner)
    return Drawings(positive[kept].to(device), negative[kept].to(device), memory)
