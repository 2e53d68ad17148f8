"""What every part of an engine sees, beside what its published processor makes of the same image: largest and mean differences.

``python -m bench.preprocessing`` prints one line for each part and image, in the units of the network's input; it needs no
weights and no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.engines.device import import_class
from backend.engines.sam.detectors import MEAN, STD, Owlv2, fit, network_input
from backend.engines.sam.engine import KEPT_SIDE, _smaller
from backend.engines.sam.transforms import HALF_MEAN, HALF_STD, IMAGENET_MEAN, IMAGENET_STD, PadFrame, SquashFrame
from prompts.encoders.openclip import OpenClip
from prompts.geometry import Size, size_of

Image = NDArray[np.uint8]
CPU = torch.device("cpu")
SHAPES = {"4:3": (480, 640), "1:3": (600, 200), "3:1": (200, 600), "under 32 px": (20, 28), "over 2,000 px": (1600, 2300)}


def pictures() -> Iterator[tuple[str, Image]]:
    """Images of odd sizes with coarse and fine structure; one that was grey, and one that was half transparent, as they come
    out of decoding: three channels, on white.
    """
    for name, (height, width) in SHAPES.items():
        yield name, picture(height, width)
    grey = picture(300, 400).mean(axis=2).round().astype(np.uint8)
    yield "grey", np.repeat(grey[..., None], 3, axis=2)
    half = picture(300, 400).astype(np.float32) * 0.5 + 127.5
    yield "alpha", half.round().astype(np.uint8)


def picture(height: int, width: int) -> Image:
    """Waves of all lengths with some noise, the same every time."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / length) + np.cos(columns / length) for length in (2.0, 17.0, 90.0)]
    noise = np.random.default_rng(0).normal(0, 0.3, (height, width, 3))
    values = np.stack(waves, axis=2) / 2 + noise
    return ((values.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)


def detector_input(image: Image, size: Size) -> Tensor:
    """What a detector sees: its input is made of the copy that is kept of every image."""
    kept = torch.from_numpy(_smaller(image, KEPT_SIDE))
    return network_input({"pixels": kept}, size, CPU, (IMAGENET_MEAN, IMAGENET_STD))[0]


def clip_input(image: Image) -> Tensor:
    """What CLIP sees of a crop."""
    encoder = SimpleNamespace(_mean=MEAN, _std=STD, device=CPU)
    return OpenClip._pixels(encoder, image, 224, 224)[0]  # type: ignore[arg-type]


def owl_input(image: Image) -> Tensor:
    """What OWLv2 sees where the image is; the padding is grey here, as in its own code, and black in transformers."""
    side = 960
    kept = {"pixels": torch.from_numpy(_smaller(image, KEPT_SIDE))}
    return _on_the_image(Owlv2._pixels(SimpleNamespace(_side=side, device=CPU), kept)[0], image)  # type: ignore[arg-type]


def _on_the_image(pixels: Tensor, image: Image) -> Tensor:
    longer = max(image.shape[:2])
    rows, columns = (max(round(side * pixels.shape[-1] / longer), 1) for side in image.shape[:2])
    return pixels[:, :rows, :columns]


OURS: Mapping[str, Callable[[Image], Tensor]] = {
    "SAM, SAM-HQ (padded to 1024)": lambda image: PadFrame(1024).pixels(image, CPU),
    "SAM 2.1, EdgeTAM (squashed to 1024)": lambda image: SquashFrame(1024).pixels(image, CPU),
    "SAM 3 (squashed to 1008)": lambda image: SquashFrame(1008, HALF_MEAN, HALF_STD).pixels(image, CPU),
    "OmDet-Turbo (squashed to 640)": lambda image: detector_input(image, Size(640, 640)),
    "Grounding DINO (800 to 1333)": lambda image: detector_input(image, fit(size_of(image), 800, 1333)),
    "OWLv2 (padded to 960)": owl_input,
    "CLIP crops (squashed to 224)": clip_input,
}


def processors() -> dict[str, Callable[[Image], Tensor]]:
    """The published processors by the names of OURS."""

    def by(processor: Any) -> Callable[[Image], Tensor]:
        return lambda image: processor(image, return_tensors="pt", input_data_format="channels_last")["pixel_values"][0].float()

    square, omdet = {"height": 224, "width": 224}, {"height": 640, "width": 640}
    clip = import_class("CLIPImageProcessor")(size=square, do_center_crop=False, image_mean=MEAN, image_std=STD)
    owl = by(import_class("Owlv2ImageProcessor")())
    return {
        "SAM, SAM-HQ (padded to 1024)": by(import_class("SamImageProcessor")()),
        "SAM 2.1, EdgeTAM (squashed to 1024)": by(import_class("Sam2ImageProcessor")()),
        "SAM 3 (squashed to 1008)": by(import_class("Sam3ImageProcessor")()),
        "OmDet-Turbo (squashed to 640)": by(import_class("DetrImageProcessor")(size=omdet, do_pad=False)),
        "Grounding DINO (800 to 1333)": by(import_class("GroundingDinoImageProcessor")()),
        "OWLv2 (padded to 960)": lambda image: _on_the_image(owl(image), image),
        "CLIP crops (squashed to 224)": by(clip),
    }


def differences() -> Iterator[tuple[str, str, float, float]]:
    """Part, image, largest and mean difference; infinite where not even the sizes are the same."""
    theirs = processors()
    for name, image in pictures():
        for part, ours in OURS.items():
            one, other = ours(image), theirs[part](image)
            if one.shape != other.shape:
                yield part, name, float("inf"), float("inf")
            else:
                apart = (one - other).abs()
                yield part, name, float(apart.max()), float(apart.mean())


def main() -> None:
    print("| part | image | largest | mean |\n|---|---|---|---|")
    for part, name, largest, mean in differences():
        print(f"| {part} | {name} | {largest:.4f} | {mean:.5f} |", flush=True)


if __name__ == "__main__":
    main()
