"""One engine proposes, SAM refines: any engine's masks with the edges of a decoder of the SAM family.

Each mask goes to the decoder as its logits and its box. The refined one stays only where both agree; else the proposal does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from backend.engines.base import Engine, MaskDecoder, OffersAlternatives
from backend.engines.catalogue import Placement
from backend.engines.sam.engine import load_network
from backend.engines.sam.geometry import box_of, mask_logits
from backend.engines.sam.text_grounding import NOTHING, Decoding
from backend.engines.sam.transforms import Geometry, to_masks
from backend.values.features import ImageFeatures
from backend.values.masks import Masks, MaskSet, RunLengths
from prompts.geometry import BoolArray, FloatArray
from prompts.kinds import Image, ObjectMemory, PromptSet
from prompts.space import PromptTokens

LEAST_AGREEMENT = 0.6
"""IoU of the proposal and the refined mask below which the proposal stays."""
_OWN = "refine."


class RefiningDecoder:
    """A decoder whose masks are refined by another one (see MaskDecoder); scores, names and memory stay the proposer's."""

    def __init__(self, proposer: MaskDecoder, decoding: Decoding) -> None:
        self._proposer = proposer
        self._decoding = decoding

    def encode_images(self, images: Sequence[Image]) -> list[ImageFeatures]:
        own = self._decoding.encode(images)
        proposed = self._proposer.encode_images(images)
        return [
            replace(features, tensors={**features.tensors, **{_OWN + name: tensor for name, tensor in embeddings.items()}})
            for features, embeddings in zip(proposed, own, strict=True)
        ]

    def decode(self, features: ImageFeatures, prompts: PromptSet, tokens: PromptTokens, memory: ObjectMemory | None) -> MaskSet:
        return self._refine(features, prompts, self._proposer.decode(features, prompts, tokens, memory))

    def _refine(self, features: ImageFeatures, prompts: PromptSet, rows: MaskSet) -> MaskSet:
        own = {name.removeprefix(_OWN): tensor for name, tensor in features.tensors.items() if name.startswith(_OWN)}
        masks = refine_masks(self._decoding, replace(features, tensors=own), rows.masks, prompts.point_coords)
        return replace(rows, masks=masks)


class _WithAlternatives(MaskDecoder, OffersAlternatives, Protocol): ...


class RefiningAlternatives(RefiningDecoder):
    """The same around a decoder that knows what else a click may mean (see OffersAlternatives)."""

    def __init__(self, proposer: _WithAlternatives, decoding: Decoding) -> None:
        super().__init__(proposer, decoding)
        self._alternatives: OffersAlternatives = proposer

    def decode_alternatives(self, features: ImageFeatures, prompts: PromptSet) -> MaskSet:
        return self._refine(features, prompts, self._alternatives.decode_alternatives(features, prompts))


def refine_masks(decoding: Decoding, features: ImageFeatures, masks: Masks, clicks: FloatArray = NOTHING[0]) -> Masks:
    """Masks, each refined where the decoder believes in it and its own mask agrees, above all under the
    ``clicks (P, 2)`` in pixels; ``features`` are those of the decoder.
    """
    rows = np.flatnonzero(masks.areas).tolist()
    objects = [_geometry_of(masks[row], decoding) for row in rows]
    refined = list(masks.runs)
    for row, candidate in zip(rows, decoding.decode(features, objects), strict=True):
        (mask,) = to_masks(decoding.network.frame, candidate.logits[None], features.size)
        if candidate.is_there and _agree(masks[row], mask, clicks):
            refined[row] = RunLengths.of(mask)
    return Masks(masks.size, tuple(refined))


def _geometry_of(mask: BoolArray, decoding: Decoding) -> Geometry:
    return Geometry(*NOTHING, box=box_of(mask), logits=mask_logits(mask, decoding.network))


def _agree(proposed: BoolArray, refined: BoolArray, clicks: FloatArray) -> bool:
    """Whether two masks ``(H, W)`` are nearly the same, and say the same of every clicked pixel."""
    x, y = (np.clip(clicks[:, axis].astype(int), 0, proposed.shape[1 - axis] - 1) for axis in (0, 1))
    if (proposed[y, x] != refined[y, x]).any():
        return False
    return bool((proposed & refined).sum() >= LEAST_AGREEMENT * (proposed | refined).sum())


def refined(engine: Engine, decoder: Path, placement: Placement) -> Engine:
    """An engine whose masks are refined by the network of the SAM family in a folder. Its version is to be another one, because
    encoded images without the refining network's part must not reach it. Raises SetupError for a folder without a network.
    """
    decoding = Decoding(load_network(decoder, placement))
    if isinstance(engine.decoder, OffersAlternatives):
        return replace(engine, decoder=RefiningAlternatives(engine.decoder, decoding))
    return replace(engine, decoder=RefiningDecoder(engine.decoder, decoding))
