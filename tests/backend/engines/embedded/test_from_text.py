"""Phrases and references as maps: what they claim, what is taken away from them, and which regions are kept."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.engines.embedded import from_text
from backend.engines.embedded.evidence import (
    Calibration,
    Classed,
    Evidence,
    Prototypes,
    Taught,
    above_usual,
    are_familiar,
    instances,
    presence_of,
    usual,
)
from backend.engines.embedded.from_text import (
    Claims,
    Found,
    best_of,
    compete,
    cover,
    find_all,
    grow,
    meaning,
    said_logits,
)
from backend.engines.embedded.network import PREVIOUS, ViewDecoder
from backend.engines.embedded.places import CLOSE
from backend.engines.embedded.places import CONTEXT as CHANNELS
from backend.engines.embedded.views import CONTEXT, REGIONS, Answer, Canvas, Reader
from backend.values.features import ImageFeatures
from prompts.geometry import Size
from prompts.kinds import KeyedImage, ReferencePrompt

CALIBRATION = Calibration(text_scale=20, text_bias=-10, reference_scale=10, reference_bias=-1, presence=0.5, presence_among=0.5)
NOTHING = torch.zeros(0, 3)
UNTAUGHT = Taught(NOTHING, NOTHING, NOTHING, Prototypes.none(3))
CAT, DOG, SKY = torch.eye(3).unsqueeze(1)


def queries(*shown: tuple[Tensor, Tensor], **said: Tensor) -> Any:
    """What was said, and references: each an inside and an outside, as images of two halves."""
    rows = dict.fromkeys(("text", "negative_text", "reference", "negative_reference"), NOTHING)
    references = tuple(reference(inside, outside) for inside, outside in shown)
    return SimpleNamespace(phrases=tuple("x" for _ in said.get("text", NOTHING)), references=references, **{**rows, **said})


def reference(inside: Tensor, outside: Tensor) -> tuple[ReferencePrompt, ImageFeatures]:
    image, left = np.zeros((40, 80, 3), np.uint8), np.zeros((40, 80), np.bool_)
    left[:, :40] = True
    halves = torch.stack([inside[0], outside[0]]).repeat_interleave(4, dim=0).T[:, None].repeat(1, 4, 1)
    return ReferencePrompt(KeyedImage.of(image), left), ImageFeatures(Size(40, 80), halves)


def cat_beside_dog() -> Tensor:
    grid = torch.zeros(3, 4, 8)
    grid[0, :, :4] = 1
    grid[1, :, 4:] = 1
    return grid


def test_a_phrase_claims_the_places_that_look_like_it() -> None:
    (logits,) = said_logits(queries(text=CAT), cat_beside_dog(), CALIBRATION, UNTAUGHT)
    assert (logits[:, :4] > 0).all()
    assert (logits[:, 4:] < 0).all()


def test_each_phrase_has_a_map_and_all_references_share_one() -> None:
    both = queries((CAT, DOG), text=torch.cat([CAT, DOG]))
    assert len(said_logits(both, cat_beside_dog(), CALIBRATION, UNTAUGHT)) == 3
    (shared,) = said_logits(queries((CAT, SKY), (DOG, SKY)), cat_beside_dog(), CALIBRATION, UNTAUGHT)
    assert (shared > 0).all()


def test_a_reference_claims_what_looks_more_like_its_inside_than_like_its_outside() -> None:
    (logits,) = said_logits(queries((CAT, DOG)), cat_beside_dog(), CALIBRATION, UNTAUGHT)
    assert (logits[:, :4] > 0).all()
    assert (logits[:, 4:] < 0).all()


def test_a_name_that_places_usually_look_a_little_like_needs_more_than_one_that_they_do_not() -> None:
    halves = torch.nn.functional.normalize(CAT + 1.2 * SKY, dim=1).repeat(20, 1)
    assert float(usual(CAT, torch.cat([halves, SKY]))) == pytest.approx(float(halves[0, 0]))
    grid = torch.nn.functional.normalize(CAT + SKY, dim=1).T[:, :, None].repeat(1, 4, 8)
    common, rare = (
        said_logits(queries(text=CAT), grid, CALIBRATION, replace(UNTAUGHT, places=places))
        for places in (halves, DOG.repeat(20, 1))
    )
    assert (common < 0).all()
    assert (rare > 0).all()


def shown_as(name: Tensor, look: Tensor, usual: float) -> Taught:
    """What was taught of a name of which photos showed a look."""
    return replace(UNTAUGHT, names=name, prototypes=Prototypes(look, look, torch.tensor([usual])))


def test_a_name_that_photos_showed_is_looked_for_by_what_they_showed() -> None:
    taught = shown_as(CAT, DOG, 0.25)
    (alike,) = above_usual(CAT, cat_beside_dog(), taught)
    assert torch.allclose(alike[:, :4], torch.tensor(-0.25))
    assert torch.allclose(alike[:, 4:], torch.tensor(0.75))
    nearly = torch.nn.functional.normalize(CAT + 0.3 * SKY, dim=1)
    torch.testing.assert_close(above_usual(nearly, cat_beside_dog(), taught)[0], alike)


def test_a_name_that_no_photo_showed_is_looked_for_by_what_it_says() -> None:
    between = torch.nn.functional.normalize(CAT + SKY, dim=1)
    taught, both = shown_as(CAT, DOG, 0.25), torch.cat([CAT, between])
    torch.testing.assert_close(taught.places_of(both), torch.cat([DOG, between]))
    torch.testing.assert_close(taught.regions_of(both), torch.cat([DOG, between]))
    assert taught.usual_of(both).tolist() == [0.25, 0.0]


def test_regions_are_named_by_what_was_seen_of_a_name_and_else_by_what_it_says() -> None:
    taught = replace(shown_as(CAT, SKY, 0.0), names=torch.cat([CAT, DOG]))
    torch.testing.assert_close(taught.regions, torch.cat([SKY, DOG]))


def test_what_a_negative_phrase_claims_more_strongly_is_taken_away() -> None:
    between = torch.nn.functional.normalize(CAT + DOG, dim=1)
    (alone,) = said_logits(queries(text=between), cat_beside_dog(), CALIBRATION, UNTAUGHT)
    assert (alone > 0).all()
    (rest,) = said_logits(queries(text=between, negative_text=DOG), cat_beside_dog(), CALIBRATION, UNTAUGHT)
    assert (rest[:, :4] > 0).all()
    assert (rest[:, 4:] < 0).all()


def test_presence_is_high_where_a_small_place_is_sure_and_low_where_none_is() -> None:
    somewhere = torch.full((20, 20), -8.0)
    somewhere[3:5, 3:5] = 8
    assert presence_of(somewhere) > 0.9
    assert presence_of(torch.full((20, 20), -8.0)) < 0.01


def test_a_place_that_two_phrases_claim_is_left_to_the_stronger() -> None:
    claims = torch.tensor([[[4.0, 3.0, -5.0]], [[1.0, 6.0, -5.0]]])
    cat, dog = compete(claims, torch.eye(2))
    assert (cat > 0).tolist() == [[True, False, False]]
    assert (dog > 0).tolist() == [[False, True, False]]


def test_phrases_of_one_meaning_do_not_compete() -> None:
    claims = torch.tensor([[[4.0, 3.0]], [[1.0, 6.0]]])
    assert torch.equal(compete(claims, torch.tensor([[1.0, 0.0], [0.8, 0.6]])), claims)


@pytest.mark.parametrize("many", [3, 200])
def test_every_phrase_hears_its_strongest_rival_however_many_there_are(many: int) -> None:
    dice = torch.Generator().manual_seed(0)
    claims, vectors = torch.randn(many, 5, 7, generator=dice) * 4, torch.eye(many)
    lowered = compete(claims, vectors)
    for k in range(many):
        others = torch.cat([claims[:k], claims[k + 1 :]]).amax(dim=0).clamp(min=0)
        assert torch.allclose(lowered[k], claims[k] - others)


def test_every_connected_place_has_a_presence_of_its_own() -> None:
    logits = torch.full((20, 20), -8.0)
    logits[2:8, 2:8] = 6
    logits[12:16, 12:16] = 0.5
    (large, sure), (small, unsure) = instances(logits)
    assert sure > 0.9
    assert 0.5 < unsure < 0.7
    assert (large > 0).sum() == 36
    assert (small > 0).sum() == 16


def test_parts_that_less_sure_places_join_may_be_one_thing() -> None:
    logits = torch.full((20, 20), -8.0)
    logits[4:8, 2:6] = logits[4:8, 12:16] = 3
    logits[5:7, 6:12] = -0.6
    areas = [int((seed > 0).sum()) for seed, _ in instances(logits)]
    assert areas == [16, 16, 44]


def test_places_of_which_none_is_claimed_are_nothing() -> None:
    assert instances(torch.full((20, 20), -0.6)) == []


def test_places_that_promise_too_little_are_not_grown_and_others_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = cat_beside_dog()
    features = ImageFeatures(Size(32, 64), grid, {REGIONS: grid, "pixels": torch.zeros(32, 64, 3, dtype=torch.uint8)})
    logits = said_logits(queries(text=torch.cat([CAT, DOG])), grid, CALIBRATION, UNTAUGHT)
    claims, grown = Claims(logits, torch.cat([CAT, DOG]), [True, True], [False, False]), []

    def grow(reader: object, canvas: Canvas, seeds: list[np.ndarray[Any, Any]]) -> list[Answer]:
        grown.append(len(seeds))
        return [Answer(np.kron(np.where(seed > 0, 5, -5), np.ones((8, 8))).astype(np.float32), 0.8) for seed in seeds]

    monkeypatch.setattr(from_text, "grow", grow)
    unread = Reader(ViewDecoder(CHANNELS, CLOSE), lambda images: ())
    cat, dog = find_all(unread, Canvas.of(features), claims, UNTAUGHT)
    foreseen: list[Evidence] = []

    def is_dog(which: int, each: Evidence) -> bool:
        foreseen.append(each)
        return which == 1

    (only,) = find_all(unread, Canvas.of(features), claims, UNTAUGHT, is_dog)
    assert grown == [2, 1]
    assert (only.which, only.evidence) == (1, dog.evidence)
    assert foreseen == [cat.evidence, dog.evidence], "the masks here are the places themselves"


def found(which: int, left: int, right: int) -> Found:
    logits = np.full((8, 40), -5, np.float32)
    logits[:, left:right] = 5
    return Found(which, Answer(logits, 0.8), Evidence(0.9, 0.5, 0.5, -1, 0.8, Classed()))


def test_a_region_that_two_phrases_claim_goes_to_the_better_one_and_none_is_found_twice() -> None:
    vectors = torch.cat([CAT, DOG])
    cat, again, dog, elsewhere = found(0, 0, 20), found(0, 0, 16), found(1, 0, 20), found(1, 24, 40)
    assert best_of([cat, again, dog, elsewhere], [0.6, 0.5, 0.7, 0.4], vectors) == [2, 3]
    assert best_of([cat, again, dog, elsewhere], [0.8, 0.5, 0.7, 0.4], vectors) == [0, 3]


def test_of_a_whole_and_its_parts_the_surer_ones_are_found() -> None:
    whole, left, right = found(0, 0, 40), found(0, 0, 18), found(0, 22, 40)
    assert best_of([whole, left, right], [0.8, 0.5, 0.7], CAT) == [0]
    assert best_of([whole, left, right], [0.6, 0.5, 0.7], CAT) == [2, 1]


def test_two_phrases_of_one_meaning_may_both_have_a_region() -> None:
    assert best_of([found(0, 0, 20), found(1, 0, 20)], [0.8, 0.7], torch.cat([CAT, CAT])) == [0, 1]


def test_more_evidence_is_a_higher_score() -> None:
    weighing = Calibration(1, 0, 1, 0, 0, 0, evidence=(-1.0, 0.5, 1.0, 0.5, 1.0, 0.1, 0.1, 0.1, -0.1))
    little = Evidence(0.4, 0.1, 0.1, -4, 0.3, Classed(0.1, 0.1, 0.9))
    much = Evidence(0.9, 0.5, 0.5, -0.2, 0.9, Classed(0.8, 0.9, 0.9))
    assert 0 < weighing.of_evidence(little) < 0.1 < 0.5 < weighing.of_evidence(much) < 1


def test_a_name_that_nobody_taught_is_judged_by_weights_and_a_score_of_its_own() -> None:
    fitted = Calibration(1, 0, 1, 0, 0.1, 0.2, strange=(0.0, *[0.0] * 6, 1.0, -1.0), strange_presence=0.3, strange_among=0.4)
    fitted = replace(fitted, vouched_presence=0.2)
    shown = Evidence(0.5, 0, 0, 0, 0.5, Classed(0.0, 0.9, 0.5), familiar=False)
    hidden = replace(shown, classed=Classed(0.0, 0.1, 0.5))
    assert fitted.of_evidence(hidden) < 0.1 < 0.9 < fitted.of_evidence(shown)
    seen_by_the_classifier = replace(shown, familiar=True, vouched=True)
    assert fitted.of_evidence(seen_by_the_classifier) == fitted.of_evidence(shown), "a photo of a class teaches little"
    assert [fitted.least(asked).of(shown) for asked in (1, 2)] == [0.3, 0.4]
    assert [fitted.least(asked).of(replace(shown, familiar=True)) for asked in (1, 2)] == [0.1, 0.2]
    assert [fitted.least(asked).of(replace(shown, vouched=True)) for asked in (1, 2)] == [0.2, 0.2]


def test_a_phrase_is_familiar_where_it_is_nearly_a_taught_name() -> None:
    assert are_familiar(torch.cat([CAT, SKY]), torch.cat([CAT, DOG])) == [True, False]
    assert are_familiar(CAT, NOTHING) == [False]


def test_a_small_thing_can_be_as_surely_there_as_a_large_one() -> None:
    small, large = torch.full((48, 64), -8.0), torch.full((48, 64), -8.0)
    small[10, 10:13], large[10:30, 10:40] = 4.0, 4.0
    assert presence_of(small) == pytest.approx(presence_of(large), abs=1e-6)


def test_a_few_sure_places_do_not_vouch_for_a_large_claim_that_is_hardly_sure_elsewhere() -> None:
    claimed = torch.full((48, 64), -8.0)
    claimed[10:30, 10:40], claimed[20, 20:24] = 0.2, 8.0
    assert presence_of(claimed) < 0.7


def test_a_region_means_what_its_places_mean_together() -> None:
    regions = torch.zeros(3, 2, 4)
    regions[0, :, :2], regions[1, :, 2:] = 2.0, 0.5
    left = torch.zeros(1, 2, 4)
    left[:, :, :2] = 1
    assert torch.allclose(meaning(regions, left), CAT, atol=1e-4)
    assert float(meaning(regions, torch.ones(1, 2, 4))[0] @ CAT[0]) > 0.9, "what is surer counts more"


class Repeating(ViewDecoder):
    """Says what was believed before."""

    def forward(
        self, image: Tensor, maps: Tensor, grid: Tensor, context: Tensor, close: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        return maps[:, PREVIOUS] * 8 - 4, torch.ones(len(image))


def test_what_is_held_of_a_hundred_regions_is_what_windows_showed_of_them_and_not_a_map_of_the_canvas_each() -> None:
    """Eighty labels on a photo once held 128 maps of 1024 x 768 logits, and their masks for a moment: 600 MB."""
    side, cells = 1024, 128
    features = ImageFeatures(Size(side, side), torch.zeros(4, 8, 8), {CONTEXT: torch.zeros(4, 8, 8)})
    canvas = Canvas(features, np.zeros((side, side, 3), np.uint8))
    corners = [(row, column) for row in range(2, 122, 12) for column in range(2, 122, 12)]
    seeds = []
    for row, column in corners:
        seeds.append(np.full((cells, cells), -6, np.float32))
        seeds[-1][row : row + 6, column : column + 6] = 6
    tracemalloc.start()
    answers = grow(Reader(Repeating(CHANNELS, CLOSE), lambda _: []), canvas, seeds)
    held = tracemalloc.get_traced_memory()[0]
    share = cover(answers, torch.zeros(1, cells, cells))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(answers) == 100
    assert held < 10e6
    assert peak < 150e6
    for (row, column), covered in zip(corners, share.numpy(), strict=True):
        rows, columns = np.nonzero(covered > 0.5)
        reached = (rows.min() - row, columns.min() - column, row + 5 - rows.max(), column + 5 - columns.max())
        assert max(map(abs, reached)) <= 1
