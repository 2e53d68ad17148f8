"""Panoptic and referring maps against the recorded outputs of SEEM's own evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from backend.engines.seem.answering import PanopticRule, mask_quality, panoptic_map
from backend.engines.seem.inputs import InputFrame
from backend.engines.seem.predictor import Ask
from backend.engines.seem.wiring import Group
from prompts.geometry import Size

if TYPE_CHECKING:
    from conftest import Recording

THINGS = {0, 1}


def frame(recording: Recording) -> InputFrame:
    """Image A is 124 x 90 pixels and its maps were asked for at 133 x 103."""
    height, width = (int(side) for side in recording["A.padded_size"])
    return InputFrame(Size(103, 133), Size(90, 124), Size(height, width))


def logits(recording: Recording) -> tuple[Tensor, Tensor]:
    """Class logits ``(Q, 6)`` and full-size mask logits ``(Q, 103, 133)`` without a prompt."""
    predictor, features = recording.network.predictor, recording.features("A")
    with torch.inference_mode():
        said = predictor(features, Ask(objects=1))[-1]
        classes = predictor.class_logits(said.embedding, torch.from_numpy(recording["text.class_embeddings_eval"]))
        return classes, frame(recording).enlarge(said.masks(features.mask_features), "bicubic")


def test_the_panoptic_map(recording: Recording) -> None:
    numbers, segments = panoptic_map(*logits(recording), THINGS, PanopticRule(0.2, 0.2))
    recording.check("evaluate.panoptic_seg", numbers)
    expected = json.loads(str(recording["evaluate.panoptic_segments_json"]))
    got = [{"id": s.number, "isthing": s.category in THINGS, "category_id": s.category} for s in segments]
    assert got == expected


@pytest.mark.parametrize("name", ["focaldw_v0", "focaldw_v1", "focal4_v1", "samvit_v1"])
def test_two_phrases_in_one_pass(recorded: Callable[[str], Recording], name: str) -> None:
    recording = recorded(name)
    predictor, features, phrases = recording.network.predictor, recording.features("A"), recording.phrases()
    with torch.inference_mode():
        said = predictor(features, Ask(phrases=[torch.cat([phrases.of(0), phrases.of(1)])]))[-1].of(Group.GROUNDING)
        similarity = functional.normalize(said.embedding, dim=-1) @ functional.normalize(phrases.sentence, dim=-1).T
        chosen = said.rows(similarity.argmax(dim=0)).masks(features.mask_features)
        recording.check("text.evaluate_two_texts.grounding_mask", frame(recording).enlarge(chosen, "bicubic"))


def test_a_segment_that_keeps_too_little_of_its_mask_is_dropped() -> None:
    class_logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 8.0, 0.0]])
    mask_logits = torch.full((2, 4, 4), -9.0)
    mask_logits[0, :, :3] = 9
    mask_logits[1, :, 1:] = 5
    numbers, segments = panoptic_map(class_logits, mask_logits, {0, 1}, PanopticRule(0.4, 0.5))
    assert [(segment.category, segment.query) for segment in segments] == [(0, 0)]
    assert numbers[:, :3].eq(1).all()
    assert numbers[:, 3].eq(0).all()


def test_stuff_of_one_class_is_one_segment_and_things_are_not() -> None:
    class_logits = torch.tensor([[9.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 9.0, 0.0]])
    mask_logits = torch.full((4, 4, 4), -9.0)
    for row in range(4):
        mask_logits[row, row] = 9
    numbers, segments = panoptic_map(class_logits, mask_logits, {0}, PanopticRule())
    assert [segment.category for segment in segments] == [0, 0, 1]
    assert numbers[:, 0].tolist() == [1, 2, 3, 3]


def test_the_quality_of_a_mask_is_its_mean_probability() -> None:
    mask_logits = torch.tensor([[[2.0, 4.0], [-3.0, -1.0]], [[-1.0, -1.0], [-1.0, -1.0]]])
    expected = [float(torch.tensor([2.0, 4.0]).sigmoid().mean()), 0.0]
    torch.testing.assert_close(mask_quality(mask_logits), torch.tensor(expected), atol=1e-5, rtol=0)
