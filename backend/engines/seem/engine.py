"""SEEM behind Maskloom's decoder interface, and its published releases: configurations, checkpoints, and the engine of each.

The checkpoints are those published: the variant of each, its file, and how it is loaded.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from backend.engines.base import Engine, outside_negatives
from backend.engines.catalogue import Placement, fingerprint
from backend.engines.device import VocabularyStore, computing, processor_has_bfloat16, resolve
from backend.engines.seem.answering import Answering, Judgement
from backend.engines.seem.backbones import DepthwiseFocalBlock, FocalBlock, FocalNet, FocalNetConfig, SamViT, SamViTConfig
from backend.engines.seem.inputs import InputSize, SeemImage, SeemNetwork, TrainedVocabulary, VocabularyReader, frame_of
from backend.engines.seem.pixel_decoders import DeformablePixelDecoder, FeaturePyramidPixelDecoder, TransformerSizes
from backend.engines.seem.predictor import Ask, Prediction, Predictor, PredictorSizes
from backend.engines.seem.space import SeemSpace, Sight, render
from backend.engines.seem.tracking import SeemTracker
from backend.engines.seem.wiring import DEMO, V0, V1, Wiring
from backend.values.errors import SetupError, missing_extra
from backend.values.features import ImageFeatures
from backend.values.masks import MaskSet
from prompts.encoders import with_cpu_fallback
from prompts.encoders.seem import LanguageSizes, SeemTextEncoder, Tokenize, clip_tokenizer
from prompts.kinds import Image, ObjectMemory, PromptSet
from prompts.memory import LabelMemory, margins_of, not_refuted, taught_names
from prompts.space import PromptTokens


class SeemDecoder:
    """Images and prompts to masks, by SEEM; backend.engines.base.MaskDecoder says what is answered.

    Images are encoded in ``dtype``, prompts are answered in float32: masks need the digits. When its device is full, the whole
    network moves to the CPU for good, and what was asked is answered there.
    """

    def __init__(
        self, network: SeemNetwork, limits: InputSize, dtype: torch.dtype, judgement: Judgement, space: SeemSpace
    ) -> None:
        self._network = network
        self._limits = limits
        self._space = space
        self._dtype = dtype
        self._classes = judgement.classes
        self._answering = Answering(network.predictor, judgement)

    @property
    def device(self) -> torch.device:
        return self._network.device

    def to(self, device: torch.device) -> None:
        """Move all weights."""
        self._network.to(device)

    def encode_images(self, images: Sequence[Image]) -> list[ImageFeatures]:
        """The features of upright RGB images ``(H, W, 3)`` uint8, one at a time because their sizes differ."""
        with torch.inference_mode():
            return [self._encode(image) for image in images]

    @with_cpu_fallback
    def decode(self, features: ImageFeatures, prompts: PromptSet, tokens: PromptTokens, memory: ObjectMemory | None) -> MaskSet:
        """The masks that the prompts ask for on one image. Raises TypeError for references of another engine."""
        mine = self._space.read(tokens)
        device = self._network.device
        image, mine = SeemImage.unpack(features, self._limits, device), mine.on(device)
        with torch.inference_mode():
            drawings = render(prompts, image.frame, memory, device)
            if len(drawings):
                return self._answering.drawings(image, drawings, mine)
            if prompts.said:
                return outside_negatives(self._answering.words_and_references(image, mine), prompts)
            return MaskSet.empty(features.size) if prompts.drawn else self._answering.everything(image)

    def places_of(self, features: ImageFeatures) -> Tensor:
        """What every place means to the network (see LearnsLabels)."""
        return features.grid

    @with_cpu_fallback
    def decode_labels(self, features: ImageFeatures, tokens: PromptTokens, memories: Sequence[LabelMemory]) -> MaskSet:
        """What words find, and the segments of the image that look like examples (see LearnsLabels)."""
        device = self._network.device
        image, mine = SeemImage.unpack(features, self._limits, device), self._space.read(tokens).on(device)
        with torch.inference_mode():
            said = self._answering.words_and_references(image, mine)
            found = self._answering.everything(image)
            best, which = margins_of(features.grid, list(found.masks), memories).max(dim=1)
        alike = [row for row, margin in enumerate(best.tolist()) if margin > 0]
        shown = found[alike].named([memories[int(which[row])].label for row in alike])
        rows = MaskSet.concatenate([said.named(taught_names(said.labels, memories)), shown], features.size)
        return rows[not_refuted(features.grid, list(rows.masks), rows.labels, memories)]

    @with_cpu_fallback
    def _encode(self, image: Image) -> ImageFeatures:
        """The backbone, the pixel decoder and one pass of the mask decoder that asks for nothing. The latter is what is found
        without a prompt, and what gives every place of the image a meaning; meanings are float32, as those of phrases are.
        """
        frame, device = frame_of(image, self._limits), self._network.device
        with computing(device, self._dtype):
            pixels = self._network.encode(frame.prepare(image).to(device)).float()
            objects: Prediction = self._network.predictor(pixels, Ask(objects=1))[-1].float()
        return SeemImage(frame, pixels, objects).pack(self._classes.objectness(objects.embedding))


BackboneConfig = FocalNetConfig | SamViTConfig
NECK_CHANNELS = (128, 256, 512, 1024)

TINY_FOCALNET = FocalNetConfig(96, (2, 2, 6, 2), 3, 3, DepthwiseFocalBlock)
LARGE_FOCALNET = FocalNetConfig(192, (2, 2, 18, 2), 4, 2, FocalBlock)
SAM_B = SamViTConfig(1024, 768, 12, 12, (2, 5, 8, 11))
SAM_L = SamViTConfig(1024, 1024, 24, 16, (5, 11, 17, 23))


@dataclass(frozen=True, slots=True)
class SeemConfig:
    """All sizes of one SEEM."""

    backbone: BackboneConfig
    pixel: TransformerSizes
    predictor: PredictorSizes
    language: LanguageSizes


def _official(backbone: BackboneConfig) -> SeemConfig:
    """The sizes that all published models share."""
    feed_forward = 1024 if isinstance(backbone, SamViTConfig) else 2048
    return SeemConfig(
        backbone,
        TransformerSizes(512, 8, feed_forward, 6),
        PredictorSizes(512, 8, 2048, 9, 101),
        LanguageSizes(512, 8, 12),
    )


CONFIGS: Mapping[str, SeemConfig] = {
    "focal-t": _official(TINY_FOCALNET),
    "focal-l": _official(LARGE_FOCALNET),
    "samvit-b": _official(SAM_B),
    "samvit-l": _official(SAM_L),
}


def assemble(config: SeemConfig, wiring: Wiring) -> SeemNetwork:
    """The network of a configuration; its weights are whatever PyTorch starts with."""
    predictor = Predictor(config.predictor, config.language, wiring)
    match config.backbone:
        case FocalNetConfig():
            pyramid = FeaturePyramidPixelDecoder(config.backbone.widths, config.pixel)
            return SeemNetwork(FocalNet(config.backbone), pyramid, predictor)
        case SamViTConfig():
            return SeemNetwork(SamViT(config.backbone), DeformablePixelDecoder(NECK_CHANNELS, config.pixel), predictor)


log = logging.getLogger(__name__)

ROLE = "seem"
"""The folder of a bundle that has the checkpoint."""
NOT_WEIGHTS: Mapping[str, tuple[int, ...]] = {"dilation_kernel": (1, 1, 3, 3), "criterion.empty_weight": (134,)}


def find_checkpoint(weights: Path | None, file: str) -> Path:
    """An official file: in the bundle that ``maskloom fetch`` filled, or the file that was named itself. Raises SetupError."""
    if weights is None:
        raise SetupError(f"an engine of SEEM needs {file}; fetch it, or name the file with MASKLOOM_WEIGHTS")
    if not weights.is_dir():
        return weights
    for path in (weights / ROLE / file, weights / file):
        if path.is_file():
            return path
    raise SetupError(f"{weights} holds no {file}; fetch it again, or name the file itself with MASKLOOM_WEIGHTS")


WRAPPINGS = ("model", "state_dict", "model_state_dict", "model_ema", "ema")
"""Names under which training programs keep a network's tensors beside other things, the first that is there counts."""
PREFIXES = ("module.", "model.")
"""What wrappers for several devices and for training put before every name."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; nothing in the file is executed. Raises SetupError if it is something else."""
    try:
        state = _load(path)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise SetupError(f"{path} cannot be read as a PyTorch checkpoint of plain tensors: {error}") from error
    state = _unwrap(state)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        held = f"a dict with {', '.join(map(str, list(state)[:5]))}" if isinstance(state, dict) else type(state).__name__
        raise SetupError(f"{path} is not a state dict: expected names and tensors, got {held}")
    return state


