"""Following through a film gives, frame for frame, what transformers' own video sessions give, in memory that stays bounded."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.engines.base import TrackedMask
from backend.engines.catalogue import Placement
from backend.engines.sam.networks import Sam2Session, Sam2Tracker, load_sam2, load_tracker
from backend.engines.sam.sam3 import load_sam3
from prompts.geometry import BoolArray
from prompts.kinds import BoxPrompt, Image, MaskPrompt, PointPrompt, PolygonPrompt, PromptError, PromptSet, ScribblePrompt
from tests.backend.engines import tiny_models

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 48, 80
CPU = Placement("cpu", "float32")


def film(count: int) -> list[Image]:
    """A bright square on noise, moving to the right."""
    dice = np.random.default_rng(7)
    frames = []
    for number in range(count):
        image = dice.integers(0, 90, (HEIGHT, WIDTH, 3), np.uint8)
        image[14:30, 8 + 3 * number : 24 + 3 * number] = (220, 180, 40)
        frames.append(image)
    return frames


def square_mask(left: int) -> BoolArray:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[14:30, left : left + 16] = True
    return mask


@pytest.fixture(scope="module", params=["sam2_video", "edgetam_video", "sam3_video"])
def tracker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sam2Tracker:
    write, load = {
        "sam2_video": (tiny_models.write_sam2_video, load_sam2),
        "edgetam_video": (tiny_models.write_edgetam_video, load_sam2),
        "sam3_video": (partial(tiny_models.write_sam3, width=2 * tiny_models.MEMORY_WIDTH), load_sam3),
    }[request.param]
    folder = write(tmp_path_factory.mktemp(request.param))
    found = load_tracker(folder, request.param, load(folder, request.param, CPU), CPU)
    assert found is not None
    with torch.no_grad():  # random weights see no object anywhere, and every mask would be the one of an absent object
        found._model.mask_decoder.pred_obj_score_head.proj_out.bias += 4
    return found


def last_logits(state: Any, frame: int) -> torch.Tensor:
    """The mask logits of the first object on a frame as the session keeps them."""
    outputs = state.output_dict_per_obj[0]
    kept = outputs["cond_frame_outputs"].get(frame) or outputs["non_cond_frame_outputs"][frame]
    logits: torch.Tensor = kept["pred_masks"]
    return logits


class Theirs:
    """transformers' own session, fed with the same pixels, streaming."""

    def __init__(self, tracker: Sam2Tracker) -> None:
        from transformers import Sam2ImageProcessor, Sam2VideoProcessor, Sam2VideoVideoProcessor

        side = tracker._network.frame.side
        self.processor = Sam2VideoProcessor(Sam2ImageProcessor(), Sam2VideoVideoProcessor(), target_size=side)
        self.model, self.frame = tracker._model, tracker._network.frame
        self.state = tracker._session_class(video_height=HEIGHT, video_width=WIDTH, dtype=torch.float32)

    def add(self, frame: int, object_id: int, **inputs: Any) -> None:
        self.processor.add_inputs_to_inference_session(self.state, frame, object_id, original_size=(HEIGHT, WIDTH), **inputs)

    @torch.inference_mode()
    def run(self, frame: int, image: Image, reverse: bool = False) -> dict[int, BoolArray]:
        pixels = self.frame.pixels(image, torch.device("cpu"))
        out = self.model(self.state, frame_idx=frame, frame=pixels[None], reverse=reverse)
        full = torch.nn.functional.interpolate(out.pred_masks, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
        there = out.object_score_logits.flatten() > 0
        return {k: (full[row, 0] > 0).numpy() & bool(there[row]) for row, k in enumerate(out.object_ids)}


def assert_equal(mine: dict[int, TrackedMask], theirs: dict[int, BoolArray]) -> None:
    assert mine.keys() == theirs.keys()
    for number, found in mine.items():
        assert_same_mask(found.mask, theirs[number])


def assert_same_mask(mine: BoolArray, theirs: BoolArray, pixels: int = 2) -> None:
    """Equal, but for pixels whose logit rounds to zero: boxes are scaled in another order."""
    assert np.logical_xor(mine, theirs).sum() <= pixels


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("kind", ["click", "box", "mask"])
def test_every_frame_equals_transformers_own_session(tracker: Sam2Tracker, kind: str, direction: Any) -> None:
    prompts: dict[str, tuple[Any, dict[str, Any]]] = {
        "click": (PointPrompt((16, 22)), {"input_points": [[[[16.0, 22.0]]]], "input_labels": [[[1]]]}),
        "box": (BoxPrompt((8, 14, 24, 30)), {"input_boxes": [[[8.0, 14.0, 24.0, 30.0]]]}),
        "mask": (MaskPrompt(square_mask(8)), {"input_masks": square_mask(8)}),
    }
    numbers = list(range(20))[::direction]
    session, theirs = tracker.start(direction), Theirs(tracker)
    prompt, inputs = prompts[kind]
    images = dict(zip(numbers, film(20), strict=True))

    theirs.add(numbers[0], 4, **inputs)
    first = session.prompt(numbers[0], images[numbers[0]], 4, PromptSet((prompt,)))

    assert_equal({4: first}, theirs.run(numbers[0], images[numbers[0]]))
    assert isinstance(session, Sam2Session)
    for number in numbers[1:]:
        assert_equal(session.follow(number, images[number]), theirs.run(number, images[number], reverse=direction == -1))
        logits = last_logits(session._state, number)
        torch.testing.assert_close(logits, last_logits(theirs.state, number), rtol=1e-4, atol=1e-4)
        assert logits.std() > 0.01


def test_an_object_that_comes_later_costs_the_earlier_ones_nothing(tracker: Sam2Tracker) -> None:
    alone, both, images = tracker.start(1), tracker.start(1), film(8)
    for session in (alone, both):
        session.prompt(0, images[0], 1, PromptSet((MaskPrompt(square_mask(8)),)))
    for number in range(1, 8):
        expected = alone.follow(number, images[number])
        found = both.follow(number, images[number])
        if number == 3:
            both.prompt(3, images[3], 2, PromptSet((BoxPrompt((40, 5, 70, 40)),)))
        # memories of several objects are encoded together and kept in bfloat16, which has three digits
        assert_same_mask(found[1].mask, expected[1].mask, pixels=HEIGHT * WIDTH // 200)
        assert (2 in found) == (number > 3)


def test_a_correction_changes_what_follows_and_is_remembered_as_prompted(tracker: Sam2Tracker) -> None:
    plain, corrected, images = tracker.start(1), tracker.start(1), film(6)
    answers: list[list[float]] = []
    for session in (plain, corrected):
        assert isinstance(session, Sam2Session)
        session.prompt(0, images[0], 1, PromptSet((PointPrompt((16, 22)),)))
        logits = []
        for number in range(1, 6):
            session.follow(number, images[number])
            if number == 2 and session is corrected:
                session.prompt(2, images[2], 1, PromptSet((MaskPrompt(square_mask(40)),)))
                assert list(session._state.output_dict_per_obj[0]["cond_frame_outputs"]) == [0, 2]
            logits.append(float(last_logits(session._state, number).mean()))
        answers.append(logits)

    assert answers[0][0] == answers[1][0]
    assert answers[0][2:] != answers[1][2:]


def test_a_session_keeps_no_more_after_a_long_film_than_after_a_short_one(tracker: Sam2Tracker) -> None:
    session = tracker.start(1)
    assert isinstance(session, Sam2Session)
    images = film(4)
    session.prompt(0, images[0], 1, PromptSet((MaskPrompt(square_mask(8)),)))
    kept = []
    for number in range(1, 60):
        session.follow(number, images[number % 4])
        outputs = session._state.output_dict_per_obj[0]
        kept.append(len(outputs["non_cond_frame_outputs"]) + len(session._state.frames_tracked_per_obj[0]))
        assert len(session._state.processed_frames) == 1
        assert not any("high_res_masks" in one for group in outputs.values() for one in group.values())

    assert max(kept[30:]) == max(kept[:30]) <= 2 * (session._reach + 1)


def test_strokes_and_outlines_start_a_track_and_nothing_drawn_is_refused(tracker: Sam2Tracker) -> None:
    image = film(1)[0]
    outline = PolygonPrompt(np.array([[8.0, 14], [24, 14], [24, 30], [8, 30]]))

    by_outline = tracker.start(1).prompt(0, image, 1, PromptSet((outline,)))
    tracker.start(1).prompt(0, image, 1, PromptSet((ScribblePrompt(square_mask(8)),)))

    assert np.logical_xor(by_outline.mask, square_mask(8)).sum() < 60 or not by_outline.mask.any()
    with pytest.raises(PromptError, match="drawn on the object"):
        tracker.start(1).prompt(0, image, 1, PromptSet((PointPrompt((3, 3), positive=False),)))


def test_a_checkpoint_of_images_alone_has_no_tracker(tmp_path: Path) -> None:
    folder = tiny_models.write_sam2(tmp_path)

    assert load_tracker(folder, "sam2", load_sam2(folder, "sam2", CPU), CPU) is None
