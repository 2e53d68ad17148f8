"""SEEM's checkpoints: from the hub or a file into a network, with every difference reported, and back into a file.

The official files are plain state dicts. Two entries in them are no weights of the network: a constant kernel and the class
weights of the training loss.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from backend.values.errors import SetupError

REPOSITORY = "xdecoder/SEEM"
NOT_WEIGHTS: Mapping[str, tuple[int, ...]] = {"dilation_kernel": (1, 1, 3, 3), "criterion.empty_weight": (134,)}


def find_checkpoint(file: str) -> Path:
    """An official file: from the local cache of the hub, else downloaded into it. In offline mode (``HF_HUB_OFFLINE=1``)
    nothing is downloaded. Raises SetupError when the file cannot be had.
    """
    try:
        import huggingface_hub as hub
    except ImportError:
        raise SetupError(
            f"{file} is on the hub at {REPOSITORY}, and huggingface_hub is not installed: pip install 'maskloom[engines]'"
        ) from None
    known = hub.try_to_load_from_cache(REPOSITORY, file)
    if isinstance(known, str):
        return Path(known)
    try:
        return Path(hub.hf_hub_download(REPOSITORY, file))
    except Exception as error:
        raise SetupError(
            f"cannot get {file} from the hub's {REPOSITORY}: {error}. Connect to the internet once, or download the file "
            "elsewhere and name it with --weights."
        ) from error


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; nothing in the file is executed. Raises SetupError if it is something else."""
    try:
        state = _load(path)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise SetupError(f"{path} cannot be read as a PyTorch checkpoint of plain tensors: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise SetupError(f"{path} is not a state dict: expected names and tensors, got {type(state).__name__}")
    return state


def _load(path: Path) -> object:
    """Mapped from disk where the file's format allows it, which needs no second copy in memory."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)


def load_weights(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put the tensors of a checkpoint into a network, which may be on the meta device. Raises SetupError that names every
    missing, unexpected and mis-shaped tensor.
    """
    differences = compare(network, state)
    if differences:
        raise SetupError("\n  ".join([f"{source} does not fit this network ({len(differences)} differences):", *differences]))
    network.load_state_dict({key: value.float() for key, value in state.items() if key not in NOT_WEIGHTS}, assign=True)


def compare(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """What keeps a checkpoint from fitting a network, one line for each tensor."""
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    got = {key: tuple(value.shape) for key, value in state.items() if key not in NOT_WEIGHTS}
    missing = [f"missing: {key} {wanted[key]}" for key in wanted if key not in got]
    unexpected = [f"unexpected: {key} {got[key]}" for key in got if key not in wanted]
    shared = [key for key in wanted if key in got and wanted[key] != got[key]]
    return [*missing, *unexpected, *(f"mis-shaped: {key}, expected {wanted[key]}, got {got[key]}" for key in shared)]


def save_checkpoint(network: nn.Module, path: Path) -> None:
    """Write a network in the layout of the official files, the two entries that are no weights included."""
    constants = {key: torch.ones(shape) for key, shape in NOT_WEIGHTS.items()}
    weights = {key: value.contiguous().clone() for key, value in network.state_dict().items()}
    torch.save({**constants, **weights}, path)


def digest(path: Path) -> str:
    """A short name of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:10]
