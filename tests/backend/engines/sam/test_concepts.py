"""What counts as found by SAM 3: whether the concept is there at all comes first, then each mask's own score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from backend.engines.sam.references import Likeness
from backend.engines.sam.sam3 import MOST_FOUND, Concepts, ExemplarFinder, Exemplars, _findings
from backend.engines.sam.transforms import SquashFrame
from backend.values.features import ImageFeatures
from prompts.geometry import Size
from prompts.kinds import KeyedImage, ReferencePrompt
from prompts.sampler import Prototypes
from tests.backend.pictures import square


def concepts(*scores: float, presence: float = 0.9) -> Concepts:
    return Concepts(torch.full((len(scores), 6, 6), 8.0), torch.tensor(scores), presence)


def test_sure_ones_come_best_first_in_the_resolution_of_the_next_round() -> None:
    found = _findings(concepts(0.4, 0.2, 0.8, 0.29), 12, "cup")
    assert [round(finding.meaning, 2) for finding in found] == [0.8, 0.4]
    assert {finding.phrase for finding in found} == {"cup"}
    assert {tuple(finding.logits.shape) for finding in found} == {(12, 12)}


def test_of_a_concept_that_is_not_on_the_image_nothing_is_found() -> None:
    assert _findings(concepts(0.9, presence=0.29), 6, "cup") == []
    assert len(_findings(concepts(0.9, presence=0.31), 6, "cup")) == 1


def test_a_hundred_are_enough() -> None:
    assert len(_findings(concepts(*[0.5] * (MOST_FOUND + 20)), 6, None)) == MOST_FOUND


class TwoOnACanvas:
    """A network on a GPU, as it says, that finds one thing on the left half of a canvas and one at its right edge."""

    device, frame, low_res_side = torch.device("meta"), SquashFrame(20), 12

    def to(self, device: torch.device) -> None: ...

    def encode(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        return [{} for _ in pixels]

    def find(self, embeddings: object, phrase: str, exemplars: Exemplars) -> Concepts:
        self.asked = phrase, exemplars
        logits = torch.full((2, 20, 20), -8.0)
        logits[0, :, :10] = logits[1, :, 15:] = 8
        return Concepts(logits, torch.tensor([0.9, 0.8]), 0.9)


class Nothing:
    def find_like(self, features: ImageFeatures, likenesses: Sequence[Likeness], phrases: Sequence[str]) -> list[object]:
        raise AssertionError("a GPU has a canvas")


def test_of_a_canvas_only_the_target_is_answered() -> None:
    """The reference is as wide as the target here, so that what is left of the second thing is the target's right half."""
    network, pixels = TwoOnACanvas(), np.zeros((30, 40, 3), np.uint8)
    target = ImageFeatures(Size(30, 40), torch.zeros(1, 1, 1), {"pixels": torch.from_numpy(pixels)})
    nowhere = Prototypes(torch.zeros(0, 1), torch.zeros(0, 1), torch.zeros(1, 1, 1), np.zeros((1, 1), np.bool_))
    example = ReferencePrompt(KeyedImage.of(pixels.copy()), square(30, 40, 5, 5, 30))
    elsewhere = ImageFeatures(Size(30, 40), torch.zeros(1, 1, 1))
    finder = ExemplarFinder(network, Nothing())  # type: ignore[arg-type]
    left, right = finder.find_like(target, [Likeness(example, elsewhere, nowhere, None)], ["cup"])
    assert not (left.logits > 0).any()
    assert (right.logits > 0).nonzero()[:, 1].unique().tolist() == list(range(6, 12))
    phrase, exemplars = network.asked
    assert phrase == "cup"
    assert exemplars.labels.tolist() == [1]
