"""Whose object the last round is about; what accepted and rejected regions teach about labels, and which are doubted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from prompts.examples import ShownImage, likeness, near, shown_image
from prompts.kinds import BoxPrompt, PointPrompt, PromptSet, TextPrompt
from prompts.memory import (
    FEWEST_ACCEPTED,
    FEWEST_COUNTED,
    FEWEST_REJECTED,
    Usual,
    asked_for,
    best_cuts,
    diverse,
    doubts,
    learn,
    margins_of,
    owner_of,
)
from prompts.phrases import Vocabulary
from tests.backend.pictures import square

BEFORE = square(80, 120, 30, 30, 20)
ON_IT, LARGER, ELSEWHERE = BoxPrompt((30, 30, 50, 50)), BoxPrompt((10, 10, 90, 70)), BoxPrompt((90, 5, 110, 25))


def test_the_box_around_the_previous_mask_owns_it_wherever_it_stands_in_the_row() -> None:
    for boxes, owner in (((ON_IT, ELSEWHERE), 0), ((ELSEWHERE, ON_IT), 1), ((LARGER, ON_IT), 1), ((ON_IT, LARGER), 0)):
        assert owner_of([PromptSet((box,)) for box in boxes], BEFORE) == owner


def test_a_click_against_it_counts_as_one_on_it() -> None:
    against = PromptSet((ELSEWHERE, PointPrompt((40, 40), positive=False)))
    assert owner_of([PromptSet((BoxPrompt((0, 0, 5, 5)),)), against], BEFORE) == 1


def test_where_nothing_is_drawn_on_it_nobody_owns_it_but_a_single_object_does() -> None:
    assert owner_of([PromptSet((ELSEWHERE,)), PromptSet((BoxPrompt((0, 0, 5, 5)),))], BEFORE) is None
    assert owner_of([PromptSet((ELSEWHERE,))], BEFORE) == 0
    assert owner_of([], np.zeros((80, 120), np.bool_)) is None


@pytest.mark.parametrize(
    ("inside", "outside", "cut"),
    [([0.9, 0.8], [0.2, 0.4], 0.6), ([0.9, 0.8, 0.1], [0.2, 0.4], 0.6), ([0.9, 0.7], [0.8], 0.85), ([0.5], [0.5], 0.5)],
)
def test_the_best_cut_lies_in_the_middle_of_the_gap(inside: list[float], outside: list[float], cut: float) -> None:
    assert best_cuts(np.float32([inside]), np.float32([outside])) == pytest.approx([cut])


def test_the_best_cuts_of_rows_are_those_of_each_row_by_trying_all() -> None:
    dice = np.random.default_rng(0)
    inside, outside = (dice.normal(mean, 1, (50, count)).astype(np.float32).round(1) for mean, count in ((1, 9), (0, 7)))
    for within, beyond, cut in zip(inside, outside, best_cuts(inside, outside), strict=True):
        balances = {each: (within >= each).mean() - (beyond >= each).mean() for each in (*within, *beyond)}
        assert (within >= cut).mean() - (beyond >= cut).mean() == pytest.approx(max(balances.values()))


RED, GREEN, BLUE, GREY = torch.nn.functional.normalize(torch.eye(4) + 0.02, dim=1)
ENTRIES = Vocabulary.from_names(["ball", "box"]).entries


def around(colour: Tensor, seed: int, count: int = 20) -> Tensor:
    """Places of about one colour, other ones for every seed."""
    noise = torch.randn(count, len(colour), generator=torch.Generator().manual_seed(seed)) * 0.05
    return torch.nn.functional.normalize(colour + noise, dim=1)


def image(seed: int, **labels: Tensor) -> ShownImage:
    """An image that shows labels in colours before grey."""
    return ShownImage({label: around(colour, seed) for label, colour in labels.items()}, around(GREY, 1000 + seed))


def test_a_label_that_nothing_shows_has_no_memory() -> None:
    (memory,) = learn(ENTRIES, [image(0, ball=RED)], "engine-1")
    assert (memory.label, memory.phrases, memory.images, memory.space) == ("ball", ("ball",), 1, "engine-1")


def test_what_was_rejected_counts_against_its_label_wherever_it_was() -> None:
    red_and_green = ShownImage({"ball": torch.cat([around(RED, 1), around(GREEN, 2)])}, around(GREY, 3))
    refusing = ShownImage({}, around(GREY, 4)[:0], {"ball": around(GREEN, 5)})
    before, after = learn(ENTRIES, [red_and_green], "e")[0], learn(ENTRIES, [red_and_green, refusing], "e")[0]
    places = torch.stack([RED, GREEN], dim=1)[:, None]
    assert (likeness(places, before.shown) > 0.5).all()
    red, green = likeness(places, after.shown)[0].tolist()
    assert red > 0.5
    assert green < 0.1, "the look-alike is no longer nearer to the inside"


def test_an_example_under_the_wrong_label_is_named_and_teaches_nothing() -> None:
    good = [image(seed, ball=RED) for seed in range(4)] + [image(10 + seed, box=BLUE) for seed in range(4)]
    poisoned = [*good, image(20, ball=BLUE)]
    assert doubts(good) == []
    (doubt,) = doubts(poisoned)
    assert (doubt.image, doubt.label, doubt.looks_like) == (8, "ball", "box")
    ball = next(memory for memory in learn(ENTRIES, poisoned, "e") if memory.label == "ball")
    assert ball.images == 4
    assert float(near(BLUE[None], ball.shown.inside)) < 0.3


def test_a_wrong_example_has_no_right_ones_of_its_true_label_doubted() -> None:
    """Of a label whose things differ, each is as like the wrong example as like the other ones of its own."""
    others = torch.nn.functional.normalize(torch.eye(8)[4:] + 0.02, dim=1)
    blues = [torch.nn.functional.normalize(torch.cat([BLUE, torch.zeros(4)]) * 1.1 + each, dim=0) for each in others]
    red, grey = (torch.cat([colour, torch.zeros(4)]) for colour in (RED, GREY))

    def shows(seed: int, label: str, colour: Tensor) -> ShownImage:
        return ShownImage({label: around(colour, seed)}, around(grey, 1000 + seed))

    right = [shows(seed, "ball", red) for seed in range(4)] + [shows(10 + k, "box", blue) for k, blue in enumerate(blues)]
    wrong = shows(20, "ball", torch.nn.functional.normalize(sum(blues, torch.zeros(8)), dim=0))
    assert doubts(right) == []
    assert [(each.image, each.label) for each in doubts([*right, wrong])] == [(8, "ball")]


def test_two_images_are_too_few_to_doubt_one_of_them() -> None:
    assert doubts([image(0, ball=RED), image(1, ball=BLUE), *(image(5 + k, box=BLUE) for k in range(4))]) == []


def test_a_threshold_needs_enough_regions_of_either_kind_and_lies_between_them() -> None:
    accepted = [image(seed, ball=RED) for seed in range(FEWEST_ACCEPTED)]
    between = torch.nn.functional.normalize(RED + GREY, dim=0)
    rejected = [ShownImage({}, around(GREY, 9)[:0], {"ball": around(between, 50 + seed)}) for seed in range(FEWEST_REJECTED)]
    for images in (accepted[1:] + rejected, accepted + rejected[1:]):
        assert learn(ENTRIES, images, "e")[0].threshold is None
    threshold = learn(ENTRIES, accepted + rejected, "e")[0].threshold
    assert threshold is not None
    assert (threshold.accepted, threshold.rejected) == (FEWEST_ACCEPTED, FEWEST_REJECTED)
    assert 0 < threshold.low <= threshold.value <= threshold.high < 1


def test_of_many_images_the_most_different_are_learnt_from() -> None:
    images = [image(seed, ball=RED) for seed in range(6)] + [image(7, ball=GREEN), image(8, ball=BLUE)]
    assert diverse("ball", images, 3) == [0, 6, 7]
    assert diverse("box", images, 3) == []


def test_a_region_looks_like_the_label_whose_examples_it_resembles() -> None:
    memories = learn(ENTRIES, [image(0, ball=RED), image(1, box=BLUE)], "e")
    places = GREY[:, None, None].repeat(1, 4, 4).clone()
    places[:, :2, :2] = BLUE[:, None, None]
    region = torch.zeros(4, 4, dtype=torch.bool)
    region[:2, :2] = True
    (margins,) = margins_of(places, [region.numpy()], memories).tolist()
    assert margins[1] > 0.5 > 0.1 > margins[0]


def test_how_many_regions_are_usual_is_known_after_some_images() -> None:
    counts = ({"ball": 2}, {"ball": 1, "box": 2}, {"ball": 1})
    shown = [replace(image(k, ball=RED, box=BLUE), counts=each) for k, each in enumerate(counts)]
    told = [memory.usual for memory in learn(ENTRIES, shown, "e")]
    assert told == [Usual(2, 3), Usual(3, 3)], "of boxes, which one image has, as many as of all"
    assert len(shown) == FEWEST_COUNTED
    assert learn(ENTRIES, shown[1:], "e")[0].usual is None
    places = torch.nn.functional.normalize(torch.ones(4, 8, 8), dim=0)
    assert shown_image(places, [("ball", square(8, 8, x, 0, 2)) for x in (0, 4)]).counts == {"ball": 2}


def test_a_label_is_asked_for_by_its_name_alone_or_armed_where_one_thing_is_drawn() -> None:
    memories = learn(ENTRIES, [image(0, ball=RED, box=BLUE)], "e")
    ball, box = memories
    click, named = PointPrompt((1, 1)), TextPrompt("box")
    for prompts, expected in (
        ((named,), [box]),
        ((click,), [ball]),
        ((click, named), []),
        ((ON_IT, ELSEWHERE), []),
    ):
        assert asked_for(memories, PromptSet(prompts), "ball", "e") == expected
    assert asked_for(memories, PromptSet((click,)), "ball", "another engine") == []
    assert asked_for(memories, PromptSet((click,)), None, "e") == []
