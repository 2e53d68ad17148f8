"""The sentence encoder that teaches the text tower: all-MiniLM-L6-v2 (Apache-2.0), read from the package that carries it.

The forward pass is BERT's (Devlin et al. 2019), the pooling the mean over tokens and the tokenizer greedy WordPiece.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from prompts.encoders.embedded import words_of

_HEADS = 12


class Teacher:
    """Sentence embeddings ``(N, 384)``, unit vectors. ``folder`` holds model.safetensors and vocab.txt."""

    def __init__(self, folder: Path) -> None:
        self.vocabulary = folder.joinpath("vocab.txt").read_text().split("\n")
        self._ids = {token: k for k, token in enumerate(self.vocabulary)}
        raw = load_file(folder / "model.safetensors")
        self._weights = {name.removeprefix("bert."): tensor.float() for name, tensor in raw.items()}

    @torch.inference_mode()
    def encode(self, phrases: Sequence[str], batch: int = 256) -> NDArray[np.float32]:
        """The embeddings of phrases, in order; phrases of one length are encoded together."""
        tokens = [self._tokens(phrase) for phrase in phrases]
        order = sorted(range(len(tokens)), key=lambda k: len(tokens[k]))
        result = np.zeros((len(tokens), 384), np.float32)
        start = 0
        while start < len(order):
            length = len(tokens[order[start]])
            rows = [k for k in order[start : start + batch] if len(tokens[k]) == length]
            result[rows] = self._forward(torch.tensor([tokens[k] for k in rows])).numpy()
            start += len(rows)
        return result

    def _tokens(self, phrase: str) -> list[int]:
        pieces = [piece for word in words_of(phrase) for piece in self._wordpieces(word)]
        return [self._ids["[CLS]"], *pieces, self._ids["[SEP]"]]

    def _wordpieces(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in self._ids), None)
            if end is None:
                return [self._ids["[UNK]"]]
            found.append(self._ids[prefix + word[start:end]])
            start = end
        return found

    def _forward(self, ids: Tensor) -> Tensor:
        weights = self._weights
        places = weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        hidden = weights["embeddings.word_embeddings.weight"][ids] + places
        hidden = self._norm(hidden + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(6):
            hidden = self._layer(hidden, f"encoder.layer.{layer}")
        return F.normalize(hidden.mean(dim=1), dim=-1)

    def _layer(self, hidden: Tensor, name: str) -> Tensor:
        query, key, value = (self._split(self._linear(hidden, f"{name}.attention.self.{k}")) for k in ("query", "key", "value"))
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        mixed = self._linear(mixed, f"{name}.attention.output.dense")
        hidden = self._norm(hidden + mixed, f"{name}.attention.output.LayerNorm")
        inner = F.gelu(self._linear(hidden, f"{name}.intermediate.dense"))
        return self._norm(hidden + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _split(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(2, (_HEADS, -1)).transpose(1, 2)

    def _linear(self, hidden: Tensor, name: str) -> Tensor:
        return F.linear(hidden, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, hidden: Tensor, name: str) -> Tensor:
        weights = self._weights
        return F.layer_norm(hidden, hidden.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)
