"""Every published configuration of SEEM, and how a network is put together from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from backend.engines.seem.davit import DaViT, DaViTConfig
from backend.engines.seem.focalnet import DepthwiseFocalBlock, FocalBlock, FocalNet, FocalNetConfig
from backend.engines.seem.network import SeemNetwork
from backend.engines.seem.pixel_deformable import DeformablePixelDecoder
from backend.engines.seem.pixel_fpn import FeaturePyramidPixelDecoder, TransformerSizes
from backend.engines.seem.predictor import Predictor, PredictorSizes
from backend.engines.seem.sam_vit import SamViT, SamViTConfig
from backend.engines.seem.wiring import Wiring
from prompts.encoders.seem import LanguageSizes

BackboneConfig = FocalNetConfig | DaViTConfig | SamViTConfig
NECK_CHANNELS = (128, 256, 512, 1024)

FOCAL_T = FocalNetConfig(96, (2, 2, 6, 2), 3, 3, DepthwiseFocalBlock)
FOCAL_L = FocalNetConfig(192, (2, 2, 18, 2), 4, 2, FocalBlock)
DAVIT_D3 = DaViTConfig((128, 256, 512, 1024), (4, 8, 16, 32), (1, 1, 9, 1), (7, 2, 2, 2), (3, 0, 0, 0))
DAVIT_D5 = DaViTConfig((256, 512, 1024, 2048), (8, 16, 32, 64), (1, 1, 9, 1), (7, 3, 3, 3), (3, 1, 1, 1))
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
    "focal-t": _official(FOCAL_T),
    "focal-l": _official(FOCAL_L),
    "davit-d3": _official(DAVIT_D3),
    "davit-d5": _official(DAVIT_D5),
    "samvit-b": _official(SAM_B),
    "samvit-l": _official(SAM_L),
}


def assemble(config: SeemConfig, wiring: Wiring) -> SeemNetwork:
    """The network of a configuration; its weights are whatever PyTorch starts with."""
    predictor = Predictor(config.predictor, config.language, wiring)
    match config.backbone:
        case FocalNetConfig():
            return SeemNetwork(FocalNet(config.backbone), _pyramid(config, config.backbone.widths), predictor)
        case DaViTConfig():
            return SeemNetwork(DaViT(config.backbone), _pyramid(config, config.backbone.widths), predictor)
        case SamViTConfig():
            return SeemNetwork(SamViT(config.backbone), DeformablePixelDecoder(NECK_CHANNELS, config.pixel), predictor)


def _pyramid(config: SeemConfig, channels: tuple[int, ...]) -> nn.Module:
    return FeaturePyramidPixelDecoder(channels, config.pixel)
