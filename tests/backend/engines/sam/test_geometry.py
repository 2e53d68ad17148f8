"""Which candidate answers, and how good it is said to be."""

from __future__ import annotations

import pytest
import torch

from backend.engines.sam.geometry import agreement, all_candidates, best_candidate, stability
from backend.engines.sam.transforms import MaskCandidates


def candidates(*predicted: float, sure: float = 8.0, presence: float = torch.inf) -> MaskCandidates:
    """Three masks of 8 x 8 cells: a quarter, a half and the whole of the frame."""
    logits = torch.full((3, 8, 8), -sure)
    logits[0, :4, :4] = logits[1, :4] = logits[2] = sure
    return MaskCandidates(logits[None], torch.tensor([predicted]), torch.tensor([presence]))


UPPER_HALF = torch.full((4, 4), -6.0)
UPPER_HALF[:2] = 6


def test_without_a_word_the_best_predicted_iou_wins() -> None:
    assert best_candidate(candidates(0.8, 0.7, 0.6)).logits.gt(0).sum() == 16


def test_what_was_said_may_overrule_a_prediction_that_is_nearly_as_good() -> None:
    assert best_candidate(candidates(0.8, 0.7, 0.6), UPPER_HALF).logits.gt(0).sum() == 32
    assert best_candidate(candidates(1.0, 0.1, 0.1), UPPER_HALF).logits.gt(0).sum() == 16


def test_the_quality_is_the_predicted_iou_times_the_stability_and_at_most_one() -> None:
    assert best_candidate(candidates(0.8, 0.7, 0.6)).quality == pytest.approx(0.8)
    assert best_candidate(candidates(0.8, 0.7, 0.6, sure=0.5)).quality == 0
    assert best_candidate(candidates(1.3, 0.7, 0.6)).quality == 1
    assert [one.quality for one in all_candidates(candidates(0.8, 0.7, 0.6))] == pytest.approx([0.8, 0.7, 0.6])


@pytest.mark.parametrize(("presence", "expected", "is_there"), [(0.0, 0.4, True), (-0.1, 0.38, False), (torch.inf, 0.8, True)])
def test_an_object_is_worth_as_much_as_the_network_believes_that_it_is_there(
    presence: float, expected: float, is_there: bool
) -> None:
    found = candidates(0.8, 0.7, 0.6, presence=presence)
    best = best_candidate(found)
    assert (best.quality, best.is_there) == (pytest.approx(expected, abs=1e-4), is_there)
    assert [one.is_there for one in all_candidates(found)] == [is_there] * 3


def test_stability_is_the_iou_of_two_thresholds() -> None:
    slope = torch.arange(-8, 8).reshape(1, 16) + 0.5
    assert float(stability(slope, 1.0)) == pytest.approx(7 / 9)
    assert float(stability(torch.full((2, 2), -9.0))) == 0


def test_agreement_is_the_soft_iou_with_the_map() -> None:
    found = agreement(candidates(1, 1, 1).logits[0], UPPER_HALF)
    assert found.tolist() == pytest.approx([0.5, 1.0, 0.5], abs=0.05)
