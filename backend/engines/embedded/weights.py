"""The checkpoint file: float16 safetensors: three networks, the vectors of known names, and the calibration in the header."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.engines.embedded.decoder import EmbeddedDecoder
from backend.engines.embedded.encoder import ImageEncoder
from backend.engines.embedded.layers import fold_batch_norm
from backend.engines.embedded.said import Calibration
from backend.engines.embedded.view_decoder import ViewDecoder
from backend.values.errors import SetupError
from prompts.encoders.embedded import TextTower

_NAMES = "names"
SHIPPED = Path(__file__).parents[2] / "weights" / "embedded.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What training leaves: the networks as they were trained, unit vectors ``(A, D)`` of the names that the encoder was
    trained to know, and what was fitted afterwards.
    """

    encoder: ImageEncoder
    views: ViewDecoder
    text: TextTower
    names: Tensor
    calibration: Calibration

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks by their names in the file."""
        return {"encoder": self.encoder, "views": self.views, "text": self.text}


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
        found = read_checkpoint(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:10]
    except FileNotFoundError as error:
        raise SetupError(f"there are no weights at {path}: give a file that `python -m train` wrote") from error
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        hint = "give a file that `python -m train` wrote"
        raise SetupError(f"{path} is no checkpoint of the embedded engine ({error}): {hint}") from error
    fold_batch_norm(found.encoder)
    fold_batch_norm(found.views)
    decoder = EmbeddedDecoder(found.encoder, found.views, found.calibration, found.names)
    return Loaded(decoder, found.text.eval(), found.calibration, f"embedded-{digest}")


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint as it was trained. Raises what reading a file that is none raises."""
    with safe_open(path, "pt") as file:
        calibration = Calibration(**json.loads(file.metadata()["calibration"]))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = Checkpoint(ImageEncoder(), ViewDecoder(), TextTower(), tensors[_NAMES].float(), calibration)
    for name, network in found.networks.items():
        network.load_state_dict(_part(tensors, name, network))
    return found


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in half precision."""
    tensors = {
        f"{name}.{key}": tensor
        for name, network in checkpoint.networks.items()
        for key, tensor in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    halved = {
        key: tensor.detach().half().contiguous() if tensor.is_floating_point() else tensor.contiguous()
        for key, tensor in {**tensors, _NAMES: checkpoint.names}.items()
    }
    save_file(halved, path, {"format": "maskloom-embedded-2", "calibration": json.dumps(asdict(checkpoint.calibration))})
    path.chmod(0o644)


def _part(tensors: dict[str, Tensor], name: str, network: nn.Module) -> dict[str, Tensor]:
    """One network's tensors as float32; counters that only training needs are left as they are."""
    mine = {key.removeprefix(f"{name}."): tensor.float() for key, tensor in tensors.items() if key.startswith(f"{name}.")}
    counters = {key: tensor for key, tensor in network.state_dict().items() if key.endswith("num_batches_tracked")}
    return {**counters, **mine}
