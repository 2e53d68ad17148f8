"""SEEM as one network: backbone, pixel decoder and mask decoder, with the parameter names of the official checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backend.engines.seem.pixel_fpn import PixelFeatures
from backend.engines.seem.predictor import Predictor

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class SegmentationHead(nn.Module):
    """A pixel decoder and a mask decoder."""

    def __init__(self, pixel_decoder: nn.Module, predictor: Predictor) -> None:
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor


class SeemNetwork(nn.Module):
    """The network; its state dict has the layout of the official checkpoints."""

    def __init__(self, backbone: nn.Module, pixel_decoder: nn.Module, predictor: Predictor) -> None:
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = SegmentationHead(pixel_decoder, predictor)

    @property
    def predictor(self) -> Predictor:
        return self.sem_seg_head.predictor

    @property
    def device(self) -> torch.device:
        return self.predictor.class_embed.device

    def encode(self, images: Tensor) -> PixelFeatures:
        """Images ``(B, 3, H, W)``, RGB in 0..255, normalised and padded (see ``normalise``)."""
        features: PixelFeatures = self.sem_seg_head.pixel_decoder(self.backbone(images))
        return features


def normalise(image: Tensor) -> Tensor:
    """Images ``(B, 3, H, W)`` of RGB in 0..255 around zero, as the network was trained; to be padded with zeros after it."""
    mean, std = (torch.tensor(values, device=image.device)[:, None, None] for values in (MEAN, STD))
    return (image.float() - mean) / std
