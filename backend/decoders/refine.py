"""One engine proposes, SAM refines: any engine's masks with the edges of a decoder of the SAM family.

Each mask goes to the decoder as its logits and its box. The refined one stays only where both agree; else the proposal does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from backend.decoders.base import Engine, MaskDecoder
from backend.decoders.finding import NOTHING, Decoding
from backend.decoders.frames import to_masks
from backend.decoders.geometry_of import box_of, mask_logits
from backend.decoders.networks import load_network
from backend.decoders.promptable import Geometry
from backend.features import ImageFeatures
from backend.masks import MaskSet
from backend.placement import Placement
from backend.registry import fingerprint
from prompts.geometry import BoolArray
from prompts.kinds import Image, PromptSet
from prompts.memory import ObjectMemory
from prompts.space import Queries

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

    def decode(self, features: ImageFeatures, prompts: PromptSet, queries: Queries, memory: ObjectMemory | None) -> MaskSet:
        rows = self._proposer.decode(features, prompts, queries, memory)
        own = {name.removeprefix(_OWN): tensor for name, tensor in features.tensors.items() if name.startswith(_OWN)}
        return replace(rows, masks=refine_masks(self._decoding, replace(features, tensors=own), rows.masks))


def refine_masks(decoding: Decoding, features: ImageFeatures, masks: BoolArray) -> BoolArray:
    """Masks ``(N, H, W)``, each refined where the decoder's own mask agrees with it; ``features`` are those of the decoder."""
    rows = np.flatnonzero(masks.any(axis=(1, 2))).tolist()
    objects = [Geometry(*NOTHING, box=box_of(masks[row]), logits=mask_logits(masks[row], decoding.network)) for row in rows]
    refined = masks.copy()
    for row, candidate in zip(rows, decoding.decode(features, objects), strict=True):
        (mask,) = to_masks(decoding.network.frame, candidate.logits[None], features.size)
        if (mask & masks[row]).sum() >= LEAST_AGREEMENT * (mask | masks[row]).sum():
            refined[row] = mask
    return refined


def refined(engine: Engine, decoder: Path, placement: Placement) -> Engine:
    """An engine whose masks are refined by the network of the SAM family in a folder; its version tells which, because encoded
    images without the refining network's part must not reach it.
    """
    decoding = Decoding(load_network(decoder, placement))
    version = f"{engine.version}+{fingerprint(decoder)}"
    return replace(engine, version=version, decoder=RefiningDecoder(engine.decoder, decoding))
