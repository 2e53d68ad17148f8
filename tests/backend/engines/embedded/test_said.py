"""Phrases and references as maps: what they claim, what is taken away from them, and which places are one thing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from backend.engines.embedded.from_text import Calibration, compete, instances, meaning_of, presence_of, said_logits

CALIBRATION = Calibration(text_scale=20, text_bias=-10, reference_scale=10, reference_bias=-5, presence=0.5, presence_among=0.5)
NOTHING = torch.zeros(0, 3)
CAT, DOG, SKY = torch.eye(3).unsqueeze(1)
NAMES = torch.eye(3)


def tokens(**said: Tensor) -> Any:
    rows = dict.fromkeys(("text", "negative_text", "reference", "negative_reference"), NOTHING)
    return SimpleNamespace(phrases=tuple("x" for _ in said.get("text", NOTHING)), **{**rows, **said})


def cat_beside_dog() -> Tensor:
    grid = torch.zeros(3, 4, 8)
    grid[0, :, :4] = 1
    grid[1, :, 4:] = 1
    return grid


def test_a_phrase_claims_the_places_that_look_like_it() -> None:
    (logits,) = said_logits(tokens(text=CAT), cat_beside_dog(), CALIBRATION, NAMES)
    assert (logits[:, :4] > 0).all()
    assert (logits[:, 4:] < 0).all()


def test_each_phrase_has_a_map_and_all_references_share_one() -> None:
    assert (
        len(
            said_logits(
                tokens(text=torch.cat([CAT, DOG]), reference=torch.cat([CAT, DOG])), cat_beside_dog(), CALIBRATION, NAMES
            )
        )
        == 3
    )
    (shared,) = said_logits(tokens(reference=torch.cat([CAT, DOG])), cat_beside_dog(), CALIBRATION, NAMES)
    assert (shared > 0).all()


def test_a_region_means_the_name_that_is_nearest_to_it_without_what_is_peculiar_to_its_photo() -> None:
    a_cat_in_the_sky = torch.nn.functional.normalize(CAT + 0.6 * SKY, dim=1)
    assert float(meaning_of(a_cat_in_the_sky, NAMES) @ CAT[0]) > 0.99
    sky = torch.zeros(3, 4, 8)
    sky[2] = 1
    by_names, alike = (said_logits(tokens(reference=a_cat_in_the_sky), sky, CALIBRATION, each) for each in (NAMES, NOTHING))
    assert (alike > 0).all(), "it looks like the sky"
    assert (by_names < 0).all(), "but it means a cat"


def test_a_region_between_two_names_means_something_between_them() -> None:
    between = torch.nn.functional.normalize(CAT + DOG, dim=1)
    assert torch.allclose(meaning_of(between, NAMES), between, atol=1e-5)


def test_what_a_negative_phrase_claims_more_strongly_is_taken_away() -> None:
    between = torch.nn.functional.normalize(CAT + DOG, dim=1)
    (alone,) = said_logits(tokens(text=between), cat_beside_dog(), CALIBRATION, NAMES)
    assert (alone > 0).all()
    (rest,) = said_logits(tokens(text=between, negative_text=DOG), cat_beside_dog(), CALIBRATION, NAMES)
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


def test_every_connected_place_has_a_presence_of_its_own() -> None:
    logits = torch.full((20, 20), -8.0)
    logits[2:8, 2:8] = 6
    logits[12:16, 12:16] = 0.5
    (large, sure), (small, unsure) = instances(logits)
    assert sure > 0.9
    assert 0.5 < unsure < 0.7
    assert (large > 0).sum() == 36
    assert (small > 0).sum() == 16
