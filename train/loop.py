"""The training loop of every stage: a time budget that survives restarts, averaged weights, a log, checkpoints, and data that
is made ahead of its use.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from backend.engines.device import has_bfloat16
from train import curves
from train.averaging import Average

SAVE_EVERY_S = 60
LOG_EVERY = 20
T = TypeVar("T")
Parts = dict[str, Tensor]
Groups = list[tuple[list[nn.Parameter], float]]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a stage keeps its checkpoint and log, for how long it trains over all its starts, and how fast it learns."""

    folder: Path
    name: str
    minutes: float
    rate: float
    device: torch.device

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.pt"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.jsonl"


@dataclass(slots=True)
class Progress:
    """How many steps and seconds a stage has trained, over all its starts."""

    step: int = 0
    seconds: float = 0.0


def everything(network: nn.Module) -> Groups:
    """All weights of a network in one group, which learns at the full rate."""
    return [(list(network.parameters()), 1.0)]


def fit(
    network: nn.Module,
    plan: Plan,
    step: Callable[[int], tuple[Tensor, Parts]],
    rates: Callable[[nn.Module], Groups] = everything,
) -> nn.Module:
    """Train or go on training a network until its minutes are used up; the averaged network, in evaluation.

    ``step(number)`` gives the loss of one batch and the parts of it that the log shows; ``rates`` the weights that learn, in
    groups, each with its share of the learning rate.
    """
    network.to(plan.device).train()
    average = Average(network)
    groups = [{"params": weights, "share": share} for weights, share in rates(network)]
    optimizer = torch.optim.AdamW(groups, lr=plan.rate, weight_decay=0.02)
    progress = _resume(plan, network, average, optimizer)
    began = time.monotonic() - progress.seconds
    saved = time.monotonic()
    while (used := (time.monotonic() - began) / max(plan.minutes * 60, 1e-9)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * plan.rate * min(1, (progress.step + 1) / 100) * max(1 - used, 0.01)
        loss, parts = step(progress.step)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        average.update(network)
        progress.step, progress.seconds = progress.step + 1, time.monotonic() - began
        if progress.step % LOG_EVERY == 0:
            _note(plan, progress, parts)
        if time.monotonic() - saved > SAVE_EVERY_S:
            _save(plan, progress, network, average, optimizer)
            saved = time.monotonic()
    progress.seconds = max(progress.seconds, time.monotonic() - began)
    _save(plan, progress, network, average, optimizer)
    return average.model


@contextmanager
def made_ahead(make: Callable[[], T], most: int) -> Iterator[Callable[[], T]]:
    """What ``make`` makes, in its order, made on a thread of its own while the network learns, at most ``most`` ahead."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[T]] = deque(pool.submit(make) for _ in range(most))

        def take() -> T:
            waiting.append(pool.submit(make))
            return waiting.popleft().result()

        try:
            yield take
        finally:
            pool.shutdown(cancel_futures=True)


def mixed_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the device computes it itself; a CPU without such instructions is two to three times slower with it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))


def _resume(plan: Plan, network: nn.Module, average: Average, optimizer: torch.optim.Optimizer) -> Progress:
    if not plan.checkpoint.exists():
        return Progress()
    saved = torch.load(plan.checkpoint, weights_only=True, map_location=plan.device)
    network.load_state_dict(saved["model"])
    average.model.load_state_dict(saved["average"])
    optimizer.load_state_dict(saved["optimizer"])
    return Progress(saved["step"], saved["seconds"])


def _save(plan: Plan, progress: Progress, network: nn.Module, average: Average, optimizer: torch.optim.Optimizer) -> None:
    """Replace the checkpoint in one move, so that an interruption leaves the old one, and draw the curves so far."""
    state = {"model": network.state_dict(), "average": average.model.state_dict(), "optimizer": optimizer.state_dict()}
    fresh = plan.checkpoint.with_suffix(".new")
    torch.save({**state, "step": progress.step, "seconds": progress.seconds}, fresh)
    fresh.replace(plan.checkpoint)
    curves.draw(plan.folder)


def _note(plan: Plan, progress: Progress, parts: Parts) -> None:
    shown = {name: round(float(part.detach()), 4) for name, part in parts.items()}
    with plan.log.open("a") as log:
        log.write(json.dumps({"step": progress.step, "s": round(progress.seconds), **shown}) + "\n")
