"""Tiny detectors with random weights and their tokenizers, written as the folders that published checkpoints have."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

from tests.backend.engines.tiny_models import _write, write_clip_tokenizer

SIDE = 64
_SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 1, 1],
    "window_size": 2,
    "image_size": SIDE,
    "out_indices": [2, 3, 4],
    "out_features": ["stage2", "stage3", "stage4"],
}
_CLIP_TEXT = {
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 16,
    "max_position_embeddings": 77,
}


def write_omdet(folder: Path) -> Path:
    """OmDet-Turbo at 64 pixels."""
    return _write_omdet(folder, _SWIN, [16, 32, 64], normed=False)


TIMM_SWIN = "swin_tiny_patch4_window7_224"


def write_published_omdet(folder: Path) -> Path:
    """The same around timm's Swin, with a configuration as transformers 4.45 to 4.57 wrote it, which is how it is published:
    the backbone is a name with arguments, ``backbone_config`` is null.
    """
    arguments = {"out_indices": [1, 2, 3], "img_size": SIDE, "always_partition": True}
    _write_omdet(folder, {"model_type": "timm_backbone", "backbone": TIMM_SWIN, **arguments}, [192, 384, 768], normed=True)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    named = {"backbone": TIMM_SWIN, "backbone_kwargs": arguments, "use_timm_backbone": True, "use_pretrained_backbone": False}
    path.write_text(json.dumps({**config, **named, "backbone_config": None}), encoding="utf-8")
    return folder


def _write_omdet(folder: Path, backbone: dict[str, Any], channels: list[int], *, normed: bool) -> Path:
    from transformers import OmDetTurboConfig, OmDetTurboForObjectDetection

    config = OmDetTurboConfig(
        text_config=_CLIP_TEXT,
        backbone_config=backbone,
        image_size=SIDE,
        apply_layernorm_after_vision_backbone=normed,
        text_projection_in_dim=16,
        text_projection_out_dim=16,
        task_encoder_hidden_dim=32,
        class_embed_dim=16,
        num_queries=6,
        encoder_hidden_dim=32,
        vision_features_channels=[32, 32, 32],
        encoder_in_channels=channels,
        encoder_attention_heads=2,
        encoder_dim_feedforward=16,
        decoder_hidden_dim=32,
        decoder_num_heads=2,
        decoder_num_layers=1,
        decoder_dim_feedforward=16,
        disable_custom_kernels=True,
    )
    _write(OmDetTurboForObjectDetection, config, folder, 0)
    return write_clip_tokenizer(folder)


def write_owlv2(folder: Path) -> Path:
    """OWLv2 at 64 pixels."""
    from transformers import Owlv2Config, Owlv2ForObjectDetection

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config={**small, "vocab_size": 49408, "max_position_embeddings": 16},
        vision_config={**small, "image_size": SIDE, "patch_size": 16},
        projection_dim=16,
    )
    _write(Owlv2ForObjectDetection, config, folder, 0)
    return write_clip_tokenizer(folder)


def write_grounding_dino(folder: Path) -> Path:
    """Grounding DINO with a Swin and a BERT of one layer each, which reads letters."""
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    return _write_dino(GroundingDinoForObjectDetection, GroundingDinoConfig, folder)


def write_mm_grounding_dino(folder: Path) -> Path:
    """The same as MM-Grounding-DINO, which LLMDet is one of."""
    from transformers import MMGroundingDinoConfig, MMGroundingDinoForObjectDetection

    return _write_dino(MMGroundingDinoForObjectDetection, MMGroundingDinoConfig, folder)


def _write_dino(model_class: Any, config_class: Any, folder: Path) -> Path:
    from transformers import BertTokenizer

    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), "."]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "model_type": "bert"}
    config = config_class(
        backbone_config=_SWIN,
        text_config={**text, "vocab_size": len(vocabulary), "max_position_embeddings": 64},
        d_model=32,
        num_queries=6,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        max_text_len=64,
        disable_custom_kernels=True,
    )
    _write(model_class, config, folder, 0)
    BertTokenizer(vocab={token: number for number, token in enumerate(vocabulary)}).save_pretrained(folder)
    return folder
