"""The encoder of words: the backbone is EfficientNet-Lite2, and any image becomes places and regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.engines.embedded.places import (
    CLASSES,
    CONTEXT,
    DIM,
    ENCODED_SIDE,
    HEAD,
    PlaceEncoder,
    encoded,
    encoded_shape,
    from_pretrained,
)
from prompts.encoders import declare_missing_operators


def test_the_backbone_answers_like_timm_s_with_the_same_weights() -> None:
    declare_missing_operators()
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    published = timm.create_model("tf_efficientnet_lite2", num_classes=CLASSES).eval()
    for part in published.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    backbone, classifier = from_pretrained(published.state_dict())
    image = torch.rand(1, 3, 64, 96) * 255
    with torch.inference_mode():
        *stages, head = backbone(image)
        torch.testing.assert_close(head, published.forward_features((image - 127) / 128), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(classifier(head.mean(dim=(2, 3))), published((image - 127) / 128), rtol=1e-3, atol=1e-3)
    assert [image.shape[3] // stage.shape[3] for stage in stages] == [4, 8, 16, 32]
    assert head.shape == (1, HEAD, 2, 3)


def test_places_are_unit_vectors_at_one_eighth_and_regions_a_map_at_one_sixteenth() -> None:
    context, grid, regions = encoded(PlaceEncoder().eval(), np.zeros((300, 400, 3), np.uint8))
    height, width = encoded_shape(np.zeros((300, 400, 3), np.uint8))
    assert grid.shape == (DIM, height // 8, width // 8)
    assert context.shape == (CONTEXT, height // 8, width // 8)
    assert regions.shape == (DIM, height // 16, width // 16)
    assert torch.allclose(grid.norm(dim=0), torch.ones(height // 8, width // 8), atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (512, 512), (3000, 4000), (200, 300), (900, 450)])
def test_a_photo_is_encoded_with_its_long_side_at_512(shape: tuple[int, int]) -> None:
    height, width = encoded_shape(np.zeros((*shape, 3), np.uint8))
    assert max(height, width) == ENCODED_SIDE
    assert height % 32 == width % 32 == 0
    assert min(height, width) >= 32


@pytest.mark.parametrize("shape", [(1000, 12000), (8000, 400), (4000, 40), (300, 1)])
def test_a_panorama_is_encoded_longer_but_not_larger_than_two_photos(shape: tuple[int, int]) -> None:
    height, width = encoded_shape(np.zeros((*shape, 3), np.uint8))
    assert ENCODED_SIDE < max(height, width) <= 8 * ENCODED_SIDE
    assert height * width <= 2 * ENCODED_SIDE**2 * 1.2
    assert height % 32 == width % 32 == 0
    assert min(height, width) >= 32
