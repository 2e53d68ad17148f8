"""The file of an engine's weights: what training leaves, as it is written and read again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.engines.embedded.evidence import Calibration, Prototypes
from backend.engines.embedded.network import ViewDecoder
from backend.engines.embedded.places import CLOSE, DIM, Classifier, PlaceEncoder
from backend.engines.embedded.places import CONTEXT as CONTEXT_CHANNELS
from prompts.encoders.embedded import TextTower

_NAMES, _PLACES = "names", "places"
_PROTOTYPES = tuple(f"prototypes.{each.name}" for each in fields(Prototypes))
_WEIGHTS = ("evidence", "strange")
_READ_ONLY, _LARGE, _SCALE = ("text.table", "classifier."), 4096, ".scale"
"""What is stored in bytes: tensors of these names, of so many numbers; beside each lies one scale for a row."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What training leaves: the networks as they were trained, unit vectors ``(A, D)`` of the names that a region may have and
    ``(B, D)`` of places of all kinds of photos, what photos show of the first P names, and what was fitted afterwards. The
    ``classifier`` is the backbone as it was before training, through which ``views`` looks at each view.
    """

    encoder: PlaceEncoder
    views: ViewDecoder
    text: TextTower
    names: Tensor
    places: Tensor
    calibration: Calibration
    classifier: Classifier
    prototypes: Prototypes

    @classmethod
    def fresh(cls, calibration: Calibration) -> Checkpoint:
        """Networks that have learnt nothing."""
        nothing = torch.zeros(0, DIM)
        views = ViewDecoder(CONTEXT_CHANNELS, CLOSE)
        return cls(PlaceEncoder(), views, TextTower(), nothing, nothing, calibration, Classifier(), Prototypes.none(DIM))

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks by their names in the file."""
        return {"encoder": self.encoder, "views": self.views, "text": self.text, "classifier": self.classifier}


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint as it was trained. Raises what reading a file that is none raises."""
    with safe_open(path, "pt") as file:
        fitted = json.loads(file.metadata()["calibration"])
        calibration = Calibration(**{**fitted, **{key: tuple(fitted[key]) for key in _WEIGHTS}})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    prototypes = Prototypes(*(tensors[name].float() for name in _PROTOTYPES))
    vectors = {"names": tensors[_NAMES].float(), "places": tensors[_PLACES].float()}
    found = replace(Checkpoint.fresh(calibration), **vectors, prototypes=prototypes)
    for name, network in found.networks.items():
        network.load_state_dict(_part(tensors, name, network))
    return found


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in half precision, and the largest tables of what is only read as whole numbers of a byte."""
    tensors = {
        f"{name}.{key}": tensor
        for name, network in checkpoint.networks.items()
        for key, tensor in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    shown = dict(zip(_PROTOTYPES, (getattr(checkpoint.prototypes, each.name) for each in fields(Prototypes)), strict=True))
    whole = {**tensors, **shown, _NAMES: checkpoint.names, _PLACES: checkpoint.places}
    stored = {key: each for name, tensor in whole.items() for key, each in _stored(name, tensor.detach()).items()}
    save_file(stored, path, {"format": "maskloom-embedded-5", "calibration": json.dumps(asdict(checkpoint.calibration))})
    path.chmod(0o644)


def _stored(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor as the file holds it: bytes and a scale for each row where it is large and only read, else in half precision."""
    if not name.startswith(_READ_ONLY) or tensor.ndim < 2 or tensor.numel() < _LARGE:
        return {name: tensor.half().contiguous() if tensor.is_floating_point() else tensor.contiguous()}
    rows = tensor.float().flatten(1)
    scale = (rows.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
    return {name: (rows / scale).round().to(torch.int8).view(tensor.shape), name + _SCALE: scale[:, 0].contiguous()}


def _part(tensors: dict[str, Tensor], name: str, network: nn.Module) -> dict[str, Tensor]:
    """One network's tensors as float32; counters that only training needs are left as they are."""
    mine = {
        key.removeprefix(f"{name}."): _restored(tensors, key)
        for key in tensors
        if key.startswith(f"{name}.") and not key.endswith(_SCALE)
    }
    counters = {key: tensor for key, tensor in network.state_dict().items() if key.endswith("num_batches_tracked")}
    return {**counters, **mine}


def _restored(tensors: dict[str, Tensor], key: str) -> Tensor:
    tensor = tensors[key].float()
    return tensor if key + _SCALE not in tensors else tensor * tensors[key + _SCALE].view(-1, *[1] * (tensor.ndim - 1))
