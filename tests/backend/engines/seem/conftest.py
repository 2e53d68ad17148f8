"""The recorded outputs of SEEM's own code, and the weights that they were recorded with.

Every weight is generated from its name, so that no weights are stored. The copy of the recordings beside this file holds every
k-th value of the larger arrays; MASKLOOM_SEEM_PARITY may name a folder with the whole ones.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backend.engines.base import Engine
from backend.engines.catalogue import Placement
from backend.engines.seem.backbones import DepthwiseFocalBlock, FocalBlock, FocalNetConfig, SamViTConfig
from backend.engines.seem.engine import BackboneConfig, Parts, SeemConfig, assemble, assemble_engine
from backend.engines.seem.inputs import InputSize, SeemNetwork, normalise
from backend.engines.seem.pixel_decoders import PixelFeatures, TransformerSizes
from backend.engines.seem.predictor import PredictorSizes
from backend.engines.seem.wiring import DEMO, V0, V1
from backend.values.masks import MaskSet
from prompts.encoders.seem import LanguageSizes, PhraseTokens, Tokenize, clip_tokenizer
from prompts.kinds import ObjectMemory, Prompt, PromptSet, ReferencePrompt

COPY = Path(__file__).parent / "parity"
FOLDER = Path(os.environ.get("MASKLOOM_SEEM_PARITY", COPY))
WIRINGS = {wiring.name: wiring for wiring in (V0, V1, DEMO)}
HALF = ("query_feat", "query_embed", "level_embed", "spatial_embed", "spatial_featured", "pn_indicator")
TINY = ("focaldw_v0", "focaldw_v1", "focaldw_demo", "focal4_v1", "samvit_v1")


def recipe(key: str, shape: tuple[int, ...]) -> Tensor:
    """The weight that was recorded under this name."""
    noise = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF).standard_normal(int(np.prod(shape))).reshape(shape)
    return torch.from_numpy(np.asarray(_scaled(key, noise), np.float32))


def _scaled(key: str, noise: np.ndarray) -> np.ndarray:
    leaf, shape = key.rsplit(".", 1)[-1], noise.shape
    if key.endswith("logit_scale"):
        return np.full(shape, 2.0)
    if leaf.startswith("gamma_"):
        return 0.5 + 0.1 * noise
    if leaf in ("bias", "in_proj_bias", "rel_pos_h", "rel_pos_w", "pos_embed"):
        return 0.05 * noise
    if leaf == "weight" and len(shape) == 1:
        return 1 + 0.1 * noise
    if any(part in key for part in HALF):
        return 0.5 * noise
    if "token_embedding" in key or "positional_embedding" in key:
        return 0.1 * noise
    return noise / np.sqrt(np.prod(shape[1:]) if len(shape) == 4 else shape[min(1, len(shape) - 1)])


def give_weights(network: nn.Module) -> None:
    """Put the recipe's weights into a network that may be on the meta device."""
    weights = {key: recipe(key, tuple(value.shape)) for key, value in network.state_dict().items()}
    network.load_state_dict(weights, assign=True)
    network.eval().requires_grad_(False)


def tiny_config(backbone: BackboneConfig, feed_forward: int = 128) -> SeemConfig:
    pixel = TransformerSizes(64, 4, feed_forward, 2)
    return SeemConfig(backbone, pixel, PredictorSizes(64, 4, 128, 3, 21), LanguageSizes(64, 4, 3))


CONFIGS = {
    "focaldw": tiny_config(FocalNetConfig(16, (1, 1, 2, 1), 3, 3, DepthwiseFocalBlock)),
    "focal4": tiny_config(FocalNetConfig(16, (1, 1, 2, 1), 4, 2, FocalBlock)),
    "samvit": tiny_config(SamViTConfig(128, 64, 4, 4, (1, 3)), 1024),
}


def assert_close(mine: Tensor, recorded: np.ndarray, atol: float, name: str = "") -> None:
    """Whether a tensor is what was recorded, wholly or at every k-th value."""
    got, expected = mine.numpy().reshape(-1), np.asarray(recorded).reshape(-1)
    if len(got) != len(expected):
        got = got[:: _step(mine.shape)]
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol, err_msg=name)


@dataclass
class Recording:
    """One recorded run of SEEM's own code, and this project's network with the same weights."""

    name: str
    arrays: Mapping[str, np.ndarray]
    network: SeemNetwork
    images: dict[str, PixelFeatures] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def check(self, name: str, mine: Tensor, atol: float = 5e-5) -> None:
        """Whether this project computes what was recorded; a sampled recording is compared at its samples."""
        assert_close(mine, self.arrays[name], atol, f"{self.name}: {name}")

    def padded(self, pixels: np.ndarray) -> Tensor:
        """An image ``(3, h, w)`` as the network takes it."""
        height, width = (int(side) for side in self.arrays["A.padded_size"])
        image = normalise(torch.from_numpy(pixels)[None])
        return nn.functional.pad(image, (0, width - image.shape[3], 0, height - image.shape[2]))

    def features(self, image: str) -> PixelFeatures:
        """Image "A" or "B", encoded once."""
        if image not in self.images:
            with torch.inference_mode():
                self.images[image] = self.network.encode(self.padded(self.arrays[f"image{image}_uint8_chw"]))
        return self.images[image]

    def phrases(self) -> PhraseTokens:
        with torch.inference_mode():
            read: PhraseTokens = self.network.predictor.lang_encoder(torch.from_numpy(self.arrays["text.input_ids"]))
        return read

    def masks(self, *names: str | None) -> Tensor:
        """Prompt masks ``(n, H, W)`` by their recorded names, None for an empty one."""
        empty = np.zeros_like(self.arrays["prompt.stroke"])
        return torch.from_numpy(np.stack([self.arrays[f"prompt.{name}"] if name else empty for name in names]))


