"""Which masks of a grid of clicks stay, over a network whose masks are as sure of their edges as is wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.engines.catalogue import Placement, find_engine
from backend.engines.sam.engine import FoundationDecoder
from backend.engines.sam.geometry import Candidate
from backend.engines.sam.text_grounding import Decoding, EverythingOptions, remove_small_regions, segment_everything
from backend.engines.sam.transforms import FramedPrompts, MaskCandidates
from backend.values.errors import SetupError
from backend.values.features import ImageFeatures
from prompts.geometry import size_of
from prompts.kinds import PromptSet
from tests.backend.engines import tiny_bundles
from tests.backend.engines.colour_network import ColourNetwork
from tests.backend.engines.sam.test_engine import segmenter_around
from tests.backend.pictures import BLUE, RED, disc, paint, square, two_shapes

OPTIONS = EverythingOptions(points_per_side=8)


class Blurry(ColourNetwork):
    """Masks whose logits lie between a number and its negative; the larger ones are those that it believes to be better."""

    def __init__(self, sure: float) -> None:
        super().__init__()
        self._sure = sure

    def decode(self, embeddings: Mapping[str, Tensor], prompts: FramedPrompts) -> MaskCandidates:
        found = super().decode(embeddings, prompts)
        return MaskCandidates(found.logits / 8 * self._sure, found.iou_predictions, found.object_logits)


def found_by(network: ColourNetwork, options: EverythingOptions = OPTIONS) -> list[Candidate]:
    image = two_shapes().image
    (embeddings,) = network.encode(network.frame.pixels(image, network.device)[None])
    return segment_everything(Decoding(network), ImageFeatures(size_of(image), torch.zeros(1, 1, 1), embeddings), options)


def test_masks_whose_edges_move_with_the_threshold_are_dropped() -> None:
    assert len(found_by(Blurry(sure=8))) == 3
    assert found_by(Blurry(sure=0.5)) == []


def test_how_far_the_threshold_moves_and_how_little_a_mask_may_change_are_options() -> None:
    assert len(found_by(Blurry(sure=0.5), replace(OPTIONS, stability_score_offset=0.25))) == 3
    assert len(found_by(Blurry(sure=0.5), replace(OPTIONS, stability_score_thresh=0.0))) == 3


def test_masks_that_the_network_itself_does_not_believe_in_are_dropped() -> None:
    assert found_by(Blurry(sure=8), replace(OPTIONS, pred_iou_thresh=0.96)) == []


def test_clicks_on_what_the_network_takes_for_no_object_are_dropped_and_doubtful_ones_are_worth_less() -> None:
    assert found_by(ColourNetwork(presence=-0.1)) == []
    sure, doubtful = found_by(ColourNetwork()), found_by(ColourNetwork(presence=0.0))
    assert [one.quality for one in doubtful] == pytest.approx([one.quality / 2 for one in sure])


@pytest.mark.parametrize(("threshold", "kept"), [(0.7, 3), (1.0, 64)])
def test_of_masks_in_one_place_one_stays(threshold: float, kept: int) -> None:
    assert len(found_by(Blurry(sure=8), replace(OPTIONS, box_nms_thresh=threshold))) == kept


def test_small_holes_are_filled_small_islands_go_and_the_largest_island_stays() -> None:
    body, hole, island = disc(80, 80, 40, 40, 25), square(80, 80, 38, 38, 3), square(80, 80, 2, 2, 4)
    assert np.array_equal(remove_small_regions((body & ~hole) | island, 20), body)
    assert np.array_equal(remove_small_regions((body & ~hole) | island, 5), (body & ~hole) | island)
    assert np.array_equal(remove_small_regions(island, 100), island)


@pytest.mark.parametrize(("least", "is_filled"), [(0, False), (200, True)])
def test_holes_that_are_too_small_for_the_project_are_filled_in_the_answer(least: int, is_filled: bool) -> None:
    picture = paint({"disc": (disc(160, 240, 75, 75, 50), RED), "hole": (square(160, 240, 70, 70, 12), BLUE)})
    engine = segmenter_around(ColourNetwork()).engine
    options = EverythingOptions(points_per_side=16, min_mask_region_area=least)
    decoder = FoundationDecoder(replace(engine.decoder._parts, everything=options))  # type: ignore[attr-defined]
    (features,) = decoder.encode_images([picture.image])
    found = decoder.decode(features, PromptSet(), engine.space.embed(PromptSet(), features), None)
    (mask,) = [mask for mask in found.masks if mask[75, 40]]
    assert bool(mask[75, 75]) is is_filled


@pytest.mark.slow
def test_a_bundle_says_how_everything_is_looked_for(tmp_path: Path) -> None:
    bundle = tiny_bundles.write_bundle("sam2-tiny", tmp_path)
    engine, placement = find_engine("sam2-tiny"), Placement("cpu", "float32")
    before = engine.version(bundle)
    (bundle / "everything.json").write_text(json.dumps({"points_per_side": 4, "min_mask_region_area": 9}))
    assert engine.version(bundle) != before
    loaded = engine.load(bundle, placement)
    asked = EverythingOptions(points_per_side=4, min_mask_region_area=9)
    assert loaded.decoder._parts.everything == asked  # type: ignore[attr-defined]
    for wrong in ('{"crop_n_layers": 1}', '{"points_per_side": "one"}', "[1]", "{"):
        (bundle / "everything.json").write_text(wrong)
        with pytest.raises(SetupError, match=r"everything\.json cannot be used.*points_per_side"):
            engine.load(bundle, placement)
