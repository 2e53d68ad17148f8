"""The training stages on drawn photos: batches hold what they say, and a few steps make a network better at them."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.engines.embedded.checkpoint import read_checkpoint, write
from backend.engines.embedded.engine import SHIPPED, EmbeddedDecoder, read
from backend.engines.embedded.evidence import Calibration, Prototypes
from backend.engines.embedded.network import PREVIOUS, VOTE_SIDE, ViewDecoder
from backend.engines.embedded.places import CLOSE, CONTEXT, DIM, Backbone, PlaceEncoder, close_look, encoded
from backend.engines.embedded.views import SIDE, looked_at, shrunk
from prompts.encoders.embedded import tokenize
from tests.backend.pictures import disc
from train import encoder, masks, prototypes, scenery
from train.__main__ import finish, seen_names
from train.averaging import mixed
from train.class_teacher import ClassTeacher
from train.data import VOID, Photo, Row
from train.held_out import asked_by, is_chosen_by, is_held_out, is_reported, trained_rows, unnamed
from train.hints import Hints, follow
from train.names import Names

NAMES = Names(("ball", "cat", "sky"), torch.eye(128)[:3])


def photo(seed: int) -> Photo:
    """A red ball on blue, with a void corner."""
    dice = np.random.default_rng(seed)
    ball = disc(200, 260, dice.uniform(70, 180), dice.uniform(70, 130), dice.uniform(30, 60))
    image = np.where(ball[:, :, None], (210, 40, 30), (40, 70, 190)).astype(np.uint8)
    ids = ball.astype(np.uint8)
    ids[:10, :10] = VOID
    row = Row(Path(f"{seed}.jpg"), Path("m.png"), {1: "ball"}, "drawn", "train", "instance", None, frozenset())
    return Photo(row, image, ids, ("cat",))


PHOTOS = [photo(seed) for seed in range(6)]


def test_a_batch_marks_what_is_present_absent_and_unknown() -> None:
    batch = encoder.Batches(PHOTOS, NAMES, seed=0).draw(4)
    assert batch.images.shape == (4, 3, encoder.SIDE, encoder.SIDE)
    ball = batch.candidates == 0
    assert (batch.masks.amax(dim=(2, 3))[~ball] == 0).all()
    assert batch.masks.amax(dim=(2, 3))[ball].min() > 0
    assert (batch.seen < 1).any()
    assert set(batch.region_name.tolist()) <= {0}


def test_scenery_is_asked_for_only_where_it_is_told() -> None:
    """Nobody says of the photos that they show no sky, and one of them does."""
    names = Names(("ball", "cat", "sky", "lamp"), torch.eye(128)[:4])
    named = {1: "ball", scenery.SKY: "sky"}
    wide = replace(PHOTOS[0], row=replace(PHOTOS[0].row, names=named), ids=np.where(PHOTOS[0].ids, PHOTOS[0].ids, scenery.SKY))
    for photos, asked in ((PHOTOS, False), ([wide], True)):
        batch = encoder.Batches(photos, names, seed=0).draw(4)
        assert bool((batch.candidates == 2).any()) == asked
        assert (batch.candidates == 3).any(), "a lamp is hardly ever there"


def test_scenery_counts_among_the_names_that_were_taught() -> None:
    names = Names(("ball", "cat", "sky", "lamp", "zebra"), torch.eye(128)[:5])
    assert seen_names(names, PHOTOS).names == ("ball", "cat", "sky")


@pytest.mark.slow
def test_the_encoder_s_loss_falls_on_the_photos_it_sees() -> None:
    torch.manual_seed(0)
    batches, network = encoder.Batches(PHOTOS, NAMES, seed=0), PlaceEncoder()
    encoder.keep_as_is(network)
    optimizer = torch.optim.AdamW([weight for weight in network.parameters() if weight.requires_grad], lr=2e-3)
    teacher = silent_teacher(network.backbone)
    dense = []
    for _ in range(8):
        parts = encoder.loss_of(network, batches.draw(2), NAMES, teacher)
        optimizer.zero_grad()
        torch.autograd.backward(encoder.total(parts))
        optimizer.step()
        dense.append(parts["dice"].item())
    assert min(dense[4:]) < dense[0]


def silent_teacher(backbone: Backbone) -> ClassTeacher:
    """A classifier that has learnt nothing, whose classes are all held out."""
    return ClassTeacher(
        backbone, torch.nn.Linear(1280, 1000), torch.eye(DIM).repeat(8, 1)[:1000], torch.ones(1000, dtype=torch.bool)
    )


def test_the_classifier_teaches_the_mixture_of_its_likeliest_classes_and_nothing_of_hidden_ones() -> None:
    classifier = torch.nn.Linear(1280, 1000)
    torch.nn.init.zeros_(classifier.weight)
    torch.nn.init.constant_(classifier.bias, -20.0)
    with torch.no_grad():
        classifier.bias[[3, 7]] = 5.0
    vectors = torch.eye(DIM).repeat(8, 1)[:1000]
    fourth = torch.zeros(1, 24, 16, 16)
    taught, sure = ClassTeacher(Backbone(), classifier, vectors, torch.zeros(1000, dtype=torch.bool))(fourth)
    expected = torch.nn.functional.normalize(vectors[3] + vectors[7], dim=0)
    assert taught.shape == (1, DIM, 2, 2)
    torch.testing.assert_close(taught[0, :, 0, 0], expected)
    assert (sure > 0.4).all()
    hidden = torch.zeros(1000, dtype=torch.bool)
    hidden[3] = True
    _, silent = ClassTeacher(Backbone(), classifier, vectors, hidden)(fourth)
    assert (silent == 0).all()


def test_held_out_names_are_neither_named_nor_absent_and_their_objects_are_void() -> None:
    shown = photo(0)
    row = replace(shown.row, names={1: "zebra", 2: "ball"})
    hidden = unnamed(replace(shown, row=row, absent=("cat", "two giraffes", "kite")))
    assert hidden.row.names == {2: "ball"}
    assert hidden.absent == ("cat",)
    assert (hidden.ids[shown.ids == 1] == VOID).all()
    assert is_held_out("open umbrella")
    assert not is_held_out("trainer shoe")


def test_photos_that_show_held_out_names_alone_and_excluded_sources_are_not_trained_on() -> None:
    row = photo(0).row
    others = [replace(row, source="camvid"), replace(row, names={1: "zebra"}), replace(row, split="val")]
    assert trained_rows([row, *others]) == [row]
    assert trained_rows([row, *others], frozenset()) == [row, others[0]]


def test_a_view_of_every_photo_can_be_answered_and_corrected() -> None:
    views, network = masks.Views(PHOTOS, seed=0), ViewDecoder(CONTEXT, CLOSE).eval()
    batch = [views.draw() for _ in range(4)]
    images, maps, target, known, share = masks.as_tensors(batch)
    with torch.inference_mode():
        close = looked_at(close_look(Backbone().eval()), images)
        nothing = (torch.zeros(4, width, VOTE_SIDE, VOTE_SIDE) for width in (DIM, CONTEXT))
        logits, quality = network(shrunk(images), maps, *nothing, close)
    assert logits.shape == target.shape == known.shape == (4, SIDE, SIDE)
    parts = masks.loss_of(logits, quality, target, known, share)
    assert all(torch.isfinite(part) for part in parts.values())
    again = views.correct(batch[0], torch.sigmoid(logits[0]).numpy())
    assert again.rounds == 2
    assert again.maps[PREVIOUS].max() > 0


def test_some_views_show_one_thing_on_an_empty_background() -> None:
    """About three of twenty; the others are of all other photos."""
    bare = [
        replace(each, row=replace(each.row, source="grocery_iconic", image=Path(f"bare{k}.jpg")))
        for k, each in enumerate(PHOTOS)
    ]
    views = masks.Views([*PHOTOS, *bare], seed=0)
    drawn = [views.draw().source for _ in range(200)]
    assert 10 <= sum(source is not None and source.row.image.name.startswith("bare") for source in drawn) <= 60


def test_a_perfect_mask_has_no_overlap_loss_and_full_iou() -> None:
    target = torch.zeros(1, 8, 8)
    target[:, 2:6, 2:6] = 1
    parts = masks.loss_of((target - 0.5) * 40, torch.zeros(1), target, torch.ones(1, 8, 8), torch.ones(1))
    assert float(parts["overlap"]) < 1e-3
    assert float(parts["iou"]) == 1


def test_what_lies_outside_the_window_counts_as_missed() -> None:
    target = torch.ones(1, 8, 8)
    parts = masks.loss_of(target * 20, torch.zeros(1), target, torch.ones(1, 8, 8), torch.tensor([0.25]))
    assert float(parts["iou"]) == 0.25


def test_hints_lie_where_the_view_looks_also_when_it_is_mirrored() -> None:
    torch.manual_seed(0)
    hints = Hints(PlaceEncoder(), NAMES, seed=0)
    view = masks.Views(PHOTOS, seed=1).draw()
    view.mirrored = False
    grids, contexts = hints.grids([view])
    view.mirrored = True
    for plain, mirrored in zip((grids, contexts), hints.grids([view]), strict=True):
        assert torch.equal(mirrored, plain.flip(3))
    assert grids.shape == (1, 128, VOTE_SIDE, VOTE_SIDE)
    assert contexts.shape == (1, CONTEXT, VOTE_SIDE, VOTE_SIDE)


@torch.no_grad()
def test_a_decoder_that_follows_an_encoder_reads_its_features_as_those_before() -> None:
    """The pyramid of the encoder that was trained on is another, scaled and shifted channel by channel."""
    torch.manual_seed(0)
    before, decoder = PlaceEncoder().eval(), ViewDecoder(CONTEXT, CLOSE).eval()
    after = copy.deepcopy(before)
    last = after.smooth[-1].second[1]
    after.smooth[-1].second[1] = torch.nn.Sequential(last, Scaled())
    image = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    shown = [replace(each, image=image) for each in PHOTOS[:2]]
    (old, *_), (new, *_) = encoded(before, image), encoded(after, image)
    wanted = decoder.context[0](old[None])
    unlike = (decoder.context[0](new[None]) - wanted).square().mean()
    follow(decoder, before, after, shown)
    assert (decoder.context[0](new[None]) - wanted).square().mean() < 0.05 * unlike


class Scaled(torch.nn.Module):
    """Half as much again, and a little more."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1.5 * x + 0.3


