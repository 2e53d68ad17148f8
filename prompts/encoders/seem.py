"""SEEM's language encoder: phrases as the tokens and the one vector that its mask decoder was trained with.

A causal CLIP-style transformer (Radford et al. 2021; UniCL, Yang et al. 2022). Parameter names are those of the official
checkpoints. The tokenizer is CLIP's byte pair encoding, from open_clip.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from prompts.encoders import declare_missing_operators, with_cpu_fallback

VOCABULARY_SIZE = 49408
CONTEXT = 77
END_OF_TEXT = 49407
MOST_REMEMBERED = 64
Tokenize = Callable[[Sequence[str]], Tensor]
"""Phrases to token ids ``(N, 77)``; everything after the first end-of-text token is padding."""


@dataclass(frozen=True, slots=True)
class LanguageSizes:
    """Sizes of the language encoder."""

    width: int
    heads: int
    depth: int


@dataclass(frozen=True, slots=True)
class PhraseTokens:
    """N phrases read: ``tokens (N, L, D)``, of which each phrase owns the first ``lengths (N,)``, and one vector for each,
    ``sentence (N, D)``. Nothing is normalised.
    """

    tokens: Tensor
    lengths: Tensor
    sentence: Tensor

    def of(self, row: int) -> Tensor:
        """The tokens ``(n, D)`` of one phrase, from its begin-of-text to its end-of-text."""
        return self.tokens[row, : int(self.lengths[row])]

    def to(self, device: torch.device) -> PhraseTokens:
        """The same on a device."""
        return PhraseTokens(*(each.to(device) for each in (self.tokens, self.lengths, self.sentence)))

    def rows(self, chosen: slice) -> PhraseTokens:
        """Some of the phrases."""
        return PhraseTokens(self.tokens[chosen], self.lengths[chosen], self.sentence[chosen])


class _Block(nn.Module):
    """A pre-norm transformer block with QuickGELU, ``(N, L, D)`` to the same."""

    def __init__(self, sizes: LanguageSizes) -> None:
        super().__init__()
        width = sizes.width
        self.attn = nn.MultiheadAttention(width, sizes.heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", _QuickGelu()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict[str, nn.Module](layers))

    def forward(self, x: Tensor, causal: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=causal, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class _QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Transformer(nn.Module):
    """Token ids ``(N, L)`` to token vectors ``(N, L, D)``."""

    def __init__(self, sizes: LanguageSizes) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY_SIZE, sizes.width)
        self.positional_embedding = nn.Parameter(torch.zeros(CONTEXT, sizes.width))
        self.resblocks = nn.ModuleList(_Block(sizes) for _ in range(sizes.depth))
        self.ln_final = nn.LayerNorm(sizes.width, eps=1e-12)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        x = self.token_embedding(ids) + self.positional_embedding[:length]
        for block in self.resblocks:
            x = block(x, causal)
        out: Tensor = self.ln_final(x)
        return out


class LanguageEncoder(nn.Module):
    """The network; ``logit_scale`` is the logarithm of the scale of similarities with its vectors."""

    def __init__(self, sizes: LanguageSizes) -> None:
        super().__init__()
        self.lang_encoder = _Transformer(sizes)
        self.lang_proj = nn.Parameter(torch.zeros(sizes.width, sizes.width))
        self.logit_scale = nn.Parameter(torch.ones(()))

    def forward(self, ids: Tensor) -> PhraseTokens:
        """Token ids ``(N, 77)``. Only as many columns are computed as the longest phrase has: every token looks back alone,
        so that what follows a phrase cannot change it.
        """
        lengths = (ids == END_OF_TEXT).int().argmax(dim=1) + 1
        tokens = self.lang_encoder(ids[:, : int(lengths.max())]) @ self.lang_proj
        sentence = tokens[torch.arange(len(ids), device=ids.device), lengths - 1]
        return PhraseTokens(tokens, lengths, sentence)


class SeemTextEncoder:
    """Phrases into SEEM's joint space; its network moves to the CPU by itself when its device is full."""

    def __init__(self, network: LanguageEncoder, tokenize: Tokenize) -> None:
        self._network = network
        self._tokenize = tokenize
        self._recall = lru_cache(maxsize=MOST_REMEMBERED)(self._read)

    def read(self, phrases: Sequence[str]) -> PhraseTokens:
        """The tokens of N phrases; the last ones that were asked for are remembered."""
        return self._recall(tuple(phrases))

    @property
    def device(self) -> torch.device:
        return self._network.lang_proj.device

    def to(self, device: torch.device) -> None:
        """Move all weights."""
        self._network.to(device)

    @with_cpu_fallback
    def _read(self, phrases: tuple[str, ...]) -> PhraseTokens:
        ids = self._tokenize(phrases).to(self._network.lang_proj.device)
        read: PhraseTokens = self._network(ids)
        return read

    def encode_text(self, phrases: Sequence[str]) -> Tensor:
        """Unit vectors ``(N, D)`` of N phrases, on the CPU."""
        return functional.normalize(self.read(phrases).sentence, dim=-1).float().cpu()


def clip_tokenizer() -> Tokenize:
    """CLIP's byte pair encoding. Raises ImportError without open_clip."""
    tokenizer = load_open_clip().SimpleTokenizer()

    def tokenize(phrases: Sequence[str]) -> Tensor:
        ids: Tensor = tokenizer(list(phrases), context_length=CONTEXT)
        return ids

    return tokenize


def load_open_clip() -> ModuleType:
    """open_clip, imported so that a torchvision of another build does not stop it. Raises ImportError without open_clip."""
    declare_missing_operators()
    return importlib.import_module("open_clip")
