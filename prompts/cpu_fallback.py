"""CPU fallback: a network whose device has no room even for one input moves to the CPU for good, with a warning."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
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
