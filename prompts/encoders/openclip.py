"""An open_clip model as a joint space: phrases, whole crops and every patch of an image as vectors that can be compared.

Patches need a changed last block, because CLIP's own mixes them towards one summary: without feed-forward and residual, each
patch attends to patches with similar keys, those nearby first (Hajimiri et al. 2025, "Pay Attention to Your Neighbours:
Training-Free Open-Vocabulary Semantic Segmentation", NACLIP).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from prompts.encoders import declare_missing_operators, with_cpu_fallback
from prompts.kinds import Image
from prompts.phrases import fill_templates

TEMPLATES = ("a photo of a {}.", "a photo of the {}.", "a close-up photo of a {}.", "a bad photo of a {}.", "a {} in a scene.")
NEIGHBOURHOOD = 5.0
"""Standard deviation of the neighbourhood in patches, as in NACLIP."""


class PhraseStore(Protocol):
    """Keeps the vectors of phrases between runs."""

    def find(self, phrases: tuple[str, ...], templates: tuple[str, ...]) -> Tensor | None:
        """The vector ``(D,)`` that was kept, or None."""
        ...

    def keep(self, phrases: tuple[str, ...], templates: tuple[str, ...], row: Tensor) -> None: ...


class OpenClip:
    """A CLIP of open_clip whose image tower is a plain vision transformer.

    ``dense_side`` is the longer side, in pixels, at which images are read for their patches. Vectors come on the CPU, to which
    the model itself moves when its device is full. Those of phrases are remembered, between runs in a ``store``.
    """

    def __init__(self, model: Any, tokenizer: Any, preprocess: Any, dense_side: int, store: PhraseStore | None = None) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._mean, self._std = tuple(preprocess["mean"]), tuple(preprocess["std"])
        self._dense_side = dense_side
        self._store = store
        self._phrase = lru_cache(maxsize=4096)(self._recall)
        if not hasattr(model.visual, "transformer") or not hasattr(model.visual, "conv1"):
            raise ValueError(f"dense features need a plain vision transformer, got {type(model.visual).__name__}")

    @classmethod
    def load(cls, folder: Path, device: torch.device, dense_side: int, store: PhraseStore | None = None) -> OpenClip:
        """The model in a folder with ``open_clip_config.json`` and its weights. Raises whatever open_clip raises."""
        declare_missing_operators()
        import open_clip

        name = f"local-dir:{folder}"
        model, _, _ = open_clip.create_model_and_transforms(name, device=device)
        preprocess = open_clip.get_model_preprocess_cfg(model)
        return cls(model.eval().requires_grad_(False), open_clip.get_tokenizer(name), preprocess, dense_side, store)

    @property
    def logit_scale(self) -> float:
        return float(self._model.logit_scale.exp())

    @property
    def device(self) -> torch.device:
        device: torch.device = self._model.logit_scale.device
        return device

    def to(self, device: torch.device) -> None:
        """Move all weights."""
        self._model.to(device)

    def encode_text(self, phrases: Sequence[str]) -> Tensor:
        """Unit vectors ``(N, D)``, each the mean of a phrase in several templates; known phrases are kept."""
        if not phrases:
            return torch.zeros(0, self._model.visual.proj.shape[1])
        return torch.stack([self._phrase(phrase) for phrase in phrases])

    def _recall(self, phrase: str) -> Tensor:
        known = self._store.find((phrase,), TEMPLATES) if self._store is not None else None
        if known is not None:
            return known
        row = self._encode_phrase(phrase)
        if self._store is not None:
            self._store.keep((phrase,), TEMPLATES, row)
        return row

    @with_cpu_fallback
    @torch.inference_mode()
    def _encode_phrase(self, phrase: str) -> Tensor:
        tokens = self._tokenizer(fill_templates(phrase, TEMPLATES)).to(self.device)
        sentences = functional.normalize(self._model.encode_text(tokens).float(), dim=-1)
        return functional.normalize(sentences.mean(dim=0), dim=0).cpu()

    @with_cpu_fallback
    @torch.inference_mode()
    def encode_crops(self, crops: Sequence[Image]) -> Tensor:
        """Unit vectors ``(N, D)`` of whole images ``(h, w, 3)``."""
        height, width = self._model.visual.image_size
        vectors = [self._model.encode_image(self._pixels(crop, height, width)).float() for crop in crops]
        return functional.normalize(torch.cat(vectors), dim=-1).cpu()

    @with_cpu_fallback
    @torch.inference_mode()
    def encode_patches(self, image: Image) -> Tensor:
        """Unit vectors ``(D, h, w)`` of the patches of an image ``(H, W, 3)``, which keeps its proportions nearly."""
        patch = self._model.visual.patch_size[0]
        scale = self._dense_side / max(image.shape[:2])
        rows, columns = (max(round(side * scale / patch), 1) for side in image.shape[:2])
        tokens = self._last_block(self._before_last(self._pixels(image, rows * patch, columns * patch)), rows, columns)
        projected = self._model.visual.ln_post(tokens) @ self._model.visual.proj
        vectors: Tensor = functional.normalize(projected[0].float(), dim=-1)
        return vectors.T.reshape(-1, rows, columns).cpu()

    def _pixels(self, image: Image, height: int, width: int) -> Tensor:
        """The input ``(1, 3, height, width)``, bicubic with antialiasing as CLIP's own preprocessing."""
        whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        pixels = functional.interpolate(whole, (height, width), mode="bicubic", antialias=True)[0].float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (self._mean, self._std))
        return ((pixels - mean) / std)[None].to(self.device)

    def _before_last(self, pixels: Tensor) -> Tensor:
        """The tokens ``(1, 1 + P, W)`` that enter the last block, the class token first."""
        visual = self._model.visual
        maps = visual.conv1(pixels)
        patches = maps.flatten(2).transpose(1, 2)
        tokens = torch.cat([visual.class_embedding.expand(1, 1, -1), patches], dim=1)
        tokens = visual.ln_pre(tokens + self._positions(maps.shape[2], maps.shape[3]))
        for block in visual.transformer.resblocks[:-1]:
            tokens = block(tokens)
        out: Tensor = tokens
        return out

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The position embeddings ``(1 + rows * columns, W)``, resized from the training grid."""
        whole, (grid_rows, grid_columns) = self._model.visual.positional_embedding, self._model.visual.grid_size
        grid = whole[1:].T.reshape(1, -1, grid_rows, grid_columns)
        resized = functional.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([whole[:1], resized[0].flatten(1).T])

    def _last_block(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """Patches ``(1, P, W)`` after an attention between similar keys, those nearby first."""
        block = self._model.visual.transformer.resblocks[-1]
        heads = block.attn.num_heads
        projected = functional.linear(block.ln_1(tokens[:, 1:]), block.attn.in_proj_weight, block.attn.in_proj_bias)
        _, keys, values = (part[0].reshape(rows * columns, heads, -1).transpose(0, 1) for part in projected.chunk(3, dim=-1))
        similarity = keys @ keys.transpose(1, 2) * keys.shape[-1] ** -0.5
        attention = (similarity + _nearness(rows, columns).to(similarity)).softmax(dim=-1)
        mixed = (attention @ values).transpose(0, 1).flatten(1)
        out: Tensor = block.attn.out_proj(mixed)[None]
        return out


def _nearness(rows: int, columns: int) -> Tensor:
    """How near two patches ``(P, P)`` are: a Gaussian of their distance, which is one of rows times one of columns.

    Computed anew for every image: for 40 x 40 patches it takes 10 MB and some milliseconds.
    """
    down, across = (
        torch.exp(-((steps[:, None] - steps) ** 2) / (2 * NEIGHBOURHOOD**2)) for steps in map(_steps, (rows, columns))
    )
    return (down[:, None, :, None] * across[None, :, None, :]).reshape(rows * columns, rows * columns)


def _steps(count: int) -> Tensor:
    return torch.arange(count).float()
