"""What every engine offers, an image encoder and a mask decoder over one joint space; and the handle of the one that answers.

An engine is named at once, loaded when it is first needed, and exchanged while others use it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from torch import Tensor

from backend.engines.bundle import missing_for
from backend.engines.catalogue import Recipe
from backend.values.errors import MaskloomError
from backend.values.features import ImageFeatures
from backend.values.masks import MaskSet
from backend.values.placement import Placement
from prompts.examples import LabelMemory
from prompts.geometry import BoolArray
from prompts.kinds import Image, PromptSet
from prompts.memory import ObjectMemory
from prompts.space import JointSpace, PromptTokens


class MaskDecoder(Protocol):
    """Images and prompts to masks.

    ``decode`` answers by what the prompts are (see PromptSet.objects):

    * something drawn (points, boxes, scribbles, polygons, masks): one mask for each drawn object, helped by any text,
      reference and memory; its label is the phrase if exactly one was given, else None;
    * only text and references: every instance of each, labelled with its phrase (None for a reference);
    * no prompt: everything that the decoder can find by itself, without labels (it may find nothing).

    Masks come at the image's full size, best first within a phrase; absent things give no row.
    """

    def encode_images(self, images: Sequence[Image]) -> list[ImageFeatures]:
        """The features of upright RGB images ``(H, W, 3)`` uint8 of any sizes, in order."""
        ...

    def decode(self, features: ImageFeatures, prompts: PromptSet, tokens: PromptTokens, memory: ObjectMemory | None) -> MaskSet:
        """The masks that the prompts ask for on one image."""
        ...


@runtime_checkable
class OffersAlternatives(Protocol):
    """A decoder that can tell what else a single click may mean: a part, the object, a group of objects."""

    def decode_alternatives(self, features: ImageFeatures, prompts: PromptSet) -> MaskSet:
        """Every reading of one click inside something, without labels."""
        ...


@runtime_checkable
class LearnsLabels(Protocol):
    """A decoder that accepted and rejected regions of a project teach what its labels look like."""

    def places_of(self, features: ImageFeatures) -> Tensor:
        """Unit vectors ``(D, h, w)`` of an image's places, by which examples of labels are compared."""
        ...

    def decode_labels(self, features: ImageFeatures, tokens: PromptTokens, memories: Sequence[LabelMemory]) -> MaskSet:
        """Every instance of each label that there is a memory of, under its name, and of each phrase that is none of theirs,
        under the phrase; what the negative phrases say is left out.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TrackedMask:
    """One object on one frame: ``mask (H, W)``, empty where it is hidden or gone, and how sure that is, in 0..1."""

    mask: BoolArray
    score: float


class TrackingSession(Protocol):
    """Objects followed through one film, in one direction: frames are given in their order, and what they showed of each
    object is its memory, which stays bounded however long the film is.
    """

    def follow(self, frame: int, image: Image) -> dict[int, TrackedMask]:
        """Where every object that was prompted before is on the next frame ``(H, W, 3)``, by its id."""
        ...

    def prompt(self, frame: int, image: Image, object_id: int, prompts: PromptSet) -> TrackedMask:
        """What is drawn of an object on the frame at hand, which is a new object, or corrects where it was followed to.

        Raises PromptError when nothing is drawn that shows it.
        """
        ...


class Tracker(Protocol):
    """Starts sessions; each has a memory of its own."""

    def start(self, direction: Literal[1, -1]) -> TrackingSession:
        """A session of frames that rise (1) or fall (-1)."""
        ...


@dataclass(frozen=True, slots=True)
class Engine:
    """A decoder and the joint space that it was trained with; ``version`` changes with the weights. ``tracker`` follows objects
    through films, None where the engine cannot.
    """

    name: str
    version: str
    space: JointSpace
    decoder: MaskDecoder
    tracker: Tracker | None = None


def outside_negatives(found: MaskSet, prompts: PromptSet) -> MaskSet:
    """The masks that leave out every pixel of what was drawn as negative."""
    if not prompts.drawn or not len(found):
        return found
    forbidden = prompts.region(found.size, positive=False)
    return found[[row for row, mask in enumerate(found.masks) if not (mask & forbidden).any()]]


if TYPE_CHECKING:
    from backend.segmenter import Segmenter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Where weights are looked for (below ``home``, or ``weights`` themselves), where the engine computes, and whose decoder
    refines its masks, if any does.
    """

    home: Path
    placement: Placement
    weights: Path | None = None
    refiner: Recipe | None = None


class EngineHandle:
    """An engine by its recipe; ``start`` makes the segmenter of a loaded one.

    Its version is known without loading it, and names the refining engine too, where there is one. An engine does not refine
    its own masks.
    """

    def __init__(self, recipe: Recipe, options: EngineOptions, start: Callable[[Engine], Segmenter]) -> None:
        self.recipe = recipe
        self._options = options
        self._start = start
        self._weights = options.weights or recipe.weights_in(options.home)
        self._refiner = None if options.refiner is None or options.refiner.name == recipe.name else options.refiner
        self.version = recipe.version(self._weights)
        if self._refiner is not None:
            self.version += f"+{self._refiner.version(self._refiner.weights_in(options.home))}"
        self._loaded: Segmenter | None = None
        self._failure: str | None = None
        self._lock = threading.Lock()

    @property
    def is_loaded(self) -> bool:
        return self._loaded is not None

    @property
    def weights(self) -> Path | None:
        """Where its weights are looked for."""
        return self._weights

    @property
    def problem(self) -> str | None:
        """Why the engine cannot answer and what to do, as far as that is known without loading it; None when nothing is."""
        if self._loaded is not None:
            return None
        return missing_for(self.recipe, self._weights) or self._failure

    def segmenter(self) -> Segmenter:
        """The segmenter, loaded by the first caller. Raises SetupError when the weights cannot be had."""
        with self._lock:
            if self._loaded is None:
                started = time.monotonic()
                self._loaded = self._start_loaded()
                log.info("loaded the engine %s in %.1f s", self.version, time.monotonic() - started)
            return self._loaded

    def try_loading(self) -> None:
        """Load the engine now; when that fails, ``problem`` says why, and the next who needs it tries again."""
        try:
            self.segmenter()
        except Exception:
            log.exception("the engine could not be loaded; the next request tries again")

    def switch(self, recipe: Recipe, weights: Path | None = None) -> None:
        """Answer with another engine from now on; what is under way ends with the old one, and nothing of either's caches or
        memory is read by the other. Both are in memory for a moment. Raises SetupError, and keeps the old one, when the new one
        cannot be loaded.
        """
        fresh = EngineHandle(recipe, replace(self._options, weights=weights), self._start)
        segmenter = fresh.segmenter()
        with self._lock:
            self.recipe, self._weights, self._refiner = recipe, fresh._weights, fresh._refiner
            self.version, self._loaded = fresh.version, segmenter

    def _start_loaded(self) -> Segmenter:
        """A segmenter of the engine; why there is none is remembered."""
        try:
            segmenter = self._start(replace(self._load(), version=self.version))
        except Exception as error:
            self._failure = str(error) if isinstance(error, MaskloomError) else f"{type(error).__name__}: {error}"
            raise
        self._failure = None
        return segmenter

    def _load(self) -> Engine:
        placement = self._options.placement
        engine = self.recipe.load(self._weights, placement)
        if self._refiner is None:
            return engine
        return self._refiner.refine(engine, self._refiner.weights_in(self._options.home), placement)
