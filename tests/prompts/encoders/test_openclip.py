"""CLIP as a joint space, on a small random model that was saved and loaded as published ones are."""

from __future__ import annotations

import gc
import math
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from prompts.encoders import openclip
from prompts.encoders.openclip import TEMPLATES, OpenClip
from tests.backend.engines import tiny_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder: Path) -> OpenClip:
    return OpenClip.load(folder, torch.device("cpu"), dense_side=64)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def test_a_phrase_is_the_mean_of_its_sentences_in_open_clip(clip: OpenClip, folder: Path) -> None:
    import open_clip

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")([template.format("red cup") for template in TEMPLATES])
    with torch.inference_mode():
        sentences = torch.nn.functional.normalize(model.eval().encode_text(tokens), dim=-1)
    expected = torch.nn.functional.normalize(sentences.mean(dim=0), dim=0)
    torch.testing.assert_close(clip.encode_text(["dog", "red cup"])[1], expected, atol=1e-5, rtol=0)


def test_no_phrases_are_no_rows_of_the_same_width(clip: OpenClip) -> None:
    assert clip.encode_text([]).shape == (0, 32)


def test_a_crop_is_what_open_clip_says_of_the_image(clip: OpenClip, folder: Path) -> None:
    import open_clip
    from PIL import Image

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    picture = noise(32, 32)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(model.eval().encode_image(preprocess(Image.fromarray(picture))[None]), dim=-1)
    torch.testing.assert_close(clip.encode_crops([picture]), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("shape", "grid"), [((64, 64), (8, 8)), ((30, 60), (4, 8)), ((1, 1), (8, 8)), ((1, 500), (1, 8))])
def test_patches_cover_the_image_in_its_proportions(clip: OpenClip, shape: tuple[int, int], grid: tuple[int, int]) -> None:
    patches = clip.encode_patches(noise(*shape))
    assert patches.shape == (32, *grid)
    torch.testing.assert_close(patches.norm(dim=0), torch.ones(grid), atol=1e-4, rtol=0)


def test_a_patch_looks_at_those_nearby(clip: OpenClip) -> None:
    """A change in one corner shows most in the patches of that corner."""
    before = noise(64, 64)
    after = before.copy()
    after[:8, :8] = 255 - after[:8, :8]
    changed = 1 - (clip.encode_patches(before) * clip.encode_patches(after)).sum(dim=0)
    assert changed[:3, :3].mean() > 2 * changed[5:, 5:].mean()


def test_the_last_block_is_values_weighted_by_similar_keys(clip: OpenClip) -> None:
    """Equal patches, but for their places: the answer must lie between the extremes of what open_clip's values give."""
    flat = np.full((64, 64, 3), 90, np.uint8)
    patches = clip.encode_patches(flat)
    assert float((patches.flatten(1).T @ patches.flatten(1)).min()) > 0.5


def test_a_patch_attends_to_similar_keys_and_the_nearer_of_them_more(clip: OpenClip) -> None:
    """NACLIP's formula, written out: keys against keys, plus a Gaussian of the distance with a deviation of 5 patches."""
    rows, columns = 3, 4
    block = clip._model.visual.transformer.resblocks[-1]
    width, heads = block.attn.embed_dim, block.attn.num_heads
    tokens = torch.randn(1, 1 + rows * columns, width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = clip._last_block(tokens, rows, columns)[0]
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        normed = block.ln_1(tokens[0, 1:])
        keys, values = (normed @ weight[n * width : (n + 1) * width].T + bias[n * width : (n + 1) * width] for n in (1, 2))
        places = [(row, column) for row in range(rows) for column in range(columns)]
        near = torch.tensor([[np.exp(-((a - c) ** 2 + (b - d) ** 2) / 50) for c, d in places] for a, b in places]).float()
        parts = [slice(n * width // heads, (n + 1) * width // heads) for n in range(heads)]
        alike = [keys[:, part] @ keys[:, part].T / (width / heads) ** 0.5 for part in parts]
        mixed = [(each + near).softmax(dim=-1) @ values[:, part] for each, part in zip(alike, parts, strict=True)]
        expected = block.attn.out_proj(torch.cat(mixed, dim=-1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_places_of_the_training_grid_are_as_they_were_trained_and_of_another_grid_between_them(clip: OpenClip) -> None:
    visual = clip._model.visual
    rows, columns = visual.grid_size
    torch.testing.assert_close(clip._positions(rows, columns), visual.positional_embedding, atol=1e-5, rtol=0)
    wide = clip._positions(rows, 3 * columns)[1:].reshape(rows, 3 * columns, -1)
    trained = visual.positional_embedding[1:].reshape(rows, columns, -1)
    torch.testing.assert_close(wide[:, 1::3], trained, atol=1e-5, rtol=0)


def test_another_kind_of_image_tower_is_refused() -> None:
    class Tower(torch.nn.Module):
        pass

    model = torch.nn.Module()
    model.visual = Tower()
    with pytest.raises(ValueError, match="plain vision transformer"):
        OpenClip(model, None, {"mean": (0, 0, 0), "std": (1, 1, 1)}, 64)


def test_the_nearness_of_patches_is_a_gaussian_of_their_distance_and_is_not_kept() -> None:
    near = openclip._nearness(3, 4)
    for one in range(12):
        for other in range(12):
            distance = math.hypot(one // 4 - other // 4, one % 4 - other % 4)
            assert near[one, other].item() == pytest.approx(math.exp(-(distance**2) / (2 * 5.0**2)), abs=1e-6)
    kept = weakref.ref(near)
    del near
    gc.collect()
    assert kept() is None
