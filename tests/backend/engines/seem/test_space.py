"""What was drawn, object by object, in the network's input; and which object the previous round was about."""

from __future__ import annotations

import numpy as np
import torch

from backend.engines.seem.inputs import InputFrame, InputSize
from backend.engines.seem.space import Drawings, render
from prompts.geometry import Size
from prompts.kinds import BoxPrompt, ObjectMemory, PointPrompt, Prompt, PromptSet

FRAME = InputFrame.of(Size(64, 96), InputSize(64, 128, 32))
LEFT, RIGHT = BoxPrompt((4, 8, 40, 56)), BoxPrompt((56, 8, 92, 56))


def drawn(*prompts: Prompt, memory: ObjectMemory | None = None) -> Drawings:
    return render(PromptSet(prompts), FRAME, memory, torch.device("cpu"))


def memory_of(columns: slice) -> ObjectMemory:
    """A previous mask of 16 x 24 cells, 4 pixels each."""
    logits = np.full((16, 24), -8, np.float16)
    logits[2:14, columns] = 8
    return ObjectMemory(logits, "seem")


def test_every_box_is_an_object_of_its_own() -> None:
    found = drawn(LEFT, RIGHT)
    assert found.positive.sum(dim=(1, 2)).tolist() == [36 * 48] * 2
    assert not (found.positive[0] & found.positive[1]).any()
    assert not found.negative.any()
    assert found.memory is None


def test_memory_belongs_to_the_object_that_is_drawn_on_it() -> None:
    for boxes, owner in (((LEFT, RIGHT), 1), ((RIGHT, LEFT), 0)):
        memory = drawn(*boxes, memory=memory_of(slice(15, 22))).memory
        assert memory is not None
        assert memory.owner.tolist() == [owner]


def test_an_object_that_was_only_told_what_it_is_not_is_shown_its_previous_mask() -> None:
    found = drawn(PointPrompt((70, 30), positive=False), memory=memory_of(slice(15, 22)))
    assert len(found) == 1
    assert found.negative[0].sum() == 9
    assert not (found.positive[0] & found.negative[0]).any()
    assert found.positive[0, 30, 80]
    assert not found.positive[0, 30, 20]
    assert found.memory is not None
    assert found.memory.owner.tolist() == [0]


def test_what_nothing_shows_is_no_object() -> None:
    assert len(drawn(PointPrompt((70, 30), positive=False))) == 0
    assert len(drawn()) == 0


def test_what_is_drawn_elsewhere_has_no_memory() -> None:
    found = drawn(LEFT, BoxPrompt((2, 2, 6, 6)), memory=memory_of(slice(15, 22)))
    assert len(found) == 2
    assert found.memory is None
