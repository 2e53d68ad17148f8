"""Tiny models of every family with random weights, written as the folders that published checkpoints have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from prompts.encoders import declare_missing_operators

declare_missing_operators()

SIDE = 64
MEMORY_WIDTH = 64
"""Channels of a memory in the video models: transformers takes these, whatever the config says, and pointers twice as wide."""


def write_sam2(folder: Path, seed: int = 0, width: int = 32) -> Path:
    """SAM 2 at 64 pixels, 8 channels wide."""
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig

    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 2, 2],
        global_attention_blocks=[3],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone.to_dict(),
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2],
        fpn_hidden_size=width,
    )
    config = Sam2Config(vision_config=vision, prompt_encoder_config=_prompts(width), mask_decoder_config=_decoder(width))
    return _write(Sam2Model, config, folder, seed)


def write_sam2_video(folder: Path, seed: int = 0) -> Path:
    """The same as a checkpoint of the video model, which is how SAM 2.1 is published."""
    from transformers import Sam2Config, Sam2VideoConfig, Sam2VideoModel

    width = 2 * MEMORY_WIDTH
    write_sam2(folder, seed, width)
    image = Sam2Config.from_pretrained(folder)
    config = Sam2VideoConfig(
        vision_config=image.vision_config,
        prompt_encoder_config=image.prompt_encoder_config.to_dict(),
        mask_decoder_config=image.mask_decoder_config.to_dict(),
        image_size=SIDE,
        memory_attention_hidden_size=width,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_downsample_rate=1,
        memory_encoder_hidden_size=width,
        memory_encoder_output_channels=MEMORY_WIDTH,
        mask_downsampler_embed_dim=width,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=32,
        memory_fuser_num_layers=1,
        memory_attention_rope_feat_sizes=[SIDE // 16, SIDE // 16],
    )
    return _write(Sam2VideoModel, config, folder, seed)


def write_edgetam(folder: Path, seed: int = 0, width: int = 32) -> Path:
    """EdgeTAM at 64 pixels on the smallest RepViT."""
    from transformers import EdgeTamConfig, EdgeTamModel, EdgeTamVisionConfig, TimmWrapperConfig

    arguments = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3], "embed_dim": [8, 16, 24, 32]}
    backbone = TimmWrapperConfig(architecture="repvit_m1", model_args={**arguments, "depth": [1, 1, 1, 1]})
    vision = EdgeTamVisionConfig(
        backbone_config=backbone.to_dict(),
        backbone_channel_list=[32, 24, 16, 8],
        backbone_feature_sizes=[[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2],
        fpn_hidden_size=width,
    )
    config = EdgeTamConfig(vision_config=vision, prompt_encoder_config=_prompts(width), mask_decoder_config=_decoder(width))
    return _write(EdgeTamModel, config, folder, seed)


def write_edgetam_video(folder: Path, seed: int = 0) -> Path:
    """The same as a checkpoint of the video model, which is how EdgeTAM is published."""
    from transformers import EdgeTamConfig, EdgeTamVideoConfig, EdgeTamVideoModel

    width = 2 * MEMORY_WIDTH
    write_edgetam(folder, seed, width)
    image = EdgeTamConfig.from_pretrained(folder)
    config = EdgeTamVideoConfig(
        vision_config=image.vision_config.to_dict(),
        prompt_encoder_config=image.prompt_encoder_config.to_dict(),
        mask_decoder_config=image.mask_decoder_config.to_dict(),
        image_size=SIDE,
        memory_attention_hidden_size=width,
        memory_attention_num_layers=1,
        memory_attention_mlp_hidden_size=32,
        memory_attention_rope_feat_sizes=[SIDE // 16, SIDE // 16],
        memory_attention_rope_k_sizes=[2, 2],
        memory_encoder_hidden_size=width,
        memory_encoder_output_channels=MEMORY_WIDTH,
        perceiver_resampler_num_latents=4,
        perceiver_resampler_num_latents_2d=4,
        perceiver_resampler_hidden_size=MEMORY_WIDTH,
        perceiver_resampler_mlp_intermediate_size=16,
        perceiver_resampler_attention_head_dim=MEMORY_WIDTH,
        perceiver_resampler_num_layers=1,
        mask_downsampler_embed_dim=width,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=32,
        memory_fuser_num_layers=1,
    )
    return _write(EdgeTamVideoModel, config, folder, seed)


def write_sam(folder: Path, seed: int = 0) -> Path:
    """SAM at 64 pixels, 16 channels wide."""
    from transformers import SamConfig, SamModel, SamVisionConfig

    config = SamConfig(
        vision_config=SamVisionConfig(**_sam_vision()), prompt_encoder_config=_prompts(32), mask_decoder_config=_decoder(32)
    )
    return _write(SamModel, config, folder, seed)


def write_sam_hq(folder: Path, seed: int = 0) -> Path:
    """SAM-HQ at 64 pixels, 16 channels wide."""
    from transformers import SamHQConfig, SamHQModel, SamHQVisionConfig

    config = SamHQConfig(
        vision_config=SamHQVisionConfig(**_sam_vision()),
        prompt_encoder_config=_prompts(32),
        mask_decoder_config={**_decoder(32), "vit_dim": 16},
    )
    return _write(SamHQModel, config, folder, seed)


def _sam_vision() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "output_channels": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "window_size": 2,
        "global_attn_indexes": [1],
        "num_pos_feats": 16,
    }


def _prompts(width: int) -> dict[str, Any]:
    return {"hidden_size": width, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4}


def _decoder(width: int) -> dict[str, Any]:
    return {"hidden_size": width, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}


def _write(model_class: Any, config: Any, folder: Path, seed: int) -> Path:
    _random(model_class, config, seed).save_pretrained(folder)
    return folder


def _random(model_class: Any, config: Any, seed: int) -> Any:
    """A model with random weights that are large enough for its answers to depend on what it is asked."""
    torch.manual_seed(seed)
    model: nn.Module = model_class(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            noise = torch.randn(parameter.shape, generator=generator) * spread
            parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
    return model


def write_clip(folder: Path, seed: int = 0, *, dim: int = 32) -> Path:
    """A CLIP of open_clip with a plain vision transformer, 32 pixels and 3 layers, in the layout of the hub."""
    import json

    import open_clip
    from safetensors.torch import save_file

    config = {
        "embed_dim": dim,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config)  # type: ignore[arg-type]
    preprocess = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return folder


def write_dino(folder: Path, seed: int = 0) -> Path:
    """DINOv2 with registers at 16 channels."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14, num_register_tokens=2
    )
    return _write(Dinov2WithRegistersModel, config, folder, seed)


