"""SEEM behind Maskloom's decoder interface."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from backend.engines.base import outside_negatives
from backend.engines.device import computing
from backend.engines.seem.answering import Answering, Judgement
from backend.engines.seem.frame import InputSize, SeemImage, SeemNetwork, frame_of
from backend.engines.seem.predictor import Ask, Prediction
from backend.engines.seem.space import SeemSpace, render
from backend.values.features import ImageFeatures
from backend.values.masks import MaskSet
from prompts.kinds import Image, PromptSet
from prompts.memory import ObjectMemory
from prompts.space import PromptTokens
from prompts.torch_fallbacks import with_cpu_fallback


class SeemDecoder:
    """Images and prompts to masks, by SEEM; backend.engines.base.MaskDecoder says what is answered.

    Images are encoded in ``dtype``, prompts are answered in float32: masks need the digits. When its device is full, the whole
    network moves to the CPU for good, and what was asked is answered there.
    """

    def __init__(
        self, network: SeemNetwork, limits: InputSize, dtype: torch.dtype, judgement: Judgement, space: SeemSpace
    ) -> None:
        self._network = network
        self._limits = limits
        self._space = space
        self._dtype = dtype
        self._classes = judgement.classes
        self._answering = Answering(network.predictor, judgement)

    @property
    def device(self) -> torch.device:
        return self._network.device

    def to(self, device: torch.device) -> None:
        """Move all weights."""
        self._network.to(device)

    def encode_images(self, images: Sequence[Image]) -> list[ImageFeatures]:
        """The features of upright RGB images ``(H, W, 3)`` uint8, one at a time because their sizes differ."""
        with torch.inference_mode():
            return [self._encode(image) for image in images]

    @with_cpu_fallback
    def decode(self, features: ImageFeatures, prompts: PromptSet, tokens: PromptTokens, memory: ObjectMemory | None) -> MaskSet:
        """The masks that the prompts ask for on one image. Raises TypeError for references of another engine."""
        mine = self._space.read(tokens)
        device = self._network.device
        image, mine = SeemImage.unpack(features, self._limits, device), mine.on(device)
        with torch.inference_mode():
            drawings = render(prompts, image.frame, memory, device)
            if len(drawings):
                return self._answering.drawings(image, drawings, mine)
            if prompts.said:
                return outside_negatives(self._answering.words_and_references(image, mine), prompts)
            return MaskSet.empty(features.size) if prompts.drawn else self._answering.everything(image)

    @with_cpu_fallback
    def _encode(self, image: Image) -> ImageFeatures:
        """The backbone, the pixel decoder and one pass of the mask decoder that asks for nothing. The latter is what is found
        without a prompt, and what gives every place of the image a meaning; meanings are float32, as those of phrases are.
        """
        frame, device = frame_of(image, self._limits), self._network.device
        with computing(device, self._dtype):
            pixels = self._network.encode(frame.prepare(image).to(device)).float()
            objects: Prediction = self._network.predictor(pixels, Ask(objects=1))[-1].float()
        return SeemImage(frame, pixels, objects).pack(self._classes.objectness(objects.embedding))
