"""Everything on an image that is too small to be seen on the whole of it: overlapping crops, each looked at by itself.

The crops are those of SAM's ``SamAutomaticMaskGenerator`` (Kirillov et al. 2023, appendix B): layer n has 2**n crops a side. A
mask that is cut off by its crop is dropped, and of masks of one thing that of the smallest crop stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import cv2
import numpy as np
import torch

from backend.engines.sam.everything import EverythingOptions, non_maximum_suppression, segment_everything
from backend.engines.sam.geometry import box_of, mask_logits
from backend.engines.sam.text_grounding import Decoding
from backend.engines.sam.transforms import to_masks
from backend.values.features import ImageFeatures
from backend.values.masks import Masks, MaskSet
from prompts.geometry import BoolArray, FloatArray, Size, size_of
from prompts.kinds import Image

EDGE = 20.0
"""Pixels: a mask that comes nearer to the edge of its crop is cut off by it."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of the image: ``box`` ``(x0, y0, x1, y1)`` in pixels, the far sides exclusive, and its layer from 1."""

    box: tuple[int, int, int, int]
    layer: int

    @property
    def size(self) -> Size:
        x0, y0, x1, y1 = self.box
        return Size(y1 - y0, x1 - x0)


def crops_of(size: Size, options: EverythingOptions) -> Iterator[Crop]:
    """The crops of an image, layer by layer, column by column; the whole image is not one of them."""
    for layer in range(1, options.crop_n_layers + 1):
        many = 2**layer
        overlap = int(options.crop_overlap_ratio * min(size.height, size.width) * (2 / many))
        width, height = (math.ceil((overlap * (many - 1) + side) / many) for side in (size.width, size.height))
        for column, row in product(range(many), range(many)):
            x0, y0 = column * (width - overlap), row * (height - overlap)
            if x0 < size.width and y0 < size.height:
                yield Crop((x0, y0, min(x0 + width, size.width), min(y0 + height, size.height)), layer)


def with_crops(decoding: Decoding, features: ImageFeatures, rows: MaskSet, options: EverythingOptions) -> MaskSet:
    """The rows found on the whole image and those found on its crops, each thing once."""
    parts, areas = [rows], [features.size.pixels] * len(rows)
    for crop, seen in _encoded(decoding, features, list(crops_of(features.size, options))):
        parts.append(_whole_rows(decoding, seen, (crop, features.size), options))
        areas += [crop.size.pixels] * len(parts[-1])
    found = MaskSet.concatenate(parts, features.size)
    boxes = np.array([box_of(mask) for mask in found.masks]).reshape(-1, 4)
    return found[non_maximum_suppression(boxes, [1 / area for area in areas], options.crop_nms_thresh)]


def _encoded(decoding: Decoding, features: ImageFeatures, crops: Sequence[Crop]) -> Iterator[tuple[Crop, ImageFeatures]]:
    """Each crop with its features; only as many are in memory as the device encodes at once."""
    together = decoding.chunks.most
    for start in range(0, len(crops), together):
        some = crops[start : start + together]
        encoded = decoding.encode([_pixels(features, crop) for crop in some])
        for crop, embeddings in zip(some, encoded, strict=True):
            yield crop, ImageFeatures(crop.size, features.grid[:, :1, :1], embeddings)


def _whole_rows(decoding: Decoding, seen: ImageFeatures, place: tuple[Crop, Size], options: EverythingOptions) -> MaskSet:
    """What is found on a crop and not cut off by it, as rows of the whole image."""
    crop, size = place
    per_side = max(int(options.points_per_side / options.crop_n_points_downscale_factor**crop.layer), 1)
    found = segment_everything(decoding, seen, replace(options, points_per_side=per_side))
    if not found:
        return MaskSet.empty(size)
    x0, y0, x1, y1 = crop.box
    masks = np.zeros((len(found), size.height, size.width), np.bool_)
    masks[:, y0:y1, x0:x1] = to_masks(decoding.network.frame, torch.stack([one.logits for one in found]), seen.size)
    kept = [row for row, mask in enumerate(masks) if mask.any() and not is_cut_off(box_of(mask), crop, size)]
    return _rows(decoding, masks[kept], [found[row].quality for row in kept], size)


def is_cut_off(box: FloatArray, crop: Crop, size: Size) -> bool:
    """Whether a box ``(4,)`` comes close to an edge of its crop that is no edge of the image."""
    at_crop = np.abs(box - crop.box) <= EDGE
    at_image = np.abs(box - (0, 0, size.width, size.height)) <= EDGE
    return bool((at_crop & ~at_image).any())


def _rows(decoding: Decoding, masks: BoolArray, qualities: Sequence[float], size: Size) -> MaskSet:
    if not len(masks):
        return MaskSet.empty(size)
    logits = torch.stack([mask_logits(mask, decoding.network) for mask in masks])
    return MaskSet(
        masks=Masks.of(masks, size),
        scores=np.array(qualities, np.float32),
        labels=(None,) * len(masks),
        low_res_logits=logits.numpy().astype(np.float16),
        embeddings=np.zeros((len(masks), 1), np.float32),
    )


def _pixels(features: ImageFeatures, crop: Crop) -> Image:
    """A crop of the copy of the image that is kept, as large as on the image itself."""
    kept = features.tensors["pixels"].numpy()
    size = size_of(kept)
    x0, x1 = (side * size.width / features.size.width for side in crop.box[::2])
    y0, y1 = (side * size.height / features.size.height for side in crop.box[1::2])
    part = kept[int(y0) : max(math.ceil(y1), int(y0) + 1), int(x0) : max(math.ceil(x1), int(x0) + 1)]
    if size == features.size:
        return np.ascontiguousarray(part)
    shape = (crop.size.width, crop.size.height)
    return np.asarray(cv2.resize(part, shape, interpolation=cv2.INTER_LINEAR), np.uint8).reshape(*shape[::-1], 3)