def write_dinov3(folder: Path, seed: int = 0) -> Path:
    """DINOv3 at 16 channels."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return _write(DINOv3ViTModel, DINOv3ViTConfig(**sizes, image_size=64, patch_size=16, num_register_tokens=2), folder, seed)


SAM3_SIDE = 112


def write_sam3(folder: Path, seed: int = 0, width: int = 32) -> Path:
    """SAM 3 at 112 pixels as a checkpoint of the video model, which is how it is published, with a tokenizer."""
    from safetensors.torch import save_file
    from transformers import Sam3VideoConfig, Sam3VideoModel

    cells = SAM3_SIDE // 14
    detector = {
        **_sam3_detector(width),
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": 49408,
            "hidden_size": 32,
            "intermediate_size": 32,
            "projection_dim": width,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
        },
        "model_type": "sam3",
    }
    tracker = {
        "vision_config": detector["vision_config"],
        "prompt_encoder_config": {**_prompts(width), "image_size": SAM3_SIDE, "patch_size": 14},
        "mask_decoder_config": _decoder(width),
        "model_type": "sam3_tracker_video",
        "image_size": SAM3_SIDE,
        "memory_attention_hidden_size": width,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 32,
        "memory_attention_downsample_rate": 1,
        "memory_attention_rope_feat_sizes": [cells, cells],
        "memory_encoder_hidden_size": width,
        "memory_encoder_output_channels": MEMORY_WIDTH if width > 32 else 8,
        "mask_downsampler_embed_dim": width,
        "memory_fuser_embed_dim": width,
        "memory_fuser_intermediate_dim": 32,
        "memory_fuser_num_layers": 1,
    }
    model = _random(Sam3VideoModel, Sam3VideoConfig(detector_config=detector, tracker_config=tracker), seed)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return write_clip_tokenizer(folder)


def write_sam3_lite_text(folder: Path, seed: int = 0) -> Path:
    """SAM 3 LiteText at 112 pixels, the detector alone, as it is published, with a tokenizer."""
    from transformers import Sam3LiteTextConfig, Sam3LiteTextModel

    text = {"hidden_size": 32, "intermediate_size": 32, "projection_dim": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    return write_clip_tokenizer(
        _write(Sam3LiteTextModel, Sam3LiteTextConfig(**_sam3_detector(), text_config=text), folder, seed)
    )


def _sam3_detector(width: int = 32) -> dict[str, Any]:
    """What the detectors of SAM 3 and LiteText have in common."""
    trunk = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SAM3_SIDE,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    }
    cells = SAM3_SIDE // 14
    small = {"hidden_size": width, "num_attention_heads": 2}
    return {
        "vision_config": {
            "model_type": "sam3_vision_model",
            "backbone_config": trunk,
            "fpn_hidden_size": width,
            "backbone_feature_sizes": [[cells * 4] * 2, [cells * 2] * 2, [cells] * 2],
        },
        "geometry_encoder_config": {**small, "num_layers": 1, "intermediate_size": 32},
        "detr_encoder_config": {**small, "num_layers": 1, "intermediate_size": 32},
        "detr_decoder_config": {**small, "num_layers": 1, "intermediate_size": 32, "num_queries": 5},
        "mask_decoder_config": small,
    }


def write_clip_tokenizer(folder: Path) -> Path:
    """CLIP's tokenizer in transformers' layout, made of the one that open_clip ships."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    known = SimpleTokenizer()
    ours = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {ours.get(token, token): number for token, number in known.encoder.items()}
    merges = [tuple(pair) for pair, _ in sorted(known.bpe_ranks.items(), key=lambda item: item[1])]
    CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token="<|endoftext|>").save_pretrained(folder)
    return folder