def test_of_a_network_that_was_trained_on_a_share_is_kept_from_before() -> None:
    before, after = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2)
    torch.nn.init.constant_(after.weight, 3.0)
    after.running_mean.fill_(4.0)
    found = mixed(before, after, 0.25)
    assert found.weight.tolist() == [1.5, 1.5]
    assert found.running_mean.tolist() == [1.0, 1.0]
    assert after.weight.tolist() == [3.0, 3.0]


def test_some_views_of_a_batch_see_no_hints_at_all() -> None:
    hints = Hints(PlaceEncoder(), NAMES, seed=0)
    views = [masks.Views(PHOTOS, seed=1).draw()] * 64
    grids, _ = hints.grids(views)
    some = hints.some(views, grids)
    kept = some.flatten(1).any(dim=1)
    assert 0 < int(kept.sum()) < 64
    assert torch.equal(some[kept], grids[kept])


@pytest.mark.slow
def test_what_was_trained_is_calibrated_on_held_out_photos_and_answers_when_it_is_read_again(tmp_path: Path) -> None:
    trained = read_checkpoint(SHIPPED)
    before = trained.views.quality[-1].weight.clone()
    named = Names(("cat", "ball", "sky"), trained.text.eval()(tokenize(["cat", "ball", "sky"])).detach())
    skies = [replace(each, ids=np.where(each.ids, each.ids, scenery.SKY)) for each in PHOTOS]
    skies = [replace(each, row=replace(each.row, names={1: "ball", scenery.SKY: "sky"})) for each in skies]
    shown, looks = prototypes.prototypes(EmbeddedDecoder(replace(trained, prototypes=Prototypes.none(DIM))), skies, named)
    assert shown.names == ("sky", "cat", "ball"), "scenery that photos showed comes first"
    trained = replace(trained, calibration=unfitted(), names=shown.vectors, prototypes=Prototypes.none(DIM))
    finished = finish(trained, looks, PHOTOS, [asked_as(each, "zebra") for each in PHOTOS])
    assert torch.equal(finished.prototypes.places, looks.places)
    assert -1 < float(finished.prototypes.usual) < float(looks.usual) < 1
    fitted = asdict(finished.calibration)
    assert all(np.isfinite(value).all() for value in fitted.values())
    assert 0 < finished.calibration.presence < 1
    assert not fitted.items() & asdict(unfitted()).items(), "every value was fitted"
    assert not torch.equal(finished.views.quality[-1].weight, before)
    write(tmp_path / "fresh.safetensors", finished)
    loaded = read(tmp_path / "fresh.safetensors")
    (features,) = loaded.decoder.encode_images([PHOTOS[0].image])
    assert features.size.height == 200


def asked_as(shown: Photo, name: str) -> Photo:
    """The same photo, as one of a name that nobody taught."""
    return replace(shown, row=replace(shown.row, names={1: name}), absent=("umbrella",))


def unfitted() -> Calibration:
    return Calibration(1, 0, 1, 0, 0, 0, strange_presence=0.0, strange_among=0.0, strange_lift=-1.0)


def test_names_by_which_something_is_chosen_are_not_those_that_are_reported() -> None:
    assert is_chosen_by("three zebras")
    assert not is_reported("zebra")
    assert is_reported("giraffe")
    assert not is_reported("ball")
    shown = replace(photo(0), row=replace(photo(0).row, names={1: "zebra", 2: "giraffe"}), absent=("kite", "suitcase", "cat"))
    asked = asked_by(shown, is_reported)
    assert asked.row.incomplete == {"zebra"}
    assert asked.absent == ("suitcase",)
