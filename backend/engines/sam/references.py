"""Reference regions and the joint space of the SAM family: CLIP reads words and crops, DINO compares parts of images.

The two spaces never meet. DINO's patches are alike where things are alike, across images, without any words: Oquab et al. 2023,
"DINOv2"; Darcet et al. 2023, "Vision Transformers Need Registers"; Siméoni et al. 2025, "DINOv3".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from backend.engines.catalogue import Placement
from backend.engines.device import computing, import_class, load_pretrained, read_model_type, resolve
from backend.engines.sam.transforms import IMAGENET_MEAN, IMAGENET_STD, resize_image
from backend.values.errors import SetupError
from backend.values.features import ImageFeatures
from backend.values.masks import MaskSet
from prompts.encoders import with_cpu_fallback
from prompts.encoders.openclip import OpenClip
from prompts.geometry import BoolArray, Size, size_of
from prompts.kinds import Image, ReferencePrompt
from prompts.space import FeatureMap, JointSpace, PromptTokens, Prototypes, cells_inside, margin, matches_back, prototypes_of

CLASSES = {
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}
LONGER_SIDE = 518
NOISES, EXPLAINED, MOST_DIRECTIONS = 4, 0.9, 16
"""How many images of noise tell what the place alone does to patches, and how many directions are taken away: those that
explain so much of it, but no more than a few.
"""


class Dino:
    """A DINO network; its patches come on the CPU."""

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32, longer_side: int = LONGER_SIDE) -> None:
        self._model = model
        self._dtype = dtype
        self._longer_side = longer_side
        self._patch = int(model.config.patch_size)
        self._before = 1 + int(getattr(model.config, "num_register_tokens", 0))

    @property
    def device(self) -> torch.device:
        device: torch.device = next(iter(self._model.parameters())).device
        return device

    def to(self, device: torch.device) -> None:
        """Move all weights."""
        self._model.to(device)

    @with_cpu_fallback
    @torch.inference_mode()
    def encode_patches(self, image: Image) -> Tensor:
        """Unit vectors ``(D, h, w)`` of the patches of an image ``(H, W, 3)``."""
        size = size_of(image)
        scale = self._longer_side / max(size.height, size.width)
        rows, columns = (max(round(side * scale / self._patch), 1) for side in (size.height, size.width))
        pixels = resize_image(image, Size(rows * self._patch, columns * self._patch), self.device) / 255
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        patches = self._patches((pixels - mean) / std)
        return functional.normalize(patches, dim=-1).T.reshape(-1, rows, columns).cpu()

    def _patches(self, pixels: Tensor) -> Tensor:
        """What the network makes of the patches ``(N, D)`` of an input ``(3, H, W)``, row by row."""
        with computing(self.device, self._dtype):
            tokens = self._model(pixels[None]).last_hidden_state
        patches: Tensor = tokens[0, self._before :].float()
        return patches


class Dinov3(Dino):
    """A DINOv3, whose patches say where they lie as well as what they show: what changes with the place alone, as images of
    noise tell, is projected out before patches of two images are compared (INSID3, arXiv 2603.28480).
    """

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32, longer_side: int = LONGER_SIDE) -> None:
        super().__init__(model, dtype, longer_side)
        self._places = lru_cache(maxsize=64)(self._directions_of_places)

    def to(self, device: torch.device) -> None:
        """Move all weights."""
        super().to(device)
        self._places.cache_clear()

    def _patches(self, pixels: Tensor) -> Tensor:
        patches, places = super()._patches(pixels), self._places(pixels.shape[1], pixels.shape[2])
        return patches - (patches @ places) @ places.T

    def _directions_of_places(self, height: int, width: int) -> Tensor:
        """Unit vectors ``(D, R)`` along which the patches of inputs of this size differ by their place."""
        generator = torch.Generator().manual_seed(0)
        noises = (torch.randn(3, height, width, generator=generator).to(self.device) for _ in range(NOISES))
        mean = torch.stack([super(Dinov3, self)._patches(noise) for noise in noises]).mean(dim=0)
        _, strength, directions = torch.linalg.svd(mean - mean.mean(dim=0), full_matrices=False)
        share = (strength**2).cumsum(dim=0) / (strength**2).sum().clamp(min=1e-12)
        count = min(int((share < EXPLAINED).sum()) + 1, MOST_DIRECTIONS)
        chosen: Tensor = directions[:count].T
        return chosen


def load_dino(folder: Path, placement: Placement) -> Dino:
    """The network in a folder. Raises SetupError for another kind of model."""
    model_type = read_model_type(folder)
    if model_type not in CLASSES:
        raise SetupError(f"{folder} holds a {model_type!r} model; known are {', '.join(CLASSES)}")
    network = Dinov3 if model_type == "dinov3_vit" else Dino
    return network(load_pretrained(import_class(CLASSES[model_type]), folder, placement), resolve(placement)[1])


DIMMED = 0.3
"""How bright the outside of a region stays."""
CONTEXT = 0.1
"""How much of its own sides a region's box is widened by on each side."""


