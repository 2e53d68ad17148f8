"""The way between what is said and a SAM decoder, over a network and a CLIP that see colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from backend.engines.base import Engine
from backend.engines.sam.engine import FoundationDecoder, FoundationParts
from backend.engines.sam.geometry import agreement
from backend.engines.sam.references import FoundationSpace
from backend.engines.sam.text_grounding import Boxes, BoxFinder, Decoding, EverythingOptions, MapFinder, MapLikeFinder
from backend.engines.sam.transforms import MaskCandidates, PadFrame, SquashFrame
from backend.labelstudio.project_options import read_extra_params
from backend.segmenter import Segmenter
from backend.values.features import FeatureCache
from backend.values.masks import MaskSet
from backend.values.session import ForEverything, ForNames, ForPrompts, Round
from prompts.geometry import BoolArray, Size
from prompts.kinds import (
    BoxPrompt,
    KeyedImage,
    MaskPrompt,
    ObjectMemory,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    PromptSet,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from prompts.phrases import LabelPhrases, Vocabulary
from tests.backend.engines.colour_network import SIDE, ColourClip, ColourNetwork
from tests.backend.pictures import BLUE, RED, Picture, disc, paint, square, two_red_discs, two_shapes

FRAMES = {"squash": SquashFrame(SIDE, (0, 0, 0), (1, 1, 1)), "pad": PadFrame(SIDE, (0, 0, 0), (1, 1, 1))}


def segmenter_around(network: ColourNetwork, grounder: object = None) -> Segmenter:
    clip, decoding = ColourClip(), Decoding(network)
    space = FoundationSpace("colours", clip)  # type: ignore[arg-type]
    on_map = MapFinder(space, decoding)
    finder = BoxFinder(grounder, decoding, on_map) if grounder else on_map  # type: ignore[arg-type]
    everything = EverythingOptions(points_per_side=8)
    parts = FoundationParts(decoding, space, clip, None, finder, MapLikeFinder(decoding), everything)  # type: ignore[arg-type]
    return Segmenter(Engine("colours", "colours-1", space, FoundationDecoder(parts)), FeatureCache(1 << 26))


@pytest.fixture(params=FRAMES)
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    return segmenter_around(ColourNetwork(FRAMES[request.param]))


def ask(segmenter: Segmenter, picture: Picture, *prompts: Prompt, memory: ObjectMemory | None = None) -> MaskSet:
    image = KeyedImage.of(picture.image)
    (done,) = segmenter.segment([ForPrompts(image, PromptSet(prompts), memory=memory) if prompts else ForEverything(image)])
    assert isinstance(done, Round), done
    return done.masks


def iou(mask: BoolArray, truth: BoolArray) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


def test_a_click_takes_the_whole_thing_of_three_candidates(segmenter: Segmenter) -> None:
    picture = two_shapes()
    masks = ask(segmenter, picture, PointPrompt((30, 40)))
    assert iou(masks.masks[0], picture.shapes["red disc"]) > 0.9


def test_a_word_beside_a_click_helps_to_choose_the_candidate(segmenter: Segmenter) -> None:
    """By its predicted IoU alone the whole thing wins; nothing that is said may change that when it agrees."""
    picture = two_shapes()
    masks = ask(segmenter, picture, TextPrompt("blue"), PointPrompt((85, 40)))
    assert iou(masks.masks[0], picture.shapes["blue square"]) > 0.9
    assert masks.labels == ("blue",)


def test_a_score_map_is_as_soft_in_a_padded_frame_as_in_a_squashed_one() -> None:
    """On a square image both frames are the same: what is said must weigh the same, whichever family of SAM answers."""
    score = torch.linspace(-3, 3, 64).reshape(8, 8)
    squashed, padded = (Decoding(ColourNetwork(FRAMES[name])).framed(score, Size(64, 64)) for name in ("squash", "pad"))
    fine = torch.nn.functional.interpolate(squashed[None, None], padded.shape, mode="bilinear")[0, 0]
    assert float((fine.sigmoid() - padded.sigmoid()).abs().max()) < 0.03


def test_beside_the_image_nothing_of_a_padded_frame_is_meant() -> None:
    network = ColourNetwork(FRAMES["pad"])
    framed = Decoding(network).framed(torch.full((4, 4), 2.0), Size(32, 64))
    assert torch.allclose(framed[: network.low_res_side // 2 - 1], torch.tensor(2.0), atol=1e-3)
    assert float(framed[network.low_res_side // 2 + 1 :].sigmoid().sum()) < 0.01


def test_a_negative_click_takes_pixels_away(segmenter: Segmenter) -> None:
    picture = two_shapes()
    masks = ask(segmenter, picture, PointPrompt((30, 40)), PointPrompt((85, 40)), PointPrompt((95, 45), positive=False))
    assert iou(masks.masks[0], picture.shapes["red disc"]) > 0.9


@pytest.mark.parametrize(
    "prompt",
    [
        BoxPrompt((70, 20, 110, 60)),
        ScribblePrompt(square(80, 120, 80, 38, 5)),
        PolygonPrompt(np.array([[76.0, 26], [104, 26], [104, 54], [76, 54]])),
        MaskPrompt(square(80, 120, 78, 28, 24)),
    ],
    ids=lambda prompt: type(prompt).__name__,
)
def test_every_kind_of_drawing_reaches_the_network(segmenter: Segmenter, prompt: Prompt) -> None:
    picture = two_shapes()
    assert iou(ask(segmenter, picture, prompt).masks[0], picture.shapes["blue square"]) > 0.9


def test_the_last_round_s_logits_are_handed_on(segmenter: Segmenter) -> None:
    picture = two_shapes()
    first = ask(segmenter, picture, PointPrompt((30, 40)))
    memory = ObjectMemory(first.low_res_logits[0], "colours-1")
    both = ask(segmenter, picture, PointPrompt((85, 40)), memory=memory)
    assert iou(both.masks[0], picture.shapes["red disc"] | picture.shapes["blue square"]) > 0.9


def test_of_two_objects_only_the_one_that_the_last_round_was_of_gets_its_logits(segmenter: Segmenter) -> None:
    """Both got them: the second box came back with the first one's mask in it."""
    picture = two_shapes()
    red, blue = BoxPrompt((12, 22, 48, 58)), BoxPrompt((70, 20, 110, 60))
    memory = ObjectMemory(ask(segmenter, picture, red).low_res_logits[0], "colours-1")
    for boxes in ((red, blue), (blue, red)):
        both = ask(segmenter, picture, *boxes, memory=memory)
        names = {red: "red disc", blue: "blue square"}
        assert [iou(mask, picture.shapes[names[box]]) > 0.9 for mask, box in zip(both.masks, boxes, strict=True)] == [True] * 2


