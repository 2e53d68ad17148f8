"""The engine that a process answers with: named at once, loaded when it is first needed, exchanged while others use it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from backend.engines.catalogue import Recipe
from backend.values.placement import Placement

if TYPE_CHECKING:
    from backend.engines.base import Engine
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
        self._lock = threading.Lock()

    @property
    def is_loaded(self) -> bool:
        return self._loaded is not None

    def segmenter(self) -> Segmenter:
        """The segmenter, loaded by the first caller. Raises SetupError when the weights cannot be had."""
        with self._lock:
            if self._loaded is None:
                started = time.monotonic()
                self._loaded = self._start(replace(self._load(), version=self.version))
                log.info("loaded the engine %s in %.1f s", self.version, time.monotonic() - started)
            return self._loaded

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

    def _load(self) -> Engine:
        placement = self._options.placement
        engine = self.recipe.load(self._weights, placement)
        if self._refiner is None:
            return engine
        return self._refiner.refine(engine, self._refiner.weights_in(self._options.home), placement)
