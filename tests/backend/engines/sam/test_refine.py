"""Refinement by a SAM decoder, over a network that sees colours and knows the true edge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from backend.engines import colour
from backend.engines.base import Engine, OffersAlternatives
from backend.engines.catalogue import Placement
from backend.engines.sam.refine import RefiningDecoder, refine_masks, refined
from backend.engines.sam.text_grounding import Decoding
from backend.engines.sam.transforms import FramedPrompts, MaskCandidates
from backend.segmenter import Segmenter
from backend.values.features import FeatureCache, ImageFeatures
from backend.values.masks import Masks
from backend.values.session import ForPrompts, Round
from prompts.geometry import size_of
from prompts.kinds import KeyedImage, PointPrompt, PromptSet
from tests.backend.engines import tiny_models
from tests.backend.engines.colour_network import ColourNetwork
from tests.backend.pictures import square, two_shapes


class TrueEdges(ColourNetwork):
    """The thing in the middle of the box, whatever the logits say of its edges."""

    def decode(self, embeddings: object, prompts: FramedPrompts) -> MaskCandidates:  # type: ignore[override]
        assert prompts.logits is not None
        alone = FramedPrompts(None, None, prompts.boxes, None, multimask_output=False)
        return super().decode(embeddings, alone)  # type: ignore[arg-type]


def features_of(network: ColourNetwork) -> ImageFeatures:
    image = two_shapes().image
    (embeddings,) = network.encode(network.frame.pixels(image, network.device)[None])
    return ImageFeatures(size_of(image), torch.zeros(1, 1, 1), embeddings)


def iou(left: np.ndarray, right: np.ndarray) -> float:
    return float((left & right).sum() / (left | right).sum())


def test_a_rough_mask_gets_the_decoder_s_edges() -> None:
    network = TrueEdges()
    truth, rough = two_shapes().shapes["blue square"], square(80, 120, 73, 24, 33)
    (refined_mask,) = refine_masks(Decoding(network), features_of(network), Masks.of_stack(rough[None]))
    assert iou(refined_mask, truth) > iou(rough, truth) + 0.05


def test_a_mask_that_the_decoder_does_not_agree_with_stays() -> None:
    network = TrueEdges()
    far_off = square(80, 120, 88, 36, 6)
    (kept,) = refine_masks(Decoding(network), features_of(network), Masks.of_stack(far_off[None]))
    assert np.array_equal(kept, far_off)


def test_an_empty_mask_stays_empty() -> None:
    network = TrueEdges()
    nothing = np.zeros((1, 80, 120), np.bool_)
    assert not refine_masks(Decoding(network), features_of(network), Masks.of_stack(nothing)).areas.any()


def test_a_mask_in_which_the_decoder_does_not_believe_stays() -> None:
    rough = square(80, 120, 73, 24, 33)
    network = TrueEdges(presence=-0.5)
    assert np.array_equal(refine_masks(Decoding(network), features_of(network), Masks.of_stack(rough[None]))[0], rough)


def test_a_mask_that_would_contradict_a_click_stays() -> None:
    """A correction of a corner was undone: all of the square but the corner is nearly all of the square."""
    network = TrueEdges()
    corrected = two_shapes().shapes["blue square"] & ~square(80, 120, 78, 28, 8)
    inside, corner = np.array([[90.0, 40.0]]), np.array([[90.0, 40.0], [80.0, 30.0]])
    (finer,), (kept,) = (
        refine_masks(Decoding(network), features_of(network), Masks.of_stack(corrected[None]), at) for at in (inside, corner)
    )
    assert finer[30, 80]
    assert np.array_equal(kept, corrected)


def test_what_else_a_click_may_mean_is_refined_where_the_engine_can_tell(tmp_path: Path) -> None:
    class Silent:
        """A decoder with one answer."""

        def __init__(self, engine: Engine) -> None:
            self.encode_images, self.decode = engine.decoder.encode_images, engine.decoder.decode

    base, folder, placement = colour.build(None), tiny_models.write_sam(tmp_path), Placement("cpu", "float32")
    assert not isinstance(refined(replace(base, decoder=Silent(base)), folder, placement).decoder, OffersAlternatives)
    engine = refined(base, folder, placement)
    assert isinstance(engine.decoder, OffersAlternatives)
    (features,) = engine.decoder.encode_images([two_shapes().image])
    found = engine.decoder.decode_alternatives(features, PromptSet((PointPrompt((85, 40)),)))
    plain = base.decoder.decode_alternatives(features, PromptSet((PointPrompt((85, 40)),)))  # type: ignore[attr-defined]
    assert len(found) == len(plain)


def test_an_engine_keeps_its_names_scores_and_memory() -> None:
    base = colour.build(None)
    refining = Engine(base.name, base.version, base.space, RefiningDecoder(base.decoder, Decoding(TrueEdges())))
    question = ForPrompts(KeyedImage.of(two_shapes().image), PromptSet((PointPrompt((85, 40)),)))
    (plain,) = Segmenter(base, FeatureCache(1 << 26)).segment([question])
    (fine,) = Segmenter(refining, FeatureCache(1 << 26)).segment([question])
    assert isinstance(plain, Round)
    assert isinstance(fine, Round)
    assert np.array_equal(plain.masks.scores, fine.masks.scores)
    assert np.array_equal(plain.masks.low_res_logits, fine.masks.low_res_logits)
    assert iou(fine.masks.masks[0], two_shapes().shapes["blue square"]) > 0.85


def test_any_engine_can_be_refined_by_a_network_in_a_folder(tmp_path: Path) -> None:
    engine = refined(colour.build(None), tiny_models.write_sam(tmp_path), Placement("cpu", "float32"))
    (done,) = Segmenter(engine, FeatureCache(1 << 26)).segment(
        [ForPrompts(KeyedImage.of(two_shapes().image), PromptSet((PointPrompt((85, 40)),)))]
    )
    assert isinstance(done, Round)
    assert len(done.masks) == 1
