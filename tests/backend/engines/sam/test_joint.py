"""Where the like of a reference region is, on patch maps whose right answers are known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from backend.engines.sam.references import Likeness, reference_map
from backend.values.features import ImageFeatures
from prompts.geometry import BoolArray, Size
from prompts.kinds import KeyedImage, ReferencePrompt
from prompts.sampler import prototypes_of
from tests.backend.pictures import square

THING, GROUND, OTHER = [1.0, 0, 0], [0, 1.0, 0], [0.8, 0, 0.6]
"""``OTHER`` resembles the thing, and not the ground around it."""


def patches_of(*rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows).permute(2, 0, 1)


def likeness_of(mask: BoolArray, clip: Tensor, dino: Tensor | None = None) -> Likeness:
    shape = (clip.shape[1] * 10, clip.shape[2] * 10)
    features = ImageFeatures(Size(*shape), clip, {} if dino is None else {"dino": dino})
    inside, alike = prototypes_of(clip, mask), None if dino is None else prototypes_of(dino, mask)
    assert inside is not None
    return Likeness(ReferencePrompt(KeyedImage.of(np.zeros((*shape, 3), np.uint8)), mask), features, inside, alike)


def test_a_patch_that_is_rather_like_something_else_on_the_reference_image_is_none() -> None:
    """Against its surroundings alone it would be one: what else there is, lies far away from the region."""
    far = [GROUND] * 4
    there = patches_of([GROUND] * 8, [GROUND, THING, *far, OTHER, GROUND], [GROUND] * 8)
    here = ImageFeatures(Size(10, 30), patches_of([THING, OTHER, GROUND]))
    score = reference_map(here, likeness_of(square(30, 80, 10, 10, 10), there))
    assert (score > 0).tolist() == [[True, False, False]]


def test_where_both_know_the_reference_dino_counts_more_than_clip() -> None:
    there = patches_of([GROUND] * 3, [GROUND, THING, GROUND], [GROUND] * 3)
    likeness = likeness_of(square(30, 30, 10, 10, 10), there, there)
    by_clip, by_dino = patches_of([THING, GROUND, GROUND, GROUND]), patches_of([GROUND, GROUND, GROUND, THING])
    score = reference_map(ImageFeatures(Size(10, 40), by_clip, {"dino": by_dino}), likeness)
    assert (score > 0).tolist() == [[False, False, False, True]]
