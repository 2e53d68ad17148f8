"""References in the SAM family: two spaces that never meet, and regions as their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.engines.catalogue import Placement
from backend.engines.sam.references import Dino, Dinov3, Likeness, dimmed_crop, load_dino, reference_map, region_embeddings
from backend.values.features import ImageFeatures
from prompts.geometry import BoolArray, FloatArray, Size
from prompts.kinds import Image, KeyedImage, ReferencePrompt
from prompts.space import prototypes_of
from tests.backend.engines import tiny_models
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


class Patches:
    """Features of an image of which every region is (1, 0)."""

    size = Size(80, 120)

    def sample(self, points: FloatArray) -> Tensor:
        return torch.tensor([[1.0, 0]]).expand(len(points), 2)

    def pool(self, mask: BoolArray) -> Tensor:
        return torch.tensor([1.0, 0])


class Crops:
    """An encoder that writes down what it sees and calls it (0, 1)."""

    def encode_crops(self, crops: Sequence[Image]) -> Tensor:
        self.seen = crops
        return torch.tensor([[0, 1.0]]).expand(len(crops), 2)


def test_a_crop_is_the_region_with_some_context_and_the_rest_dimmed() -> None:
    image = np.full((80, 120, 3), 200, np.uint8)
    mask = square(80, 120, 30, 20, 20)
    crop = dimmed_crop(image, mask)
    assert crop.shape == (24, 24, 3), "two pixels more on each side"
    assert (crop[2:22, 2:22] == 200).all()
    assert (crop[:2] == 60).all()
    assert (crop[:, 22:] == 60).all()


def test_a_crop_ends_where_the_image_does() -> None:
    assert dimmed_crop(np.zeros((80, 120, 3), np.uint8), square(80, 120, 100, 60, 20)).shape == (22, 22, 3)
    assert dimmed_crop(np.zeros((80, 120, 3), np.uint8), square(80, 120, 0, 0, 20)).shape == (22, 22, 3)


def test_a_meaning_is_half_its_patches_and_half_its_crop() -> None:
    masks = np.stack([square(80, 120, 30, 20, 20), square(80, 120, 0, 0, 1)])
    crops = Crops()
    meanings = region_embeddings(Patches(), np.full((40, 60, 3), 200, np.uint8), masks, crops)
    torch.testing.assert_close(meanings, torch.full((2, 2), 0.5**0.5))
    assert [crop.shape for crop in crops.seen] == [(12, 12, 3), (1, 1, 3)], "on a copy of half the size"


class PlacedNetwork:
    """A network whose patches are half what they show, half where they lie, as those of DINOv3 are in part."""

    config = SimpleNamespace(patch_size=16, num_register_tokens=0)

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.shows, self.lies = torch.randn(3, 32, generator=generator), torch.randn(2, 32, generator=generator)

    def parameters(self) -> list[Tensor]:
        return [self.shows]

    def __call__(self, pixels: Tensor) -> Any:
        seen = torch.nn.functional.avg_pool2d(pixels, 16)[0]
        _, rows, columns = seen.shape
        down, across = torch.meshgrid(torch.linspace(-3, 3, rows), torch.linspace(-3, 3, columns), indexing="ij")
        tokens = seen.flatten(1).T @ self.shows + torch.stack([down, across], dim=2).flatten(0, 1) @ self.lies
        return SimpleNamespace(last_hidden_state=torch.cat([torch.zeros(1, 32), tokens])[None])


@pytest.mark.parametrize("network", [Dino, Dinov3])
def test_two_copies_of_a_thing_match_by_what_they_show_and_not_by_where_they_lie(network: type[Dino]) -> None:
    """A red patch in one corner, its copy in the other: with the place projected out the nearest patch is the copy, without
    that it is whatever lies at the same place.
    """
    rng = np.random.default_rng(0)
    first, second = (rng.integers(100, 156, (16, 16, 3), np.uint8).repeat(32, 0).repeat(32, 1) for _ in range(2))
    first[32:64, 32:64] = second[448:480, 448:480] = (250, 5, 5)
    dino = network(PlacedNetwork(), longer_side=512)
    one, other = (dino.encode_patches(image) for image in (first, second))
    assert one.shape == (32, 32, 32)
    alike = torch.einsum("d,dhw->hw", one[:, 2, 2], other)
    row, column = divmod(int(alike.argmax()), 32)
    assert ((row, column) in {(28, 28), (28, 29), (29, 28), (29, 29)}) == (network is Dinov3)


def test_patches_of_dinov3_are_unit_vectors_and_the_same_again(tmp_path: Path) -> None:
    dino = load_dino(tiny_models.write_dinov3(tmp_path), Placement("cpu", "float32"))
    assert isinstance(dino, Dinov3)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    patches = dino.encode_patches(image)
    assert torch.allclose(patches.norm(dim=0), torch.ones(patches.shape[1:]), atol=1e-5)
    assert torch.equal(dino.encode_patches(image), patches)
    dino.to(torch.device("cpu"))
    assert torch.equal(dino.encode_patches(image), patches)
