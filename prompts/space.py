"""The joint space: every kind of prompt becomes tokens, rows of unit vectors that can be compared, when somebody reads them.

A prompt's meaning here does not depend on where it came from: a phrase, a click and a region of another image are all rows
``(N, D)``, and their similarity to the image's features says what they point at.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol, assert_never

import numpy as np
import torch
from torch import Tensor

from prompts.kinds import (
    BoxPrompt,
    MaskPrompt,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    PromptSet,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from prompts.memory import LabelMemory, best_cut
from prompts.phrases import Vocabulary
from prompts.sampler import FeatureMap, drawn_points, find_parts, point_token, visual_token


class TextEncoder(Protocol):
    """Phrases into the joint space."""

    def encode_text(self, phrases: Sequence[str]) -> Tensor:
        """Unit vectors ``(N, D)`` for N phrases."""
        ...


class PromptTokens:
    """The tokens of a prompt set, each computed when it is first read: what no engine reads costs nothing.

    Every property is ``(N, D)`` of unit vectors, with no rows where nothing was said; the ``negative`` ones are what the answer
    must not be. ``text`` has one row for each of ``phrases``.
    """

    def __init__(self, space: JointSpace, prompts: PromptSet, here: FeatureMap, references: Sequence[FeatureMap]) -> None:
        self._space = space
        self._prompts = prompts
        self._here = here
        self.references = tuple(zip(prompts.of(ReferencePrompt), references, strict=True))
        """Each reference with the features of its image, for engines that read more of a region than its token."""

    @property
    def phrases(self) -> tuple[str, ...]:
        return self._prompts.phrases

    @cached_property
    def text(self) -> Tensor:
        return self._said(positive=True)

    @cached_property
    def negative_text(self) -> Tensor:
        return self._said(positive=False)

    @cached_property
    def reference(self) -> Tensor:
        return self._shown(positive=True)

    @cached_property
    def negative_reference(self) -> Tensor:
        return self._shown(positive=False)

    def of(self, prompt: Prompt) -> Tensor:
        """The token ``(1, D)`` of one prompt of the set; no row ``(0, D)`` for an empty region."""
        match prompt:
            case TextPrompt():
                return self._space.embed_phrases([prompt.phrase])
            case ReferencePrompt():
                there = next(features for reference, features in self.references if reference is prompt)
                return visual_token(there, prompt.mask)
            case PointPrompt() | BoxPrompt() | PolygonPrompt() | ScribblePrompt() | MaskPrompt():
                return point_token(self._here, drawn_points(prompt, self._here.size))
            case _:
                assert_never(prompt)

    def _said(self, *, positive: bool) -> Tensor:
        phrases = [text.phrase for text in self._prompts.of(TextPrompt) if text.positive == positive]
        return self._space.embed_phrases(phrases) if phrases else self._nothing()

    def _shown(self, *, positive: bool) -> Tensor:
        tokens = [visual_token(there, at.mask) for at, there in self.references if at.positive == positive]
        return torch.cat([self._nothing(), *tokens])

    def _nothing(self) -> Tensor:
        return self._here.sample(np.empty((0, 2)))


class JointSpace:
    """One visual-semantic space: a text encoder, the visual sampler and the scale of their similarity.

    ``name`` identifies the space; vectors of different spaces must never meet.
    """

    def __init__(self, name: str, text_encoder: TextEncoder, logit_scale: float = 100.0) -> None:
        self.name = name
        self.logit_scale = logit_scale
        self._text_encoder = text_encoder

    def embed(self, prompts: PromptSet, features: FeatureMap, references: Sequence[FeatureMap] = ()) -> PromptTokens:
        """The tokens of a prompt set on an image, none of which is computed yet; ``references`` are the features of its
        reference images, in order.
        """
        return PromptTokens(self, prompts, features, references)

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

    def learn(self, label: str, accepted: Tensor, rejected: Tensor) -> LabelMemory:
        """What the tokens ``(N, D)`` of accepted examples of a label establish, beside ``(M, D)`` of rejected regions.

        Its threshold divides the cosines of accepted examples, each with the nearest other one, from those of rejected ones.
        """
        prototypes = find_parts(accepted)
        alike = (accepted @ accepted.T).fill_diagonal_(-1).amax(dim=1) if len(accepted) > 1 else accepted.new_zeros(0)
        unlike = (rejected @ prototypes.T).amax(dim=1) if len(prototypes) else rejected.new_zeros(0)
        return LabelMemory(label, prototypes.numpy(), best_cut(alike.numpy(), unlike.numpy()), self.name)