class CropEncoder(Protocol):
    """Whole images into the joint space."""

    def encode_crops(self, crops: Sequence[Image]) -> Tensor:
        """Unit vectors ``(N, D)`` of images ``(h, w, 3)``."""
        ...


def dimmed_crop(image: Image, mask: BoolArray) -> Image:
    """The box of a region ``(H, W)`` with some context, everything outside the region dimmed."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    spare = [round(CONTEXT * (side[-1] + 1 - side[0])) for side in (rows, columns)]
    top, left = max(rows[0] - spare[0], 0), max(columns[0] - spare[1], 0)
    window = np.s_[top : rows[-1] + 1 + spare[0], left : columns[-1] + 1 + spare[1]]
    crop = image[window].astype(np.float32)
    return np.where(mask[window][..., None], crop, crop * DIMMED).astype(np.uint8)


def pooled_embeddings(features: FeatureMap, masks: Iterable[BoolArray]) -> Tensor:
    """Unit vectors ``(N, D)`` of N regions ``(H, W)``: the mean of their patches. Quick enough for every click."""
    return torch.stack([features.pool(mask) for mask in masks])


def region_embeddings(features: FeatureMap, pixels: Image, masks: Sequence[BoolArray], encoder: CropEncoder) -> Tensor:
    """Unit vectors ``(N, D)`` of N regions ``(H, W)``: patches and dimmed crops together. ``pixels (h, w, 3)`` may be a
    smaller copy of the image.
    """
    crops = [dimmed_crop(pixels, _resize(mask, pixels)) for mask in masks]
    return functional.normalize(pooled_embeddings(features, masks) + encoder.encode_crops(crops), dim=-1)


def _resize(mask: BoolArray, pixels: Image) -> BoolArray:
    """A mask at another resolution, which keeps at least one pixel."""
    height, width = pixels.shape[:2]
    cover = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    resized: BoolArray = cover >= min(0.5, float(cover.max()))
    return resized


DINO_WEIGHT, CLIP_WEIGHT = 0.7, 0.3
BANK = ("background", "other object", "texture", "surface", "ground", "wall", "sky", "plant", "person", "furniture")
"""What a patch may be instead of what was asked for."""
SURE = 6.0
"""Logits of score maps lie between this and its negative."""


@dataclass(frozen=True, slots=True, eq=False)
class Likeness:
    """One reference region: its prototypes among CLIP's patches, and among DINO's where there is a DINO; and the features and
    the prompt that they come from.
    """

    prompt: ReferencePrompt
    features: ImageFeatures
    clip: Prototypes
    dino: Prototypes | None


def likenesses_of(tokens: PromptTokens) -> tuple[Likeness, ...]:
    """The likenesses of the reference regions that are not empty, in their order.

    Raises TypeError for features of another engine.
    """
    found = (_likeness(prompt, there) for prompt, there in tokens.references)
    return tuple(likeness for likeness in found if likeness is not None)


class FoundationSpace(JointSpace):
    """CLIP's joint space, which also knows where a phrase is."""

    def __init__(self, name: str, clip: OpenClip) -> None:
        super().__init__(name, clip, clip.logit_scale)

    def text_map(self, features: ImageFeatures, phrase: str) -> Tensor:
        """Where a phrase is: logits ``(h, w)`` of its patches against everything else that they may be."""
        rivals = [word for word in BANK if word not in phrase.lower()]
        (wanted,), others = self.embed_phrases([phrase]), self.embed_phrases(rivals)
        flat = features.grid.flatten(1).T.to(wanted)
        logits: Tensor = self.logit_scale * (flat @ wanted - (flat @ others.T).amax(dim=1))
        return logits.reshape(features.grid.shape[1:]).clamp(-SURE, SURE)