def test_a_negative_click_alone_shows_no_object(segmenter: Segmenter) -> None:
    """The network answered it with whatever lay around it."""
    assert len(ask(segmenter, two_shapes(), PointPrompt((30, 40), positive=False))) == 0


def test_a_negative_click_beside_a_word_takes_the_instance_under_it_away(segmenter: Segmenter) -> None:
    picture = two_red_discs()
    assert len(ask(segmenter, picture, TextPrompt("red"))) == 2
    y, x = np.argwhere(picture.shapes["large"]).mean(axis=0)
    (left,) = ask(segmenter, picture, TextPrompt("red"), PointPrompt((x, y), positive=False)).masks
    assert iou(left, picture.shapes["small"]) > 0.75


def test_a_negative_click_refines_what_is_remembered(segmenter: Segmenter) -> None:
    picture = two_shapes()
    both = ask(segmenter, picture, PointPrompt((30, 40)), PointPrompt((85, 40)))
    memory = ObjectMemory(both.low_res_logits[0], "colours-1")
    (less,) = ask(segmenter, picture, PointPrompt((85, 40), positive=False), memory=memory).masks
    assert iou(less, picture.shapes["red disc"]) > 0.9


def test_an_empty_mask_is_no_object(segmenter: Segmenter) -> None:
    assert len(ask(segmenter, two_shapes(), MaskPrompt(np.zeros((80, 120), np.bool_)))) == 0


