"""Networks of the SAM family with random weights, built from configurations alone: full size to measure, mini to rehearse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from backend.engines.sam.networks import Sam2Network, SamHqNetwork, SamNetwork
from backend.engines.sam.sam3 import TEXT_LENGTH, Sam3Network
from backend.engines.sam.transforms import PromptableNetwork
from prompts.encoders import declare_missing_operators

HIERA: dict[str, dict[str, Any]] = {
    "sam2-tiny": {},
    "sam2-small": {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]},
    "sam2-large": {
        "hidden_size": 144,
        "embed_dim_per_stage": [144, 288, 576, 1152],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "blocks_per_stage": [2, 6, 36, 4],
        "global_attention_blocks": [23, 33, 43],
        "window_size_per_stage": [8, 4, 16, 8],
    },
}
NAMES = ("edgetam", *HIERA, "sam-base", "sam-hq-base", "sam3", "sam2-mini", "sam3-mini")


@dataclass(frozen=True)
class Built:
    """A network as Maskloom calls it, and the model of transformers that answers a click by itself."""

    network: PromptableNetwork
    plain: Any


def build(name: str, device: torch.device, dtype: torch.dtype) -> Built:
    """A network by name. Raises KeyError for another name."""
    declare_missing_operators()
    if name.startswith("sam3"):
        return _sam3(name == "sam3-mini", device, dtype)
    if name in ("sam-base", "sam-hq-base"):
        model = _model_of(("SamModel", None) if name == "sam-base" else ("SamHQModel", None), device)
        return Built((SamNetwork if name == "sam-base" else SamHqNetwork)(model, dtype), model)
    model = _model_of({"edgetam": _edgetam, "sam2-mini": _sam2_mini}.get(name, lambda: _sam2(HIERA[name]))(), device)
    return Built(Sam2Network(model, dtype), model)


def _model_of(made: tuple[str, Any], device: torch.device) -> Any:
    import transformers

    name, config = made
    if config is None:  # as it is published
        config = getattr(transformers, name.replace("Model", "Config"))()
    return getattr(transformers, name)(config).eval().requires_grad_(False).to(device)


def _edgetam() -> tuple[str, Any]:
    import transformers as hf

    return "EdgeTamModel", hf.EdgeTamConfig(vision_config=edgetam_vision())


def edgetam_vision() -> Any:
    """The configuration of EdgeTAM's image encoder at full size."""
    import transformers as hf

    arguments = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    backbone = hf.TimmWrapperConfig(architecture="repvit_m1", model_args=arguments)
    return hf.EdgeTamVisionConfig(backbone_config=backbone.to_dict())


def _sam2(sizes: dict[str, Any]) -> tuple[str, Any]:
    import transformers as hf

    return "Sam2Model", hf.Sam2Config(vision_config=sam2_vision(sizes))


def sam2_vision(sizes: dict[str, Any]) -> Any:
    """The configuration of an image encoder of SAM 2.1, whose Hiera has ``sizes``."""
    import transformers as hf

    backbone = hf.Sam2HieraDetConfig(**sizes)
    channels = list(reversed(backbone.embed_dim_per_stage))
    return hf.Sam2VisionConfig(backbone_config=backbone.to_dict(), backbone_channel_list=channels)


def _sam2_mini() -> tuple[str, Any]:
    import transformers as hf

    backbone = hf.Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[64, 64],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 2, 2],
        global_attention_blocks=[3],
    )
    vision = hf.Sam2VisionConfig(
        backbone_config=backbone.to_dict(),
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=32,
    )
    return "Sam2Model", hf.Sam2Config(
        vision_config=vision, prompt_encoder_config=_prompts(64, 16), mask_decoder_config=_decoder()
    )


def _sam3(mini: bool, device: torch.device, dtype: torch.dtype) -> Built:
    import transformers as hf

    detector, tracker = (_mini_detector(), _mini_tracker()) if mini else (hf.Sam3Config(), hf.Sam3TrackerConfig())
    models = [_model_of(made, device) for made in (("Sam3Model", detector), ("Sam3TrackerModel", tracker))]
    return Built(Sam3Network(*models, _tokens, dtype), models[1])


def _tokens(phrases: list[str], **_: Any) -> dict[str, torch.Tensor]:
    """Stands in for the tokenizer: as many tokens as there are letters, padded."""
    attended = (torch.arange(TEXT_LENGTH)[None] < len(phrases[0])).long()
    return {"input_ids": attended * 7 + 1, "attention_mask": attended}


def _mini_detector() -> Any:
    import transformers as hf

    small = {"hidden_size": 32, "num_attention_heads": 2}
    layers = {**small, "num_layers": 1, "intermediate_size": 32}
    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "projection_dim": 32, "num_hidden_layers": 1}
    return hf.Sam3Config(
        vision_config=_mini_vision(),
        text_config={**text, "num_attention_heads": 2, "max_position_embeddings": TEXT_LENGTH},
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 5},
        mask_decoder_config=small,
    )


def _mini_tracker() -> Any:
    import transformers as hf

    return hf.Sam3TrackerConfig(
        vision_config=_mini_vision(), prompt_encoder_config=_prompts(112, 14), mask_decoder_config=_decoder()
    )


def _mini_vision() -> dict[str, Any]:
    trunk = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    windows = {"image_size": 112, "window_size": 4, "global_attn_indexes": [1], "pretrain_image_size": 56}
    return {
        "model_type": "sam3_vision_model",
        "backbone_config": {**trunk, **windows, "model_type": "sam3_vit_model"},
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }


def _prompts(side: int, patch: int) -> dict[str, Any]:
    return {"hidden_size": 32, "image_size": side, "patch_size": patch, "mask_input_channels": 4}


def _decoder() -> dict[str, Any]:
    return {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
