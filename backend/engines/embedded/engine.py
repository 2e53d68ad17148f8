"""The embedded engine's decoder and the file of its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.engines.embedded.edges import sharpen
from backend.engines.embedded.from_drawing import Drawing, decode_object, draw_on, extent_of, readings
from backend.engines.embedded.from_text import Calibration, compete, find_all, reference_logits, said_logits
from backend.engines.embedded.network import ImageEncoder, ViewDecoder, fold_batch_norm
from backend.engines.embedded.views import Answer, Canvas, chance_of, memory_on, to_masks
from backend.values.errors import SetupError
from backend.values.features import ImageFeatures
from backend.values.masks import MaskSet
from prompts.encoders.embedded import TextTower
from prompts.geometry import size_of
from prompts.kinds import Image, PromptSet
from prompts.memory import ObjectMemory, owner_of
from prompts.space import PromptTokens

_NAMES = "names"
SHIPPED = Path(__file__).parents[2] / "weights" / "embedded.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What training leaves: the networks as they were trained, unit vectors ``(A, D)`` of the names that the encoder was
    trained to know, and what was fitted afterwards.
    """

    encoder: ImageEncoder
    views: ViewDecoder
    text: TextTower
    names: Tensor
    calibration: Calibration

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks by their names in the file."""
        return {"encoder": self.encoder, "views": self.views, "text": self.text}


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A checkpoint in memory, ready to answer; ``version`` ends with a hash of the file."""

    decoder: EmbeddedDecoder
    tower: TextTower
    calibration: Calibration
    version: str