def test_a_word_finds_every_instance_and_names_it(segmenter: Segmenter) -> None:
    picture = two_red_discs()
    masks = ask(segmenter, picture, TextPrompt("red disc"))
    assert masks.labels == ("red disc", "red disc")
    for name in ("large", "small"):
        assert max(iou(mask, picture.shapes[name]) for mask in masks.masks) > 0.75


class Astray(ColourNetwork):
    """A network that answers with everything but what it was asked for."""

    def decode(self, embeddings: object, prompts: object) -> MaskCandidates:  # type: ignore[override]
        found = super().decode(embeddings, prompts)  # type: ignore[arg-type]
        return MaskCandidates(-found.logits, found.iou_predictions, found.object_logits)


def test_a_mask_that_lies_beside_its_spot_on_the_map_is_no_answer() -> None:
    assert len(ask(segmenter_around(Astray()), two_shapes(), TextPrompt("red"))) == 0


class Everywhere:
    """A detector that sees all phrases in a box around the red disc."""

    def detect(self, tensors: object, size: object, phrases: Sequence[str]) -> Boxes:
        return Boxes(np.tile([[12.0, 22.0, 48.0, 58.0]], (len(phrases), 1)), np.full(len(phrases), 0.9), tuple(phrases))


@pytest.mark.parametrize("grounder", [None, Everywhere()], ids=["map", "detector"])
def test_what_the_network_takes_for_no_object_is_not_found_but_can_be_drawn(grounder: object) -> None:
    """Whether an object is there was predicted, carried along, and looked at by nobody."""
    picture, there = two_shapes(), two_red_discs()
    doubting, trusting = (segmenter_around(ColourNetwork(presence=logit), grounder) for logit in (-0.5, 0.0))
    reference = ReferencePrompt(KeyedImage.of(there.image), there.shapes["blue square"])
    for said in ([TextPrompt("red disc")], [reference], []):
        assert len(ask(doubting, picture, *said)) == 0
        assert len(ask(trusting, picture, *said)) >= 1
    drawn = [ask(segmenter, picture, BoxPrompt((12, 22, 48, 58))) for segmenter in (doubting, trusting)]
    assert [iou(masks.masks[0], picture.shapes["red disc"]) > 0.9 for masks in drawn] == [True, True]
    assert drawn[0].scores[0] < drawn[1].scores[0] < 0.5


def test_an_absent_thing_gives_no_row(segmenter: Segmenter) -> None:
    picture = paint({"red disc": (disc(80, 120, 30, 40, 18), RED)})
    assert len(ask(segmenter, picture, TextPrompt("cyan"))) == 0


def test_a_region_of_another_image_finds_its_like_and_nothing_else(segmenter: Segmenter) -> None:
    there, here = two_shapes(), two_red_discs()
    masks = ask(segmenter, here, ReferencePrompt(KeyedImage.of(there.image), there.shapes["blue square"]))
    assert len(masks) == 1
    assert iou(masks.masks[0], here.shapes["blue square"]) > 0.85


def test_a_region_of_another_image_that_has_no_like_here_finds_nothing(segmenter: Segmenter) -> None:
    there = two_shapes()
    here = paint({"red disc": (disc(80, 120, 30, 40, 18), RED)})
    assert len(ask(segmenter, here, ReferencePrompt(KeyedImage.of(there.image), there.shapes["blue square"]))) == 0


def test_a_negative_word_is_a_veto(segmenter: Segmenter) -> None:
    picture = paint({"red": (disc(60, 120, 30, 30, 15), RED), "dark": (disc(60, 120, 85, 30, 15), (139, 0, 0))})
    assert len(ask(segmenter, picture, TextPrompt("red"))) == 2
    masks = ask(segmenter, picture, TextPrompt("red"), TextPrompt("darkred", positive=False))
    assert len(masks) == 1
    assert iou(masks.masks[0], picture.shapes["red"]) > 0.85