def reference_map(features: ImageFeatures, likeness: Likeness) -> Tensor:
    """Where the like of a reference region is: logits ``(h, w)``, in which a patch that does not match back is far below 0.

    The margins of both spaces are divided by their own spread, so that neither drowns the other; they keep their zero, so that
    an image without such a thing stays below it.
    """
    score = scaled(margin(features.grid, likeness.clip))
    if likeness.dino is None:
        back = matches_back(features.grid, likeness.clip)
    else:
        patches = features.tensors["dino"]
        back = matches_back(patches, likeness.dino)
        shape = (patches.shape[1], patches.shape[2])
        near = torch.nn.functional.interpolate(score[None, None], shape, mode="bilinear", align_corners=False)[0, 0]
        score = DINO_WEIGHT * scaled(margin(patches, likeness.dino)) + CLIP_WEIGHT * near
    return torch.where(back, score, score.clamp(max=0) - SURE).clamp(-SURE, SURE)


def scaled(margins: Tensor) -> Tensor:
    """Differences of cosines ``(h, w)`` divided by their spread; their zero stays."""
    spread = margins.std() if margins.numel() > 1 else margins.abs().max()
    return margins / spread.clamp(min=1e-3)


def _likeness(prompt: ReferencePrompt, features: FeatureMap) -> Likeness | None:
    """None for an empty region. Raises TypeError for features of another engine."""
    if not isinstance(features, ImageFeatures):
        raise TypeError(f"expected ImageFeatures, got {type(features).__name__}")
    clip = prototypes_of(features.grid, prompt.mask)
    if clip is None:
        return None
    dino = prototypes_of(features.tensors["dino"], prompt.mask) if "dino" in features.tensors else None
    return Likeness(prompt, features, clip, dino)


def allowed_rows(
    features: ImageFeatures, rows: MaskSet, tokens: PromptTokens, likenesses: Sequence[Likeness]
) -> NDArray[np.bool_]:
    """The rows ``(N,)`` that may stay: nearer to their phrase than to any negative one, and not like a negative reference."""
    allowed = np.ones(len(rows), np.bool_)
    if len(tokens.negative_text):
        allowed &= _names_are_right(rows, tokens)
    wanted = [_likeness_of(features, rows, likeness) for likeness in likenesses if likeness.prompt.positive]
    least = np.maximum(np.max(wanted, axis=0), 0.5) if wanted else np.full(len(rows), 0.5)
    for likeness in likenesses:
        if not likeness.prompt.positive:
            allowed &= _likeness_of(features, rows, likeness) <= least
    return allowed


def _names_are_right(rows: MaskSet, tokens: PromptTokens) -> NDArray[np.bool_]:
    meanings = torch.from_numpy(rows.embeddings)
    worst = (meanings @ tokens.negative_text.T).amax(dim=1)
    right = [
        phrase not in tokens.phrases or bool(meanings[row] @ tokens.text[tokens.phrases.index(phrase)] > worst[row])
        for row, phrase in enumerate(rows.labels)
    ]
    return np.array(right, np.bool_)


def _likeness_of(features: ImageFeatures, rows: MaskSet, likeness: Likeness) -> NDArray[np.float64]:
    """How much of each row's mask is like a reference, ``(N,)`` in 0..1."""
    score = reference_map(features, likeness).sigmoid()
    return np.array([float(_mean_inside(score, mask)) for mask in rows.masks])


def _mean_inside(score: Tensor, mask: BoolArray) -> Tensor:
    """The mean of a map ``(h, w)`` over the cells that lie mostly inside a mask ``(H, W)``."""
    inside = cells_inside(mask, (score.shape[0], score.shape[1]))
    return score[torch.from_numpy(inside)].mean()
