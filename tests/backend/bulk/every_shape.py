"""A colour engine that also finds everything: each part that is not white, whatever its colour."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from backend.engines.base import Engine
from backend.engines.catalogue import Placement, Recipe
from backend.engines.colour import ColourDecoder, ColourTextEncoder
from backend.values.features import ImageFeatures
from backend.values.masks import Masks, MaskSet
from prompts.kinds import ObjectMemory, PromptSet
from prompts.space import JointSpace, PromptTokens

RECIPE = Recipe("every-shape", f"{__name__}:build", "the colour engine, which finds everything too", "Apache-2.0")


def build(_weights: Path | None, _placement: Placement) -> Engine:
    return Engine("every-shape", "every-shape-1", JointSpace("colour", ColourTextEncoder()), EveryShape())


class EveryShape(ColourDecoder):
    def decode(self, features: ImageFeatures, prompts: PromptSet, tokens: PromptTokens, memory: ObjectMemory | None) -> MaskSet:
        if len(prompts):
            return super().decode(features, prompts, tokens, memory)
        return MaskSet.concatenate(list(_parts(features)), features.size)


def _parts(features: ImageFeatures) -> Iterator[MaskSet]:
    white = features.grid[:, 0, 0]
    coloured = ((features.grid - white[:, None, None]).norm(dim=0) > 0.2).numpy().astype(np.uint8)
    count, numbered = cv2.connectedComponents(coloured)
    for number in range(1, count):
        mask = numbered == number
        logits = np.where(mask, 1, -1)[None].astype(np.float16)
        yield MaskSet(
            Masks.of_stack(mask[None]), np.array([0.75], np.float32), (None,), logits, features.pool(mask)[None].numpy()
        )