def _unwrap(state: object) -> object:
    """The state dict itself, out of what training programs save around it."""
    while isinstance(state, dict) and any(isinstance(state.get(name), dict) for name in WRAPPINGS):
        state = next(state[name] for name in WRAPPINGS if isinstance(state.get(name), dict))
    for prefix in PREFIXES:
        if isinstance(state, dict) and state and all(str(name).startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
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
    """Put the tensors of a checkpoint into a network, which may be on the meta device; what it has no place for is told and
    left out, as SEEM's own code does. Raises SetupError that names every missing and mis-shaped tensor.
    """
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    got = {key: tuple(value.shape) for key, value in state.items()}
    differences = [f"missing: {key} {shape}" for key, shape in wanted.items() if key not in got]
    differences += [
        f"mis-shaped: {key}, expected {shape}, got {got[key]}" for key, shape in wanted.items() if got.get(key, shape) != shape
    ]
    if differences:
        raise SetupError("\n  ".join([f"{source} does not fit this network ({len(differences)} differences):", *differences]))
    if surplus := sorted(got.keys() - wanted.keys() - NOT_WEIGHTS.keys()):
        log.warning("%s: %d tensors are not used, such as %s", source, len(surplus), ", ".join(surplus[:3]))
    network.load_state_dict({key: state[key].float() for key in wanted}, assign=True)


SHORT_512 = InputSize(short=512, longest=1024, divisor=32)
SQUARE_1024 = InputSize(short=1000, longest=1024, divisor=1024)


@dataclass(frozen=True, slots=True)
class Parts:
    """What an engine is assembled from besides its network."""

    tokenize: Tokenize
    limits: InputSize
    store: VocabularyStore | None
    placement: Placement = field(default_factory=Placement)


@dataclass(frozen=True, slots=True)
class Release:
    """One published model in one wiring."""

    config: SeemConfig
    wiring: Wiring
    file: str
    limits: InputSize

    def build(self, weights: Path | None, placement: Placement) -> Engine:
        """The engine, with its weights from a file or a bundle. Raises SetupError for missing packages or weights that do not
        fit.
        """
        path = find_checkpoint(weights, self.file)
        with torch.device("meta"):
            network = assemble(self.config, self.wiring)
        load_weights(network, read_checkpoint(path), str(path))
        version = fingerprint(path)
        store = None if placement.vocabulary is None else VocabularyStore(placement.vocabulary, f"seem-{version}")
        return assemble_engine(version, network, Parts(_tokenizer(), self.limits, store, placement))


FOCAL_T = Release(CONFIGS["focal-t"], V1, "seem_focalt_v1.pt", SHORT_512)
FOCAL_T_V0 = Release(CONFIGS["focal-t"], V0, "seem_focalt_v0.pt", SHORT_512)
FOCAL_T_DEMO = Release(CONFIGS["focal-t"], DEMO, "seem_focalt_v0.pt", SHORT_512)
FOCAL_L = Release(CONFIGS["focal-l"], V1, "seem_focall_v1.pt", SHORT_512)
FOCAL_L_V0 = Release(CONFIGS["focal-l"], V0, "seem_focall_v0.pt", SHORT_512)
FOCAL_L_DEMO = Release(CONFIGS["focal-l"], DEMO, "seem_focall_v0.pt", SHORT_512)
SAMVIT_B = Release(CONFIGS["samvit-b"], V1, "seem_samvitb_v1.pt", SQUARE_1024)
SAMVIT_L = Release(CONFIGS["samvit-l"], V1, "seem_samvitl_v1.pt", SQUARE_1024)


def assemble_engine(version: str, network: SeemNetwork, parts: Parts) -> Engine:
    """An engine of a network that has its weights."""
    device, dtype = _resolve(parts.placement)
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.eval().requires_grad_(False)
    text = SeemTextEncoder(network.predictor.lang_encoder, parts.tokenize)
    reader = VocabularyReader(text, parts.store)
    space = SeemSpace(version, text, reader, Sight(network, parts.limits))
    judgement = Judgement(TrainedVocabulary(network.predictor, reader))
    decoder = SeemDecoder(network, parts.limits, dtype, judgement, space)
    return Engine("seem", version, space, decoder, SeemTracker(decoder, space))


def _resolve(placement: Placement) -> tuple[torch.device, torch.dtype]:
    """The device and number format; unlike elsewhere "auto" is bfloat16 also on a processor that computes it natively, because
    its own demo runs in half precision.
    """
    device, dtype = resolve(placement)
    if placement.dtype == "auto" and device.type == "cpu" and processor_has_bfloat16():
        dtype = torch.bfloat16
    return device, dtype


def _tokenizer() -> Tokenize:
    try:
        return clip_tokenizer()
    except ImportError as error:
        raise missing_extra("engines", "SEEM's tokenizer is in open_clip", error) from error
