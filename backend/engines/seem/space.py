"""SEEM's own joint space: phrases through its language encoder, regions of other images as the tokens its decoder reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backend.engines.seem.frame import InputSize, SeemImage, SeemNetwork
from backend.engines.seem.sampler import VisualTokens, stack_tokens
from backend.engines.seem.vocabulary import QUICK, VocabularyReader
from backend.values.features import ImageFeatures
from prompts.cpu_fallback import with_cpu_fallback
from prompts.encoders.seem import PhraseTokens, SeemTextEncoder
from prompts.kinds import ReferencePrompt
from prompts.phrases import Vocabulary
from prompts.sampler import FeatureMap
from prompts.space import JointSpace, PromptTokens


@dataclass(frozen=True, slots=True)
class SeemTokens:
    """What SEEM's decoder reads: the tokens of the positive ``phrases``, and of the reference regions, each region a prompt of
    its own, None where there are none; and the vectors ``(N, D)`` of the negative phrases.
    """

    phrases: tuple[str, ...]
    negative_text: Tensor
    read: PhraseTokens | None
    shown: VisualTokens | None
    negative_shown: VisualTokens | None

    def on(self, device: torch.device) -> SeemTokens:
        """The same with its tokens on a device, to which its decoder may have moved after they were read."""
        tokens = {name: getattr(self, name) for name in ("read", "shown", "negative_shown")}
        return replace(self, **{name: each.to(device) for name, each in tokens.items() if each is not None})


class SeemSpace(JointSpace):
    """A joint space that speaks to SEEM's decoder in tokens and to everybody else in unit vectors."""

    def __init__(self, name: str, text: SeemTextEncoder, vocabulary: VocabularyReader, sight: Sight) -> None:
        super().__init__(name, text, sight.logit_scale)
        self._text = text
        self._vocabulary = vocabulary
        self._sight = sight

    def read(self, tokens: PromptTokens) -> SeemTokens:
        """The phrases and references of a prompt set as SEEM's decoder reads them."""
        shown: dict[bool, list[VisualTokens]] = {True: [], False: []}
        for prompt, there in tokens.references:
            if prompt.mask.any():
                shown[prompt.positive].append(self._sight.look(there, prompt))
        return SeemTokens(
            phrases=tokens.phrases,
            negative_text=tokens.negative_text,
            read=self._text.read(tokens.phrases) if tokens.phrases else None,
            shown=stack_tokens(shown[True]) if shown[True] else None,
            negative_shown=stack_tokens(shown[False]) if shown[False] else None,
        )

    def embed_vocabulary(self, vocabulary: Vocabulary) -> Tensor:
        """Unit vectors ``(L, D)``, one for each label: the mean of its phrases in several templates, kept on disk."""
        return self._vocabulary.read([entry.phrases for entry in vocabulary.entries], QUICK)


class Sight:
    """The visual sampler of a network, for regions of encoded images."""

    def __init__(self, network: SeemNetwork, limits: InputSize) -> None:
        self._network = network
        self._limits = limits

    @property
    def logit_scale(self) -> float:
        return float(self._network.predictor.lang_encoder.logit_scale.exp())

    @property
    def device(self) -> torch.device:
        return self._network.device

    def to(self, device: torch.device) -> None:
        """Move all weights."""
        self._network.to(device)

    @with_cpu_fallback
    def look(self, features: FeatureMap, reference: ReferencePrompt) -> VisualTokens:
        """The tokens of one region of another image. Raises TypeError for features of another engine."""
        if not isinstance(features, ImageFeatures):
            raise TypeError(f"expected ImageFeatures of SEEM, got {type(features).__name__}")
        image = SeemImage.unpack(features, self._limits, self._network.device)
        mask = image.frame.place(reference.mask).to(image.pixels.mask_features.device)[None]
        return self._network.predictor.sample(image.pixels, (mask, torch.zeros_like(mask)))
