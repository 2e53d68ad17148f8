"""Every part of an engine sees what its published processor makes of an image, whatever its shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from backend.engines.sam.detectors import fit
from bench.preprocessing import OURS, picture, processors
from prompts.geometry import Size

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # torchvision 0.28, when it is imported
]
EQUAL = [part for part in OURS if not part.startswith("OWLv2")]
Processor = Callable[[np.ndarray], torch.Tensor]


@pytest.fixture(scope="module")
def published() -> dict[str, Processor]:
    return processors()


@pytest.mark.parametrize("shape", [(60, 180), (180, 60), (20, 28), (1, 5)])
@pytest.mark.parametrize("part", EQUAL)
def test_what_a_part_sees_is_what_its_processor_makes(
    published: dict[str, Processor], part: str, shape: tuple[int, int]
) -> None:
    image = picture(*shape)
    torch.testing.assert_close(OURS[part](image), published[part](image), atol=1e-5, rtol=0)


@pytest.mark.parametrize("part", [part for part in EQUAL if part.startswith(("SAM", "CLIP"))])
def test_large_images_are_no_exception_for_decoders_and_crops(published: dict[str, Processor], part: str) -> None:
    image = picture(1500, 2100)
    torch.testing.assert_close(OURS[part](image), published[part](image), atol=1e-5, rtol=0)


def test_a_detector_s_size_is_that_of_its_processor() -> None:
    """It used to be rounded where it is truncated: one pixel more for a quarter of all sizes."""
    from transformers.image_transforms import get_size_with_aspect_ratio

    numbers = np.random.default_rng(0).integers(20, 3000, (1000, 2)).tolist()
    wrong = [
        (height, width)
        for height, width in numbers
        if fit(Size(height, width), 800, 1333) != Size(*get_size_with_aspect_ratio((height, width), 800, 1333))
    ]
    assert wrong == []
