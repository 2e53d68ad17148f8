"""Where and how exactly a network computes, what happens when its device is full, and where vectors of names are kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from backend.caches import Codec, DiskCache
from backend.engines.catalogue import Placement
from backend.values.errors import SetupError, missing_extra
from prompts.encoders import Movable, declare_missing_operators, fall_back_to_cpu, free_device


def import_class(name: str) -> Any:
    """A class of transformers by name. Raises SetupError where transformers is not installed, cannot be imported, or is older
    than the class.
    """
    declare_missing_operators()
    try:
        import transformers

        return getattr(transformers, name)
    except (ImportError, AttributeError) as error:
        raise missing_extra("engines", f"this engine needs {name} of transformers", error) from error


def read_model_type(folder: Path) -> str:
    """The ``model_type`` in a folder's config.json. Raises SetupError where there is none."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return str(config["model_type"])
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"{folder} is not the folder of a model: {path} cannot be read ({error})") from error


def config_argument(folder: Path) -> dict[str, Any]:
    """``config=`` for ``from_pretrained`` where transformers would ask the hub for a part of what lies in the folder.

    Checkpoints such as OmDet-Turbo's name a backbone of timm by ``backbone`` and ``backbone_kwargs``. For these transformers 5
    asks the hub whether a model of that name exists, ``local_files_only`` or not; it does not, and so it is timm's.
    """
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named, arguments = values.get("backbone"), values.get("backbone_kwargs")
    is_of_timm = isinstance(named, str) and bool(arguments) and values.get("use_timm_backbone", True)
    if not is_of_timm or values.get("backbone_config"):
        return {}
    asking = ("backbone", "backbone_kwargs", "use_timm_backbone", "use_pretrained_backbone")
    explicit = {name: value for name, value in values.items() if name not in asking}
    explicit["backbone_config"] = {"model_type": "timm_backbone", "backbone": named, **arguments}
    return {"config": import_class("CONFIG_MAPPING")[values["model_type"]].from_dict(explicit)}


def load_pretrained(model_class: Any, folder: Path, placement: Placement) -> Any:
    """A model of transformers, ready to answer. Raises SetupError when its files cannot be used.

    Only safetensors are read, as float32: where another number format is wanted, images alone are encoded in it (see
    computing), because coordinates and masks need the digits. Weights that the folder lacks are an error: a network with
    random parts must not answer.
    """
    device, _ = resolve(placement)
    how = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    try:
        model, loading = model_class.from_pretrained(folder, **how, **config_argument(folder))
    except Exception as error:  # configurations are code of others: whatever it raises, the folder is what to look at
        raise SetupError(f"the weights in {folder} cannot be loaded: {type(error).__name__}: {error}") from error
    if missing := sorted(loading["missing_keys"]):
        raise SetupError(f"the weights in {folder} are incomplete: {len(missing)} parameters are missing, such as {missing[0]}")
    return model.to(device).eval().requires_grad_(False)


def resolve(placement: Placement) -> tuple[torch.device, torch.dtype]:
    """The device and number format that a placement means on this machine. Raises SetupError for what it does not have."""
    device = _resolve_device(placement.device)
    if placement.dtype == "auto":
        return device, torch.bfloat16 if device.type == "cuda" and has_bfloat16(device) else torch.float32
    dtype: torch.dtype = getattr(torch, placement.dtype)
    if dtype == torch.bfloat16 and not has_bfloat16(device):
        raise SetupError(f"the {device.type} here has no bfloat16 instructions and would be slow; set MASKLOOM_DTYPE=float32")
    return device, dtype


def computing(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Within this, matrix products and convolutions are computed in a number format, where the device has it: a network that
    had to move to the CPU may find itself without.
    """
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32 and has_bfloat16(device))


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes bfloat16 itself and does not imitate it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type != "cpu" or processor_has_bfloat16()


def _resolve_device(name: str) -> torch.device:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available[name]:
        raise SetupError(f"there is no {name} device here; set MASKLOOM_DEVICE=cpu or auto")
    return torch.device(name)


def processor_has_bfloat16() -> bool:
    """Whether the CPU computes bfloat16 itself (AVX512-BF16 or AMX)."""
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(probe() for probe in probes if probe is not None)


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
        fall_back_to_cpu(self._network)
        self.most = CHUNKS["cpu"]


MOST_BYTES = 256 << 20

Phrases = tuple[str, ...]


class VocabularyStore:
    """The phrase cache: rows of names in a folder, one file for each (network, phrases, templates), to be deleted at any time.

    ``network`` changes with the encoder's weights.
    """

    def __init__(self, folder: Path, network: str) -> None:
        self._rows = DiskCache(folder, network, MOST_BYTES, Codec("the vectors of names", ".npy", _write, _read))

    def find(self, phrases: Phrases, templates: Phrases) -> Tensor | None:
        """The row ``(D,)`` that was kept, or None; a file that cannot be read counts as missing."""
        return self._rows.get(_key(phrases, templates))

    def keep(self, phrases: Phrases, templates: Phrases, row: Tensor) -> None:
        """Write a row, whole or not at all."""
        self._rows.put(_key(phrases, templates), row)


def _key(phrases: Phrases, templates: Phrases) -> str:
    return json.dumps([list(phrases), list(templates)])


def _write(row: Tensor) -> bytes:
    content = BytesIO()
    np.save(content, row.numpy())
    return content.getvalue()


def _read(body: bytes) -> Tensor:
    return torch.from_numpy(np.load(BytesIO(body), allow_pickle=False))
