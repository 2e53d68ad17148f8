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


class Chunks:
    """Runs batches of a network in chunks of a size that its device can hold.

    The size shrinks for good when memory has run out; when even one item is too much, the network moves to the CPU.
    """

    def __init__(self, network: Movable) -> None:
        self.most = CHUNKS.get(network.device.type, 1)
        self._network = network

    def run(self, items: Sequence[_Item], compute: Callable[[Sequence[_Item]], Sequence[_Result]]) -> list[_Result]:
        """The results of all items, in order. Raises torch.OutOfMemoryError when the CPU cannot hold one item either."""
        results: list[_Result] = []
        while len(results) < len(items):
            chunk = items[len(results) : len(results) + self.most]
            try:
                results += compute(chunk)
                continue
            except torch.OutOfMemoryError:
                if len(chunk) == 1 and self._network.device.type == "cpu":
                    raise
            self._give_way(len(chunk))
        return results

    def _give_way(self, tried: int) -> None:
        """Called after the error has let go of what it held."""
        if tried > 1:
            self.most = tried // 2
            log.warning("out of memory with %d at a time; going on with %d", tried, self.most)
            free_device()
        else:
            retreat(self._network)
            self.most = CHUNKS["cpu"]
