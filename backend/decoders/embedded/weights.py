"""The checkpoint file: float16 safetensors with three networks in it, and the calibration in its header."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.decoders.embedded.decoder import EmbeddedDecoder
from backend.decoders.embedded.encoder import ImageEncoder
from backend.decoders.embedded.layers import fold_batch_norm
from backend.decoders.embedded.said import Calibration
from backend.decoders.embedded.view_decoder import ViewDecoder
from backend.errors import SetupError
from prompts.encoders.embedded import TextTower

SHIPPED = Path(__file__).parents[2] / "weights" / "embedded.safetensors"
_PARTS = ("encoder", "views", "text")


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A checkpoint in memory, ready to answer; ``version`` ends with a hash of the file."""

    decoder: EmbeddedDecoder
    tower: TextTower
    calibration: Calibration
    version: str


def read(path: Path) -> Loaded:
    """The checkpoint at ``path``. Raises SetupError where it is missing, broken or made for another network."""
    try:
        networks, calibration = read_networks(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:10]
    except FileNotFoundError as error:
        raise SetupError(f"there are no weights at {path}: give a file that `python -m train` wrote") from error
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        hint = "give a file that `python -m train` wrote"
        raise SetupError(f"{path} is no checkpoint of the embedded engine ({error}): {hint}") from error
    encoder, views, tower = networks
    fold_batch_norm(encoder)
    fold_batch_norm(views)
    decoder = EmbeddedDecoder(encoder, views, calibration)
    return Loaded(decoder, tower.eval(), calibration, f"embedded-{digest}")


def read_networks(path: Path) -> tuple[tuple[ImageEncoder, ViewDecoder, TextTower], Calibration]:
    """The three networks as they were trained, and the calibration."""
    with safe_open(path, "pt") as file:
        calibration = Calibration(**json.loads(file.metadata()["calibration"]))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    networks = (ImageEncoder(), ViewDecoder(), TextTower())
    for name, network in zip(_PARTS, networks, strict=True):
        network.load_state_dict(_part(tensors, name, network))
    return networks, calibration


def write(path: Path, networks: tuple[nn.Module, nn.Module, nn.Module], calibration: Calibration) -> None:
    """Write a checkpoint: image encoder, view decoder and text tower, in this order."""
    tensors = {
        f"{name}.{key}": tensor.detach().half().contiguous() if tensor.is_floating_point() else tensor.contiguous()
        for name, network in zip(_PARTS, networks, strict=True)
        for key, tensor in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    save_file(tensors, path, {"format": "maskloom-embedded-1", "calibration": json.dumps(asdict(calibration))})
    path.chmod(0o644)


def _part(tensors: dict[str, Tensor], name: str, network: nn.Module) -> dict[str, Tensor]:
    """One network's tensors as float32; counters that only training needs are left as they are."""
    mine = {key.removeprefix(f"{name}."): tensor.float() for key, tensor in tensors.items() if key.startswith(f"{name}.")}
    counters = {key: tensor for key, tensor in network.state_dict().items() if key.endswith("num_batches_tracked")}
    return {**counters, **mine}
