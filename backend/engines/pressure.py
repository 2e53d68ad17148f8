"""What happens when a batch does not fit into the device: smaller ones first, then the CPU, with a warning each time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from prompts.retreat import Movable, free_device, retreat

log = logging.getLogger(__name__)

CHUNKS = {"cpu": 1, "cuda": 16, "mps": 4}
"""How many images or objects are computed together: on a CPU one by one is as quick as several, and takes less memory."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class ShrinkingChunks:
    """Runs batches in chunks, at first of ``most`` items; the size shrinks for good when memory has run out."""

    def __init__(self, most: int) -> None:
        self.most = most

    def run(self, items: Sequence[_Item], compute: Callable[[Sequence[_Item]], Sequence[_Result]]) -> list[_Result]:
        """The results of all items, in order. Raises torch.OutOfMemoryError when one item is too much, with nowhere to go."""
        results: list[_Result] = []
        while len(results) < len(items):
            chunk = items[len(results) : len(results) + self.most]
            try:
                results += compute(chunk)
                continue
            except torch.OutOfMemoryError:
                if len(chunk) == 1 and not self._can_retreat():
                    raise
            self._give_way(len(chunk))  # when the error has let go of what it held
        return results

    def _give_way(self, tried: int) -> None:
        if tried > 1:
            self.most = tried // 2
            log.warning("out of memory with %d at a time; going on with %d", tried, self.most)
            free_device()
        else:
            self._retreat()

    def _can_retreat(self) -> bool:
        return False

    def _retreat(self) -> None:
        """Called only where one can."""


class Chunks(ShrinkingChunks):
    """Chunks of a size that a network's device can hold; when even one item is too much, the network moves to the CPU."""

    def __init__(self, network: Movable) -> None:
        super().__init__(CHUNKS.get(network.device.type, 1))
        self._network = network

    def _can_retreat(self) -> bool:
        return self._network.device.type != "cpu"

    def _retreat(self) -> None:
        retreat(self._network)
        self.most = CHUNKS["cpu"]
