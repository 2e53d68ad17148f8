"""Everything mode in crops: SAM's own crops and rules, and things that are too small for one look at the whole image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from backend.engines.catalogue import find_engine
from backend.engines.sam.crops import Crop, crops_of, is_cut_off
from backend.engines.sam.engine import FoundationDecoder, FoundationParts
from backend.engines.sam.everything import EverythingOptions
from backend.engines.sam.references import FoundationSpace
from backend.engines.sam.text_grounding import Decoding, MapFinder, MapLikeFinder
from backend.values.errors import SetupError
from backend.values.masks import MaskSet
from backend.values.placement import Placement
from prompts.geometry import BoolArray, Size
from prompts.kinds import PromptSet
from tests.backend.engines import tiny_bundles
from tests.backend.engines.colour_network import ColourClip, ColourNetwork
from tests.backend.pictures import BLUE, RED, Picture, disc, paint, square

SIZES = st.builds(Size, st.integers(20, 2000), st.integers(20, 2000))


@given(SIZES, st.integers(0, 3), st.sampled_from([0.0, 0.2, 512 / 1500, 0.5]))
def test_the_crops_are_those_of_sam(size: Size, layers: int, ratio: float) -> None:
    from transformers.models.sam.image_processing_sam import _generate_per_layer_crops

    boxes, numbers = _generate_per_layer_crops(layers, ratio, (size.height, size.width))
    theirs = list(zip(map(tuple, boxes), numbers, strict=True))[1:]
    ours = crops_of(size, EverythingOptions(crop_n_layers=layers, crop_overlap_ratio=ratio))
    assert [(crop.box, crop.layer) for crop in ours] == [
        one for one in theirs if one[0][0] < one[0][2] and one[0][1] < one[0][3]
    ]


@given(SIZES, st.integers(0, 3), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_a_mask_is_cut_off_where_sam_says_so(size: Size, which: int, sides: list[float]) -> None:
    from transformers.models.sam.image_processing_sam import _is_box_near_crop_edge

    crop = list(crops_of(size, EverythingOptions(crop_n_layers=1)))[which]
    inside = np.round(
        np.array([*sorted(sides[:2]), *sorted(sides[2:])])[[0, 2, 1, 3]] * [*(crop.size.width, crop.size.height) * 2]
    )
    box = inside + np.array([*crop.box[:2], *crop.box[:2]])
    theirs = _is_box_near_crop_edge(torch.tensor(inside)[None], list(crop.box), [0, 0, size.width, size.height])
    assert is_cut_off(box, crop, size) == bool(theirs[0])


def test_an_image_of_one_pixel_has_crops_with_a_pixel_each() -> None:
    assert {crop.box for crop in crops_of(Size(1, 1), EverythingOptions(crop_n_layers=2))} == {(0, 0, 1, 1)}


def everything(picture: Picture, options: EverythingOptions) -> tuple[MaskSet, ColourNetwork]:
    clip, network = ColourClip(), ColourNetwork()
    decoding = Decoding(network)
    space = FoundationSpace("colours", clip)  # type: ignore[arg-type]
    finder, like = MapFinder(space, decoding), MapLikeFinder(decoding)
    decoder = FoundationDecoder(FoundationParts(decoding, space, clip, None, finder, like, options))  # type: ignore[arg-type]
    (features,) = decoder.encode_images([picture.image])
    return decoder.decode(features, PromptSet(), space.embed(PromptSet(), features), None), network


def best_iou(masks: NDArray[np.bool_], truth: BoolArray) -> float:
    return max((float((mask & truth).sum() / (mask | truth).sum()) for mask in masks), default=0.0)


def scene() -> Picture:
    """A large square, and small discs, of which one lies where two crops overlap."""
    shapes = {"square": (square(640, 960, 500, 330, 260), BLUE)}
    for name, (x, y) in {"left": (92, 67), "middle": (460, 67), "low": (239, 439)}.items():
        shapes[name] = (disc(640, 960, x, y, 18), RED)
    return paint(shapes)


def test_small_things_are_found_in_crops_and_finer_than_on_the_whole_image() -> None:
    picture = scene()
    whole, _ = everything(picture, EverythingOptions(points_per_side=16))
    cropped, _ = everything(picture, EverythingOptions(points_per_side=16, crop_n_layers=1))
    for name in ("left", "middle", "low"):
        truth = picture.shapes[name]
        assert best_iou(cropped.masks, truth) > max(best_iou(whole.masks, truth), 0.7)
    large = picture.shapes["square"]
    assert [best_iou(mask[None], large) > 0.9 for mask in cropped.masks if (mask & large).sum() > 0.5 * large.sum()] == [True]
    assert cropped.masks.decode().any(axis=(1, 2)).all()
    assert cropped.low_res_logits.shape == (len(cropped), 64, 64)


def test_what_a_crop_cuts_off_is_answered_whole_or_not_at_all() -> None:
    """Half of a thing, as a crop sees it, is no thing."""
    long = np.zeros((640, 960), np.bool_)
    long[300:340, 100:860] = True
    picture = paint({"bar": (long, RED)})
    masks, _ = everything(picture, EverythingOptions(points_per_side=16, crop_n_layers=1))
    touching = [mask for mask in masks.masks if (mask & long).sum() > 0.5 * mask.sum()]
    assert len(touching) == 1
    assert best_iou(masks.masks, long) > 0.9


def test_of_a_thing_that_the_whole_image_and_a_crop_show_the_crop_s_finer_mask_stays() -> None:
    truth = disc(640, 960, 200, 150, 60)
    picture = paint({"disc": (truth, RED)})
    (coarse,) = [mask for mask in everything(picture, EverythingOptions(points_per_side=16))[0].masks if mask[150, 200]]
    found, _ = everything(picture, EverythingOptions(points_per_side=16, crop_n_layers=1))
    (fine,) = [mask for mask in found.masks if mask[150, 200]]
    assert best_iou(fine[None], truth) > best_iou(coarse[None], truth) + 0.01


def test_holes_that_are_too_small_for_the_project_are_filled() -> None:
    body, hole = disc(640, 960, 300, 300, 200), square(640, 960, 280, 280, 40)
    picture = paint({"disc": (body, RED), "hole": (hole, BLUE)})
    for least, is_filled in ((0, False), (10_000, True)):
        found, _ = everything(picture, EverythingOptions(points_per_side=16, min_mask_region_area=least))
        (mask,) = [mask for mask in found.masks if mask[200, 300]]
        assert bool(mask[300, 300]) is is_filled


@pytest.mark.parametrize(("factor", "expected"), [(1, 16**2 + 4 * 16**2), (2, 16**2 + 4 * 8**2)])
def test_the_grid_of_a_layer_is_thinner_by_the_factor(factor: int, expected: int) -> None:
    options = EverythingOptions(points_per_side=16, crop_n_layers=1, crop_n_points_downscale_factor=factor)
    _, network = everything(scene(), options)
    assert sum(network.calls) == expected


def test_without_layers_there_is_one_look() -> None:
    assert list(crops_of(Size(600, 800), EverythingOptions())) == []
    assert Crop((0, 0, 20, 10), 1).size == Size(10, 20)


def test_a_bundle_says_how_everything_is_looked_for(tmp_path: Path) -> None:
    bundle = tiny_bundles.write_bundle("sam2-tiny", tmp_path)
    engine, placement = find_engine("sam2-tiny"), Placement("cpu", "float32")
    before = engine.version(bundle)
    (bundle / "everything.json").write_text(json.dumps({"crop_n_layers": 1, "points_per_side": 4}))
    assert engine.version(bundle) != before
    loaded = engine.load(bundle, placement)
    assert loaded.decoder._parts.everything == EverythingOptions(points_per_side=4, crop_n_layers=1)  # type: ignore[attr-defined]
    for wrong in ('{"crop_layers": 1}', '{"crop_n_layers": "one"}', "[1]", "{"):
        (bundle / "everything.json").write_text(wrong)
        with pytest.raises(SetupError, match=r"everything\.json cannot be used.*crop_n_layers"):
            engine.load(bundle, placement)