def test_a_negative_reference_is_a_veto(segmenter: Segmenter) -> None:
    there, here = two_shapes(), two_red_discs()
    found = ask(segmenter, here, TextPrompt("red"), TextPrompt("blue"))
    assert len(found) == 3
    prompts = (
        TextPrompt("red"),
        TextPrompt("blue"),
        ReferencePrompt(KeyedImage.of(there.image), there.shapes["red disc"], positive=False),
    )
    assert set(ask(segmenter, here, *prompts).labels) == {"blue"}


def test_without_prompts_and_labels_everything_is_found_once(segmenter: Segmenter) -> None:
    picture = two_shapes()
    masks = ask(segmenter, picture)
    assert len(masks) == 3
    for truth in (*picture.shapes.values(), ~np.logical_or.reduce(list(picture.shapes.values()))):
        assert max(iou(mask, truth) for mask in masks.masks) > 0.9
    assert masks.labels == (None, None, None)


def test_what_is_found_is_named_in_the_project_s_labels(segmenter: Segmenter) -> None:
    vocabulary = Vocabulary((LabelPhrases.of("Ball", ["red"]), LabelPhrases.of("Box", ["blue"])))
    (done,) = segmenter.segment([ForNames(KeyedImage.of(two_shapes().image), vocabulary)])
    assert isinstance(done, Round)
    assert sorted(done.masks.labels, key=str) == ["Ball", "Box"]
    (click,) = segmenter.segment(
        [ForPrompts(KeyedImage.of(two_shapes().image), PromptSet((PointPrompt((85, 40)),)), vocabulary)]
    )
    assert isinstance(click, Round)
    assert click.masks.labels == ("Box",)


@pytest.mark.parametrize("frame", FRAMES)
def test_what_a_word_says_of_a_candidate_does_not_depend_on_the_frame(frame: str) -> None:
    """Of a wide image half of a padded frame is padding, which counted as a quarter part of what was said."""
    image = paint({"it": (square(30, 120, 20, 5, 10), RED)}).image
    segmenter = segmenter_around(ColourNetwork(FRAMES[frame]))
    decoder = segmenter.engine.decoder
    (features,) = decoder.encode_images([image])
    score = segmenter.engine.space.text_map(features, "red")  # type: ignore[attr-defined]
    wanted = decoder._parts.decoding.framed(score, features.size)  # type: ignore[attr-defined]
    truth = FRAMES[frame].shrink(square(30, 120, 20, 5, 10), 64) * 12 - 6
    assert float(agreement(truth[None], wanted)[0]) > 0.5
    assert float(agreement(torch.full((1, 64, 64), 6.0), wanted)[0]) < 0.1