def read(path: Path) -> Loaded:
    """The checkpoint at ``path``. Raises SetupError where it is missing, broken or made for another network."""
    try:
        found = read_checkpoint(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:10]
    except FileNotFoundError as error:
        raise SetupError(f"there are no weights at {path}: give a file that `python -m train` wrote") from error
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        hint = "give a file that `python -m train` wrote"
        raise SetupError(f"{path} is no checkpoint of the embedded engine ({error}): {hint}") from error
    fold_batch_norm(found.encoder)
    fold_batch_norm(found.views)
    decoder = EmbeddedDecoder(found.encoder, found.views, found.calibration, found.names)
    return Loaded(decoder, found.text.eval(), found.calibration, f"embedded-{digest}")


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint as it was trained. Raises what reading a file that is none raises."""
    with safe_open(path, "pt") as file:
        calibration = Calibration(**json.loads(file.metadata()["calibration"]))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = Checkpoint(ImageEncoder(), ViewDecoder(), TextTower(), tensors[_NAMES].float(), calibration)
    for name, network in found.networks.items():
        network.load_state_dict(_part(tensors, name, network))
    return found


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in half precision."""
    tensors = {
        f"{name}.{key}": tensor
        for name, network in checkpoint.networks.items()
        for key, tensor in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    halved = {
        key: tensor.detach().half().contiguous() if tensor.is_floating_point() else tensor.contiguous()
        for key, tensor in {**tensors, _NAMES: checkpoint.names}.items()
    }
    save_file(halved, path, {"format": "maskloom-embedded-2", "calibration": json.dumps(asdict(checkpoint.calibration))})
    path.chmod(0o644)


def _part(tensors: dict[str, Tensor], name: str, network: nn.Module) -> dict[str, Tensor]:
    """One network's tensors as float32; counters that only training needs are left as they are."""
    mine = {key.removeprefix(f"{name}."): tensor.float() for key, tensor in tensors.items() if key.startswith(f"{name}.")}
    counters = {key: tensor for key, tensor in network.state_dict().items() if key.endswith("num_batches_tracked")}
    return {**counters, **mine}


ENCODED_SIDE = 384
CANVAS_SIDE = 1024
SHOWN = 0.3
"""The presence that a reference needs: whoever shows an object expects to find it, so less than a phrase needs."""
NOT_DRAWN = Drawing(PromptSet(()), {}, None, None)
_STEP = 32


class EmbeddedDecoder:
    """A MaskDecoder of about four million weights. ``encoder`` and ``views`` are in evaluation mode on one device; ``names``
    are the vectors ``(A, D)`` of the names that the encoder knows.
    """

    def __init__(self, encoder: ImageEncoder, views: ViewDecoder, calibration: Calibration, names: Tensor) -> None:
        self._names = names
        self._encoder = encoder
        self._views = views
        self._calibration = calibration

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image]) -> list[ImageFeatures]:
        """The features of upright RGB images ``(H, W, 3)`` uint8 of any sizes, in order."""
        return [self._encode(image) for image in images]

    def _encode(self, image: Image) -> ImageFeatures:
        device = next(self._encoder.parameters()).device
        small = torch.from_numpy(_resized(image, *_encoded_shape(image))).to(device)
        batch = small.permute(2, 0, 1)[None].float() / 255
        grid = self._encoder.embed(self._encoder(batch.contiguous(memory_format=torch.channels_last)))[0]
        return ImageFeatures(size_of(image), grid, {"pixels": torch.from_numpy(_canvas_pixels(image))})

    @torch.inference_mode()
    def decode(self, features: ImageFeatures, prompts: PromptSet, tokens: PromptTokens, memory: ObjectMemory | None) -> MaskSet:
        """The masks that the prompts ask for on one image; see MaskDecoder."""
        canvas = Canvas.of(features)
        logits = said_logits(tokens, features.grid, self._calibration, self._names)
        previous = chance_of(memory_on(canvas, memory.low_res_logits)) if memory is not None else None
        if prompts.drawn or (previous is not None and not prompts.phrases):
            return self.decode_drawn(canvas, prompts, logits, previous)
        asked = len(tokens.phrases)
        return self._decode_said(canvas, tokens.phrases, torch.cat([compete(logits[:asked], tokens.text), logits[asked:]]))

    @torch.inference_mode()
    def decode_alternatives(self, features: ImageFeatures, prompts: PromptSet) -> MaskSet:
        """What one click may mean, at every scale; see OffersAlternatives."""
        canvas = Canvas.of(features)
        drawing = draw_on(canvas, prompts, None, None)
        answers = [self._finished(answer, canvas, drawing) for answer in readings(self._views, canvas, drawing)]
        return to_masks(answers, [None] * len(answers), canvas)

    def decode_drawing(self, canvas: Canvas, drawing: Drawing) -> Answer | None:
        """The mask of one object on a canvas, without its edge; None where nothing tells where it is."""
        return decode_object(self._views, canvas, drawing)

    def chance_like(self, canvas: Canvas, token: Tensor) -> NDArray[np.float32]:
        """How likely each place ``(H, W)`` of a canvas shows what a region's vector ``(1, D)`` is of, in 0..1."""
        return _on_canvas(reference_logits(token, canvas.features.grid, self._calibration, self._names)[0], canvas)

    def decode_drawn(
        self, canvas: Canvas, prompts: PromptSet, logits: Tensor | None, previous: NDArray[np.float32] | None
    ) -> MaskSet:
        """One mask for each drawn object, helped by what was said, ``logits (M, h, w)``, and by the chance of the last answer
        ``(H, W)`` on the canvas, which goes to the object that it is of.
        """
        objects = list(prompts.objects()) or [prompts]
        said = _on_canvas(logits.amax(dim=0), canvas) if logits is not None and len(logits) else None
        drawings = [draw_on(canvas, each, None, said) for each in objects]
        if previous is not None:
            owner = owner_of([drawing.prompts for drawing in drawings], previous > 0.5)
            drawings = [replace(each, previous=previous if k == owner else None) for k, each in enumerate(drawings)]
        found = [(decode_object(self._views, canvas, drawing), drawing) for drawing in drawings]
        answers = [self._finished(answer, canvas, drawing) for answer, drawing in found if answer is not None]
        label = prompts.phrases[0] if len(prompts.phrases) == 1 else None
        return to_masks(answers, [label] * len(answers), canvas)

    def _finished(self, answer: Answer, canvas: Canvas, drawing: Drawing) -> Answer:
        """The answer to a drawing with its edge, never empty, and with a score that means the same for every drawing."""
        sharp = sharpen(_at_least_its_peak(answer), canvas, drawing)
        return sharp if extent_of(drawing) is not None else replace(sharp, quality=self._calibration.of_marks(sharp.quality))

    def _decode_said(self, canvas: Canvas, phrases: Sequence[str], logits: Tensor) -> MaskSet:
        labels: list[str | None] = [*phrases, None][: len(logits)]
        spoken = self._calibration.presence if len(phrases) == 1 else self._calibration.presence_among
        answers: list[Answer] = []
        names: list[str | None] = []
        for label, each in zip(labels, logits, strict=True):
            least = SHOWN if label is None else spoken
            found = [sharpen(one, canvas, NOT_DRAWN) for one in find_all(self._views, canvas, each, least)]
            answers += found
            names += [label] * len(found)
        return to_masks(answers, names, canvas)


def _at_least_its_peak(answer: Answer) -> Answer:
    """The answer itself, or, where no place reaches one half, its likeliest places: whoever draws something gets a mask."""
    peak = float(answer.logits.max())
    return answer if peak > 0 else Answer(answer.logits + (0.5 - peak), answer.quality)


def _on_canvas(logits: Tensor, canvas: Canvas) -> NDArray[np.float32]:
    chance = chance_of(logits.float().cpu().numpy())
    wide = (canvas.size.width, canvas.size.height)
    return np.asarray(cv2.resize(chance, wide, interpolation=cv2.INTER_LINEAR), np.float32)


def _encoded_shape(image: Image) -> tuple[int, int]:
    """Height and width, multiples of 32, with the long side at 384."""
    factor = ENCODED_SIDE / max(image.shape[:2])
    height, width = (max(_STEP, round(extent * factor / _STEP) * _STEP) for extent in image.shape[:2])
    return height, width


def _canvas_pixels(image: Image) -> Image:
    height, width = image.shape[:2]
    factor = CANVAS_SIDE / max(height, width)
    if factor >= 1:
        return np.array(image)
    return _resized(image, max(1, round(height * factor)), max(1, round(width * factor)))


def _resized(image: Image, height: int, width: int) -> Image:
    method = cv2.INTER_AREA if height * width < image.shape[0] * image.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
