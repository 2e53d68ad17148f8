"""What happens when the device has too little memory: smaller batches first, then the CPU, with a warning each time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

CHUNKS = {"cpu": 1, "cuda": 16, "mps": 4}
"""How many images or objects are computed together: on a CPU one by one is as quick as several, and takes less memory."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Chunks:
    """Runs batches in chunks of a size that the device can hold; the size shrinks for good when memory has run out.

    ``retreat`` moves the model to the CPU; it is called when even one item is too much.
    """

    def __init__(self, device: torch.device, retreat: Callable[[], None]) -> None:
        self.most = CHUNKS.get(device.type, 1)
        self._is_on_cpu = device.type == "cpu"
        self._retreat = retreat

    def run(self, items: Sequence[_Item], compute: Callable[[Sequence[_Item]], Sequence[_Result]]) -> list[_Result]:
        """The results of all items, in order. Raises torch.OutOfMemoryError when the CPU cannot hold one item either."""
        results: list[_Result] = []
        while len(results) < len(items):
            chunk = items[len(results) : len(results) + self.most]
            try:
                results += compute(chunk)
            except torch.OutOfMemoryError:
                self._give_way(len(chunk))
        return results

    def _give_way(self, tried: int) -> None:
        """Called while handling the error, which is raised again when nothing is left to try."""
        if tried > 1:
            self.most = tried // 2
            log.warning("out of memory with %d at a time; going on with %d", tried, self.most)
        elif not self._is_on_cpu:
            log.warning("out of memory on the device; going on with the CPU, which is slower")
            self._retreat()
            self._is_on_cpu, self.most = True, CHUNKS["cpu"]
        else:
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
