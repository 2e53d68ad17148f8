"""The joint space: text, drawn regions and reference regions become rows of unit vectors that can be compared.

A prompt's meaning here does not depend on where it came from: a phrase, a click and a region of another image are all rows
``(N, D)``, and their similarity to the image's features says what they point at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from prompts.kinds import PromptSet, ReferencePrompt, TextPrompt
from prompts.phrases import Vocabulary
from prompts.sampler import FeatureMap, visual_token


class TextEncoder(Protocol):
    """Phrases into the joint space."""

    def encode_text(self, phrases: Sequence[str]) -> Tensor:
        """Unit vectors ``(N, D)`` for N phrases."""
        ...


@dataclass(frozen=True, slots=True)
class Queries:
    """A prompt set in the joint space; every field is ``(N, D)`` of unit vectors, with no rows where nothing was said.

    ``text`` has one row for each of ``phrases``; ``visual`` rows are sampled on this image, ``reference`` rows on the
    reference images; the ``negative`` ones are what the answer must not be.
    """

    phrases: tuple[str, ...]
    text: Tensor
    negative_text: Tensor
    visual: Tensor
    negative_visual: Tensor
    reference: Tensor
    negative_reference: Tensor


class JointSpace:
    """One visual-semantic space: a text encoder, the visual sampler and the scale of their similarity.

    ``name`` identifies the space; vectors of different spaces must never meet.
    """

    def __init__(self, name: str, text_encoder: TextEncoder, logit_scale: float = 100.0) -> None:
        self.name = name
        self.logit_scale = logit_scale
        self._text_encoder = text_encoder

    def embed(self, prompts: PromptSet, features: FeatureMap, references: Sequence[FeatureMap] = ()) -> Queries:
        """The queries of a prompt set on an image; ``references`` are the features of its reference images, in order."""
        visual = visual_token(features, prompts.region(features.size, positive=True))
        nothing = visual[:0]

        def say(positive: bool) -> Tensor:
            phrases = [text.phrase for text in prompts.of(TextPrompt) if text.positive == positive]
            return self.embed_phrases(phrases) if phrases else nothing

        def show(positive: bool) -> Tensor:
            pairs = zip(prompts.of(ReferencePrompt), references, strict=True)
            return torch.cat([nothing, *(visual_token(there, at.mask) for at, there in pairs if at.positive == positive)])

        return Queries(
            phrases=prompts.phrases,
            text=say(positive=True),
            negative_text=say(positive=False),
            visual=visual,
            negative_visual=visual_token(features, prompts.region(features.size, positive=False)),
            reference=show(positive=True),
            negative_reference=show(positive=False),
        )

    def embed_phrases(self, phrases: Sequence[str]) -> Tensor:
        """Unit vectors ``(N, D)`` of N phrases."""
        return self._text_encoder.encode_text(phrases)

    def embed_vocabulary(self, vocabulary: Vocabulary) -> Tensor:
        """Unit vectors ``(L, D)``, one for each label: the mean of its phrases."""
        rows = [self.embed_phrases(entry.phrases).mean(dim=0) for entry in vocabulary.entries]
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)

    def similarity(self, left: Tensor, right: Tensor) -> Tensor:
        """Cosine similarity ``(N, M)`` of unit vectors ``(N, D)`` and ``(M, D)``."""
        return left @ right.T
