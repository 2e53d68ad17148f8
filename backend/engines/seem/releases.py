"""SEEM as published: which file holds the weights of which network, in which wiring, for which input; and how it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from backend.engines.base import Engine
from backend.engines.phrase_cache import VocabularyStore
from backend.engines.pretrained import processor_has_bfloat16, resolve
from backend.engines.seem.answering import Judgement
from backend.engines.seem.calibration import TrainedVocabulary
from backend.engines.seem.checkpoint import digest, find_checkpoint, load_weights, read_checkpoint
from backend.engines.seem.decoder import SeemDecoder
from backend.engines.seem.frame import InputSize
from backend.engines.seem.network import SeemNetwork
from backend.engines.seem.space import SeemSpace, Sight
from backend.engines.seem.variants import CONFIGS, SeemConfig, assemble
from backend.engines.seem.vocabulary import VocabularyReader
from backend.engines.seem.wiring import DEMO, V0, V1, Wiring
from backend.values.errors import SetupError
from backend.values.placement import Placement
from prompts.encoders.seem import SeemTextEncoder, Tokenize, clip_tokenizer

SHORT_512 = InputSize(short=512, longest=1024, divisor=32)
SQUARE_1024 = InputSize(short=1000, longest=1024, divisor=1024)
ANYWHERE = Placement()


@dataclass(frozen=True, slots=True)
class Release:
    """One published model in one wiring."""

    config: SeemConfig
    wiring: Wiring
    file: str
    limits: InputSize


RELEASES: Mapping[str, Release] = {
    "seem-focal-t": Release(CONFIGS["focal-t"], V1, "seem_focalt_v1.pt", SHORT_512),
    "seem-focal-t-v0": Release(CONFIGS["focal-t"], V0, "seem_focalt_v0.pt", SHORT_512),
    "seem-focal-t-demo": Release(CONFIGS["focal-t"], DEMO, "seem_focalt_v0.pt", SHORT_512),
    "seem-focal-l": Release(CONFIGS["focal-l"], V1, "seem_focall_v1.pt", SHORT_512),
    "seem-focal-l-v0": Release(CONFIGS["focal-l"], V0, "seem_focall_v0.pt", SHORT_512),
    "seem-focal-l-demo": Release(CONFIGS["focal-l"], DEMO, "seem_focall_v0.pt", SHORT_512),
    "seem-samvit-b": Release(CONFIGS["samvit-b"], V1, "seem_samvitb_v1.pt", SQUARE_1024),
    "seem-samvit-l": Release(CONFIGS["samvit-l"], V1, "seem_samvitl_v1.pt", SQUARE_1024),
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What an engine is assembled from besides its network."""

    tokenize: Tokenize
    limits: InputSize
    store: VocabularyStore | None
    placement: Placement = field(default_factory=Placement)


def build(
    weights: Path | None,
    placement: Placement = ANYWHERE,
    variant: str = "seem-focal-t",
) -> Engine:
    """A release by name, with its weights from a file or, without one, from the hub. Raises SetupError for an unknown name,
    missing packages or weights that do not fit.
    """
    release = find_release(variant)
    path = weights or find_checkpoint(release.file)
    with torch.device("meta"):
        network = assemble(release.config, release.wiring)
    load_weights(network, read_checkpoint(path), str(path))
    version = f"{variant}-{digest(path)}"
    store = None if placement.vocabulary is None else VocabularyStore(placement.vocabulary, version)
    return assemble_engine(variant, version, network, Parts(_tokenizer(), release.limits, store, placement))


def assemble_engine(name: str, version: str, network: SeemNetwork, parts: Parts) -> Engine:
    """An engine of a network that has its weights."""
    device, dtype = _resolve(parts.placement)
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.eval().requires_grad_(False)
    text = SeemTextEncoder(network.predictor.lang_encoder, parts.tokenize)
    reader = VocabularyReader(text, parts.store)
    space = SeemSpace(version, text, reader, Sight(network, parts.limits))
    judgement = Judgement(TrainedVocabulary(network.predictor, reader))
    return Engine(name, version, space, SeemDecoder(network, parts.limits, dtype, judgement))


def _resolve(placement: Placement) -> tuple[torch.device, torch.dtype]:
    """The device and number format; unlike elsewhere "auto" is bfloat16 also on a processor that computes it natively, because
    its own demo runs in half precision.
    """
    device, dtype = resolve(placement)
    if placement.dtype == "auto" and device.type == "cpu" and processor_has_bfloat16():
        dtype = torch.bfloat16
    return device, dtype


def find_release(variant: str) -> Release:
    """A release by name. Raises SetupError that lists the known ones."""
    if variant not in RELEASES:
        raise SetupError(f"there is no SEEM called {variant!r}; known ones: {', '.join(RELEASES)}")
    return RELEASES[variant]


def _tokenizer() -> Tokenize:
    try:
        return clip_tokenizer()
    except ImportError as error:
        raise SetupError(f"SEEM's tokenizer is in open_clip: pip install 'maskloom[engines]' ({error})") from error


focal_t = partial(build, variant="seem-focal-t")
focal_t_v0 = partial(build, variant="seem-focal-t-v0")
focal_t_demo = partial(build, variant="seem-focal-t-demo")
focal_l = partial(build, variant="seem-focal-l")
focal_l_v0 = partial(build, variant="seem-focal-l-v0")
focal_l_demo = partial(build, variant="seem-focal-l-demo")
samvit_b = partial(build, variant="seem-samvit-b")
samvit_l = partial(build, variant="seem-samvit-l")