class OneBox:
    """A detector that knows where the blue square is and finds nothing else."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def detect(self, tensors: object, size: object, phrases: Sequence[str]) -> Boxes:
        self.asked.append(tuple(phrases))
        known = [phrase for phrase in phrases if phrase == "thing"]
        return Boxes(np.array([[75.0, 25, 105, 55]] * len(known)).reshape(-1, 4), np.full(len(known), 0.64), tuple(known))


def test_a_detector_s_boxes_become_masks_and_what_it_misses_is_looked_for_on_the_map() -> None:
    picture, grounder = two_shapes(), OneBox()
    masks = ask(segmenter_around(ColourNetwork(), grounder), picture, TextPrompt("thing"), TextPrompt("red"))
    found = dict(zip(masks.labels, masks.masks, strict=True))
    assert grounder.asked == [("thing", "red")]
    assert iou(found["thing"], picture.shapes["blue square"]) > 0.9
    assert iou(found["red"], picture.shapes["red disc"]) > 0.85


def test_a_detected_thing_counts_its_score_and_its_mask_s_quality_alike() -> None:
    masks = ask(segmenter_around(ColourNetwork(), OneBox()), two_shapes(), TextPrompt("thing"))
    assert masks.scores[0] == pytest.approx((0.95 * 0.64) ** 0.5, abs=1e-4)


class Small(ColourNetwork):
    """A device that holds at most two objects or images at a time."""

    def decode(self, embeddings: object, prompts: object) -> object:  # type: ignore[override]
        if len(prompts.points) > 2:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("too much")
        return super().decode(embeddings, prompts)  # type: ignore[arg-type]


def test_out_of_memory_means_smaller_chunks_and_the_same_answer(caplog: pytest.LogCaptureFixture) -> None:
    picture, network = two_shapes(), Small()
    segmenter = segmenter_around(network)
    segmenter.engine.decoder._parts.decoding.chunks.most = 16  # type: ignore[attr-defined]
    masks = ask(segmenter, picture)
    assert max(network.calls) <= 2
    assert np.array_equal(masks.masks, ask(segmenter_around(ColourNetwork()), picture).masks)
    assert "out of memory with 16 at a time; going on with 8" in caplog.text


def test_two_images_side_by_side_do_not_mix() -> None:
    segmenter = segmenter_around(ColourNetwork())
    first, second = two_shapes(), paint({"it": (square(90, 160, 10, 10, 30), BLUE)})
    questions = [ForPrompts(KeyedImage.of(picture.image), PromptSet((TextPrompt("blue"),))) for picture in (first, second)]
    one, two = segmenter.segment(questions)
    assert isinstance(one, Round)
    assert isinstance(two, Round)
    assert iou(one.masks.masks[0], first.shapes["blue square"]) > 0.85
    assert iou(two.masks.masks[0], second.shapes["it"]) > 0.85


def test_least_scores_by_label_hold_for_what_a_detector_finds_and_for_what_the_map_finds() -> None:
    """The detector's square is "thing", the map's disc "red"; each has its own least score, and ``*`` is for all others."""
    vocabulary = Vocabulary((LabelPhrases.of("Box", ["thing"]), LabelPhrases.of("Ball", ["red"])))
    (done,) = segmenter_around(ColourNetwork(), OneBox()).segment([ForNames(KeyedImage.of(two_shapes().image), vocabulary)])
    assert isinstance(done, Round)
    score = dict(zip(done.masks.labels, done.masks.scores.tolist(), strict=True))
    assert set(score) == {"Box", "Ball"}

    def kept(**thresholds: float) -> set[str | None]:
        wanted = read_extra_params({"thresholds": {name.replace("ANY", "*"): least for name, least in thresholds.items()}})
        return set(wanted.apply(done.masks).labels)

    assert kept() == kept(Box=score["Box"] - 0.01, Ball=score["Ball"] - 0.01) == {"Box", "Ball"}
    assert kept(Box=score["Box"] + 0.01) == kept(ANY=0.999, Ball=score["Ball"] - 0.01) == {"Ball"}
    assert kept(Ball=score["Ball"] + 0.01) == kept(ANY=0.999, Box=score["Box"] - 0.01) == {"Box"}
    assert kept(ANY=0.999) == set()


def test_all_candidates_of_one_click_are_offered_where_they_are_wanted(segmenter: Segmenter) -> None:
    picture = two_shapes()
    click = PromptSet((PointPrompt((30, 40)),))
    (several,) = segmenter.segment([ForPrompts(KeyedImage.of(picture.image), click, alternatives=3)])
    assert isinstance(several, Round)
    areas = several.masks.masks.areas.tolist()
    assert len(areas) == 3, "a cell, the disc, the image"
    assert several.masks.scores.tolist() == sorted(several.masks.scores.tolist(), reverse=True)
    assert iou(several.masks.masks[0], picture.shapes["red disc"]) > 0.9
    assert max(areas) == picture.image.shape[0] * picture.image.shape[1]
    (two,) = segmenter.segment([ForPrompts(KeyedImage.of(picture.image), click, alternatives=2)])
    assert isinstance(two, Round)
    assert len(two.masks) == 2


@pytest.mark.parametrize("prompts", [(PointPrompt((30, 40)), PointPrompt((32, 42))), (BoxPrompt((12, 22, 48, 58)),)])
def test_what_is_clear_has_no_alternatives(segmenter: Segmenter, prompts: tuple[Prompt, ...]) -> None:
    (done,) = segmenter.segment([ForPrompts(KeyedImage.of(two_shapes().image), PromptSet(prompts), alternatives=3)])
    assert isinstance(done, Round)
    assert len(done.masks) == 1