def _step(shape: tuple[int, ...]) -> int:
    """How many values apart the samples of an array of this shape are: about 600 of them, in every column."""
    step = -(-int(np.prod(shape)) // 600)
    while np.gcd(step, shape[-1]) != 1:
        step += 1
    return step


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


@cache
def tiny(name: str) -> Recording:
    backbone, wiring = name.split("_")
    network = assemble(CONFIGS[backbone], WIRINGS[wiring])
    give_weights(network)
    return Recording(name, load(FOLDER / f"tiny_{name}.npz"), network)


@pytest.fixture(params=TINY)
def recording(request: pytest.FixtureRequest) -> Recording:
    """Each of the five recorded small models in turn."""
    return tiny(request.param)


@pytest.fixture
def recorded() -> Callable[[str], Recording]:
    """A recorded small model by name."""
    return tiny


@pytest.fixture
def close() -> Callable[..., None]:
    """Compare a tensor with a recorded array."""
    return assert_close


@pytest.fixture(name="give_weights")
def weights_by_recipe() -> Callable[[nn.Module], None]:
    """Put the recipe's weights into a network."""
    return give_weights


@pytest.fixture
def full_size() -> Callable[[str], dict[str, np.ndarray]]:
    """The recorded arrays of a full-size run; the two runs share their photo, which is stored once."""
    return lambda name: {**load(FOLDER / "full_focalt_unicl_lang_v1_512.npz"), **load(FOLDER / name)}


@pytest.fixture(scope="session")
def official_keys() -> dict[str, dict[str, list[int]]]:
    """Names and shapes in every published configuration's state dict."""
    keys: dict[str, dict[str, list[int]]] = json.loads(gzip.decompress((COPY / "keys.json.gz").read_bytes()))
    return keys


LIMITS = {"samvit": InputSize(125, 128, 128)}


@cache
def _tokenizer() -> Tokenize:
    if importlib.util.find_spec("open_clip") is None:
        pytest.skip("needs open_clip: pip install 'maskloom[engines]'")
    return clip_tokenizer()


@cache
def tiny_engine(name: str) -> Engine:
    """A small engine whose similarities are as sharp as a trained model's: with the recipe's scale nothing would be sure."""
    backbone, wiring = name.split("_")
    network = assemble(CONFIGS[backbone], WIRINGS[wiring])
    give_weights(network)
    network.predictor.lang_encoder.logit_scale.fill_(5.0)
    limits = LIMITS.get(backbone, InputSize(96, 256, 32))
    parts = Parts(_tokenizer(), limits, None, Placement("cpu", "float32"))  # whatever this processor has
    return assemble_engine(f"{name}-0", network, parts)


@pytest.fixture
def tiny_configs() -> dict[str, SeemConfig]:
    """The sizes of the recorded small models."""
    return CONFIGS


@pytest.fixture
def engine_of() -> Callable[[str], Engine]:
    """A small engine by backbone and wiring."""
    return tiny_engine


@pytest.fixture(params=["focaldw_v0", "focaldw_v1", "focaldw_demo", "samvit_v1"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """A small engine of each wiring, and one with a fixed square input."""
    return tiny_engine(request.param)


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A small picture ``(90, 124, 3)``."""
    return np.ascontiguousarray(load(FOLDER / "tiny_focaldw_v1.npz")["imageA_uint8_chw"].transpose(1, 2, 0))


@pytest.fixture(scope="session")
def other_photo() -> np.ndarray:
    """Another one ``(96, 100, 3)``."""
    return np.ascontiguousarray(load(FOLDER / "tiny_focaldw_v1.npz")["imageB_uint8_chw"].transpose(1, 2, 0))


@pytest.fixture
def ask() -> Callable[..., MaskSet]:
    """Ask an engine about a picture, as the segmenter does."""

    def ask_it(engine: Engine, image: np.ndarray, *prompts: Prompt, memory: ObjectMemory | None = None) -> MaskSet:
        said = PromptSet(prompts)
        features, *references = engine.decoder.encode_images([image, *(r.image.pixels for r in said.of(ReferencePrompt))])
        with torch.inference_mode():
            return engine.decoder.decode(features, said, engine.space.embed(said, features, references), memory)

    return ask_it
