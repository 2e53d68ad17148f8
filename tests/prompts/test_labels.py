"""What is learnt of labels: rejected look-alikes count against, wrong examples are doubted, thresholds need enough regions."""

from __future__ import annotations

import torch
from torch import Tensor

from prompts.examples import ShownImage, likeness, near
from prompts.labels import FEWEST_ACCEPTED, FEWEST_REJECTED, diverse, doubts, learn, margins_of
from prompts.phrases import Vocabulary

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
