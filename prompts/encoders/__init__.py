"""Text encoders, one for each joint space; here what all of them need around torch: the CPU when a device is full, and
torchvision's operators when its compiled part cannot load.

When torch and torchvision come from different builds (a CPU torch beside a CUDA torchvision is the common case), torchvision's
compiled part cannot load, and importing torchvision stops with ``operator torchvision::nms does not exist``, because it
describes operators that nobody has defined. open_clip and transformers import torchvision, so they stop as well. Declaring the
two operators is enough for everything that does no detection with them.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch

log = logging.getLogger(__name__)
CPU = torch.device("cpu")


class Movable(Protocol):
    """Something with weights on a device."""

    @property
    def device(self) -> torch.device: ...

    def to(self, device: torch.device) -> None: ...


_Network = TypeVar("_Network", bound=Movable)


_Arguments = ParamSpec("_Arguments")


_Result = TypeVar("_Result")


def fall_back_to_cpu(network: Movable) -> None:
    """Move a network to the CPU because its device is full."""
    log.warning(
        "%s: out of memory on the device %s; going on with the CPU, which is slower", type(network).__name__, network.device
    )
    network.to(CPU)
    free_device()


def free_device() -> None:
    """Give memory that is kept for later back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def with_cpu_fallback(
    method: Callable[Concatenate[_Network, _Arguments], _Result],
) -> Callable[Concatenate[_Network, _Arguments], _Result]:
    """A method that is done again on the CPU when the device is full; its OutOfMemoryError is raised when that is full, too."""

    @wraps(method)
    def done_anyway(self: _Network, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return method(self, *args, **kwargs)
        except torch.OutOfMemoryError:
            if self.device.type == "cpu":
                raise
        fall_back_to_cpu(self)
        return method(self, *args, **kwargs)

    return done_anyway


_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@functools.cache
def declare_missing_operators() -> torch.library.Library | None:
    """Declare torchvision's operators if its compiled part is there but cannot load; to be called before it is imported.

    The declarations live as long as the returned library, which is kept. None where nothing had to be done.
    """
    if not _compiled_part_is_broken():
        return None
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library


def _compiled_part_is_broken() -> bool:
    """Whether torchvision is installed and none of its compiled parts can be loaded beside this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or hasattr(torch.ops.torchvision, "nms"):
        return False
    for compiled in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(compiled)  # type: ignore[no-untyped-call]
        except OSError:
            continue
        return False
    return True
