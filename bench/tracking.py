"""Speed of following one object through a film with networks of full size and random weights, beside transformers' own loop.

``python -m bench.tracking edgetam sam2-tiny``. Both get the same frames in turn, so that a busy machine slows both; what is
compared is the processor's time. Times say nothing about quality: the weights are random.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer

from backend.engines.sam.networks import VIDEO_CLASSES, Sam2Network, Sam2Tracker
from bench.random_models import HIERA, build, edgetam_vision, sam2_vision
from prompts.kinds import BoxPrompt, Image, PromptSet

HEIGHT, WIDTH = 480, 854
BOX = (200.0, 120.0, 420.0, 330.0)
NAMES = ("edgetam", *HIERA)


def video_model(name: str) -> tuple[Any, Any]:
    """A video network of full size with random weights, and the class of its sessions."""
    import transformers as hf

    if name == "edgetam":
        config, of_type = hf.EdgeTamVideoConfig(vision_config=edgetam_vision()), "edgetam_video"
    else:
        config, of_type = hf.Sam2VideoConfig(vision_config=sam2_vision(HIERA[name])), "sam2_video"
    found = VIDEO_CLASSES[of_type]
    model = getattr(hf, found)(config).eval().requires_grad_(False)
    return model, getattr(hf, found.replace("Model", "InferenceSession"))


def film(count: int) -> list[Image]:
    """Frames of noise with a bright rectangle that moves."""
    dice = np.random.default_rng(3)
    frames = []
    for number in range(count):
        image = dice.integers(0, 90, (HEIGHT, WIDTH, 3), np.uint8)
        image[120:330, 200 + 4 * number : 420 + 4 * number] = (220, 180, 40)
        frames.append(image)
    return frames


def ours(tracker: Sam2Tracker) -> Callable[[int, Image], None]:
    """One step of our session; the first prompts it."""
    session = tracker.start(1)

    def step(number: int, image: Image) -> None:
        if number:
            session.follow(number, image)
        else:
            session.prompt(0, image, 1, PromptSet((BoxPrompt(BOX),)))

    return step


def theirs(network: Sam2Network, model: Any, session_class: Any) -> Callable[[int, Image], None]:
    """One step of transformers' streaming loop, with its own preparation of frames and its own masks at the film's size."""
    from transformers import Sam2ImageProcessor, Sam2VideoProcessor, Sam2VideoVideoProcessor

    processor = Sam2VideoProcessor(Sam2ImageProcessor(), Sam2VideoVideoProcessor(), target_size=network.frame.side)
    state = session_class(video_height=HEIGHT, video_width=WIDTH, dtype=torch.float32)

    def step(number: int, image: Image) -> None:
        inputs = processor(images=image, return_tensors="pt")
        if not number:
            processor.add_inputs_to_inference_session(state, 0, 1, input_boxes=[[list(BOX)]], original_size=(HEIGHT, WIDTH))
        with torch.inference_mode():
            out = model(state, frame_idx=number, frame=inputs["pixel_values"])
        processor.post_process_masks([out.pred_masks], original_sizes=[[HEIGHT, WIDTH]], binarize=True)

    return step


def measure(name: str, frames: int) -> tuple[float, float]:
    """Seconds of the processor for a frame, the median over those with a full memory: ours and theirs."""
    network = build(name, torch.device("cpu"), torch.float32).network
    model, session_class = video_model(name)
    assert isinstance(network, Sam2Network)
    network.lend_encoder(model)
    steps = (ours(Sam2Tracker(network, model, session_class)), theirs(network, model, session_class))
    spent: tuple[list[float], list[float]] = ([], [])
    for number, image in enumerate(film(frames)):
        for step, times in zip(steps, spent, strict=True):
            began = time.process_time()
            step(number, image)
            times.append(time.process_time() - began)
    skipped = min(int(model.num_maskmem), frames // 2)
    return statistics.median(spent[0][skipped:]), statistics.median(spent[1][skipped:])


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Some of {', '.join(NAMES)}.")] = None,
    frames: Annotated[int, typer.Option(min=4, help="How many frames are followed.")] = 16,
) -> None:
    """Print for each network the time of a frame, and the ratio."""
    for name in names or ["edgetam", "sam2-tiny"]:
        mine, other = measure(name, frames)
        print(f"{name}: {mine * 1000:.0f} ms a frame, transformers' own loop {other * 1000:.0f} ms, ratio {mine / other:.3f}")
        sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
