"""An engine behind the one path, asked the way an annotator asks it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backend.engines.base import TrackingSession
from backend.engines.catalogue import find_engine
from backend.segmenter import Segmenter
from backend.values.features import FeatureCache
from backend.values.masks import MaskSet
from backend.values.session import ForEverything, ForNames, ForPrompts, Question, Round
from prompts.geometry import BoolArray
from prompts.kinds import Image, KeyedImage, ObjectMemory, Prompt, PromptSet
from prompts.phrases import Vocabulary

Logits = NDArray[np.float16]


class Annotator:
    """Asks one engine, and hands it its own last answer as memory where it is told to."""

    def __init__(self, engine: str) -> None:
        loaded = find_engine(engine).load(None)
        self.version = loaded.version
        self._segmenter = Segmenter(loaded, FeatureCache(1 << 29))

    def ask(self, image: Image, prompts: Sequence[Prompt], before: Logits | None = None) -> MaskSet:
        """The masks for prompts on an image, after an answer with these low-resolution logits. Raises the engine's error."""
        memory = ObjectMemory(before, self.version) if before is not None else None
        return self._answer(ForPrompts(KeyedImage.of(image), PromptSet(tuple(prompts)), memory=memory))

    def start_following(self) -> TrackingSession:
        """A session of the engine's tracker, forwards."""
        return self._segmenter.tracker().start(1)

    def ask_for_everything(self, image: Image) -> MaskSet:
        """What an image holds when nothing was asked for."""
        return self._answer(ForEverything(KeyedImage.of(image), Vocabulary(())))

    def name(self, image: Image, labels: Sequence[str]) -> MaskSet:
        """What label names find on an image when they are asked together. Raises the engine's error."""
        return self._answer(ForNames(KeyedImage.of(image), Vocabulary.from_names(labels)))

    def _answer(self, question: Question) -> MaskSet:
        (done,) = self._segmenter.segment([question])
        if not isinstance(done, Round):
            raise done
        return done.masks


def last_of(answer: MaskSet, before: Logits | None) -> Logits | None:
    """The logits to hand on: those of the answer, or, where it is empty, those from before it."""
    return answer.low_res_logits[0] if len(answer) else before


def merged(masks: MaskSet) -> BoolArray:
    """All rows as one mask ``(H, W)``."""
    return masks.masks.union()
