"""The one path from questions to labelled masks; HTTP requests, the command line and bulk runs all enter here."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol, assert_never

import numpy as np
import torch

from backend.engines.base import (
    DrawsLabels,
    Engine,
    LearnsLabels,
    OffersAlternatives,
    SeesAtAGlance,
    SharedTracker,
    SumsUpRegions,
    Tracker,
)
from backend.images.limits import LargeImage
from backend.postprocessing import (
    as_usual,
    ask_for,
    label_masks,
    likest_first,
    name_by_examples,
    rank_names,
    suppress_duplicates,
)
from backend.telemetry import stage, turn
from backend.tiles import with_tiles
from backend.tiling import answer_large
from backend.values.errors import MaskloomError, RequestError, SetupError
from backend.values.features import SINGLY, Batching, Encoded, EncodeQueue, FeatureCache, ImageFeatures
from backend.values.masks import MaskSet
from backend.values.session import ForEverything, ForNames, ForPrompts, Question, Round
from prompts.examples import Regions, ShownImage, by_label, shown_image
from prompts.geometry import FloatArray
from prompts.kinds import Image, KeyedImage, ObjectMemory, PointPrompt, PromptError, PromptSet, ReferencePrompt
from prompts.memory import LabelMemory, armed, asked_for
from prompts.phrases import Vocabulary
from prompts.space import PromptTokens

RECENT_ENCODINGS = 5
log = logging.getLogger(__name__)


Held = Mapping[str, Encoded]
"""Images that are encoded, or cannot be, by their keys."""
NOTHING: Held = MappingProxyType({})


class Segmenter:
    """An engine with its feature cache. One thread at a time uses the engine; images that several want are encoded together."""

    def __init__(self, engine: Engine, cache: FeatureCache, batching: Batching = SINGLY, tile_px: int = 0) -> None:
        self.engine = engine
        self._tile_px = tile_px
        self._recent_s: tuple[float, ...] = ()
        self._cache = cache
        self._device = threading.Lock()
        self._queue = EncodeQueue(self._encode, self._device, batching)

    @property
    def encode_s(self) -> float:
        """How long encoding takes for an image: the shortest of the last few times, as the first one also warms up; infinite
        before the first.
        """
        return min(self._recent_s, default=math.inf)

    def tracker(self, watch: Callable[[], None] = lambda: None) -> Tracker:
        """The engine's tracker, each of whose steps holds the device; ``watch`` is called before each and may raise.

        Raises SetupError when the engine follows no objects.
        """
        if self.engine.tracker is None:
            raise SetupError(f"the engine {self.engine.name} follows no objects; choose another with MASKLOOM_ENGINE")
        return SharedTracker(self.engine.tracker, self._device, watch)

    @property
    def cached_bytes(self) -> int:
        """What encoded images take in memory."""
        return self._cache.nbytes

    @property
    def waiting(self) -> int:
        """How many images wait to be encoded."""
        return self._queue.images_waiting

    def look_at(self, image: KeyedImage) -> None:
        """Encode an image for later. Raises what the engine raises."""
        self._features([image])

    @property
    def can_learn(self) -> bool:
        """Whether the engine can be shown what labels look like."""
        return isinstance(self.engine.decoder, LearnsLabels)

    def show(self, image: KeyedImage, regions: Regions, refused: Regions = ()) -> ShownImage:
        """What accepted and refused regions of an image show of their labels, to an engine that can learn. Raises what engines
        raise.
        """
        decoder = self.engine.decoder
        if not isinstance(decoder, LearnsLabels):
            raise MaskloomError(f"the engine {self.engine.name} cannot be shown what labels look like")
        (features,) = self._features([image])
        with self._turn():
            shown = shown_image(decoder.places_of(features), regions, refused)
            if not isinstance(decoder, SumsUpRegions):
                return shown
            meant = {label: decoder.meant_by(features, region).half() for label, region in by_label(regions).items()}
            return replace(shown, meant=meant)

    def segment(self, questions: Sequence[Question]) -> list[Round | MaskloomError]:
        """One round for each question, in order; a question that cannot be answered gets its error instead."""
        asked = [question for question in questions if _asks_for_something(question)]
        images = [each.image for each in asked if not isinstance(each.image, LargeImage)]
        held = self._encoded(images) if len(images) > 1 else NOTHING  # even where the cache has no room for so many
        return [self._answer_or_error(question, held) for question in questions]

    def rank_names(self, masks: MaskSet, vocabulary: Vocabulary) -> list[tuple[str, ...]]:
        """For each row the names of a vocabulary, the likeliest first."""
        with self._turn():
            return rank_names(masks, vocabulary, self.engine.space)

    def _answer_or_error(self, question: Question, held: Held) -> Round | MaskloomError:
        try:
            return self._answer(question, held)
        except MaskloomError as error:
            return error
        except PromptError as error:
            return RequestError(str(error))
        except Exception as error:
            log.exception("the engine %s failed on an image of %s", self.engine.version, question.image.size)
            return MaskloomError(f"the engine {self.engine.name} failed: {type(error).__name__}: {error}")

    def _answer(self, question: Question, held: Held) -> Round:
        if isinstance(question.image, LargeImage):
            outstanding = self._outstanding if isinstance(self.engine.decoder, SeesAtAGlance) else None
            return answer_large(question, question.image, lambda part: self._answer_or_error(part, NOTHING), outstanding)
        match question:
            case ForPrompts():
                return Round(question.prompts, self._decode_prompts(question, held))
            case ForNames():
                return Round(PromptSet(), self._find_names(question, question.image, held))
            case ForEverything():
                return Round(PromptSet(), self._decode(question, PromptSet(), None, held))
            case _:
                assert_never(question)

    def _outstanding(self, question: Question) -> FloatArray:
        """Where on a tile the engine has to look closer: places ``(N, 2)``; none where it has no need to."""
        decoder, prompts = self.engine.decoder, question.prompts if isinstance(question, ForPrompts) else PromptSet()
        if isinstance(question, ForNames):
            prompts = ask_for(question.vocabulary)
        if not isinstance(decoder, SeesAtAGlance) or not len(prompts):
            return np.zeros((0, 2))
        features, tokens = self._embedded(question.image, prompts, NOTHING)
        with self._turn():
            return decoder.outstanding(features, tokens)

    def _find_names(self, question: ForNames, image: KeyedImage, held: Held) -> MaskSet:
        """What a vocabulary names on an image and, where it is large, on its tiles."""
        if not len(prompts := ask_for(question.vocabulary)):
            return MaskSet.empty(image.size)

        def find(tile: KeyedImage) -> MaskSet:
            return self._decode(replace(question, image=tile), prompts, None, NOTHING)

        whole = self._decode(question, prompts, None, held)
        return suppress_duplicates(with_tiles(whole, image, self._tile_px, find)) if self._tile_px else whole

    def _decode_prompts(self, question: ForPrompts, held: Held) -> MaskSet:
        question.prompts.check_against(question.image.size)
        memory = question.memory if question.memory and question.memory.space == self.engine.version else None
        decoder, like = self.engine.decoder, self._armed(question)
        several = question.alternatives > 1 or (like is not None and not isinstance(decoder, DrawsLabels))
        if not isinstance(decoder, OffersAlternatives) or memory or not several or not _is_one_click(question.prompts):
            return self._decode(question, question.prompts, memory, held)
        (features,) = self._features([question.image], held)
        with self._turn():
            readings = suppress_duplicates(decoder.decode_alternatives(features, question.prompts))
            if like is not None and isinstance(decoder, LearnsLabels):
                readings = likest_first(readings, decoder.places_of(features), like)
            masks = readings[list(range(len(readings)))[: question.alternatives]]
            return self._named(masks, question, features)

    def _armed(self, question: ForPrompts) -> LabelMemory | None:
        """What is known about the label that the annotator has selected."""
        return armed(question.learnt, question.armed_label, self.engine.version) if question.learnt else None

    def _decode(self, question: Question, prompts: PromptSet, memory: ObjectMemory | None, held: Held) -> MaskSet:
        """The named masks for prompts; without any, everything that the decoder can find."""
        features, tokens = self._embedded(question.image, prompts, held)
        with self._turn():
            label = question.armed_label if isinstance(question, ForPrompts) else None
            learnt = asked_for(question.learnt, prompts, label, self.engine.version) if question.learnt else []
            masks = self._decode_tokens(features, tokens, learnt, memory)
            labelled = self._named(masks, question, features)
        return labelled if prompts.drawn else suppress_duplicates(labelled)

    def _named(self, masks: MaskSet, question: Question, features: ImageFeatures) -> MaskSet:
        """Masks under labels of the question's vocabulary, or all under the one that is armed. What no phrase found is named by
        what was accepted, if it looks like it.
        """
        if isinstance(question, ForPrompts) and question.armed_label is not None:
            return masks.named([question.armed_label] * len(masks))
        decoder, learnt = self.engine.decoder, [each for each in question.learnt if each.space == self.engine.version]
        if learnt and isinstance(decoder, LearnsLabels):
            masks = name_by_examples(masks, decoder.places_of(features), learnt)
        return label_masks(masks, question.vocabulary, self.engine.space)

    def _decode_tokens(
        self, features: ImageFeatures, tokens: PromptTokens, learnt: Sequence[LabelMemory], memory: ObjectMemory | None
    ) -> MaskSet:
        decoder = self.engine.decoder
        if learnt and tokens.prompts.drawn and isinstance(decoder, DrawsLabels):
            return decoder.decode_drawn_label(features, tokens, learnt[0], memory)
        if learnt and not tokens.prompts.drawn and isinstance(decoder, LearnsLabels):
            return as_usual(decoder.decode_labels(features, tokens, learnt), learnt)
        return decoder.decode(features, tokens.prompts, tokens, memory)

    def _embedded(self, image: KeyedImage, prompts: PromptSet, held: Held) -> tuple[ImageFeatures, PromptTokens]:
        """An encoded image and the tokens of a prompt set on it."""
        references = [reference.image for reference in prompts.of(ReferencePrompt)]
        features, *shown = self._features([image, *references], held)
        return features, self.engine.space.embed(prompts, features, shown)

    def _features(self, images: Sequence[KeyedImage], held: Held = NOTHING) -> list[ImageFeatures]:
        """Raises the error of the first image that cannot be encoded."""
        encoded = {**held, **self._encoded([image for image in images if image.key not in held])}
        features: list[ImageFeatures] = []
        for image in images:
            each = encoded[image.key]
            if isinstance(each, Exception):
                raise each
            features.append(each)
        return features

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The engine for oneself, to decode with."""
        with turn(self._device), stage("decode"), torch.inference_mode():
            yield

    def _encoded(self, images: Sequence[KeyedImage]) -> dict[str, Encoded]:
        wanted = {image.key: image.pixels for image in images}
        return dict(zip(wanted, self._cache.get_or_encode(list(wanted), list(wanted.values()), self._queue), strict=True))

    def _encode(self, images: Sequence[Image]) -> list[ImageFeatures]:
        """Called by the queue, which holds the device."""
        started = time.perf_counter()
        with stage("encode"), torch.inference_mode():
            encoded = self.engine.decoder.encode_images(images)
        took_s = (time.perf_counter() - started) / max(len(images), 1)
        self._recent_s = (*self._recent_s, took_s)[-RECENT_ENCODINGS:]
        return encoded


def _asks_for_something(question: Question) -> bool:
    return not isinstance(question, ForNames) or len(question.vocabulary) > 0


def _is_one_click(prompts: PromptSet) -> bool:
    """Whether nothing is known but one click inside something, which may mean several things."""
    return len(prompts) == 1 and any(point.positive for point in prompts.of(PointPrompt))


class EngineSource(Protocol):
    """The engine, loaded when it is first needed; its version can be told before."""

    @property
    def version(self) -> str: ...

    def segmenter(self) -> Segmenter: ...
