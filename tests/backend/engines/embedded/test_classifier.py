"""The classifier as a second witness: what it is sure of lies where the class's name lies, and it changes no other map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from backend.engines.embedded.checkpoint import read_checkpoint
from backend.engines.embedded.engine import SHIPPED, EmbeddedDecoder
from backend.engines.embedded.evidence import Prototypes, Taught
from backend.engines.embedded.from_text import claims_of, shown_at_all
from backend.engines.embedded.places import CLASSES, DIM, HEAD, Backbone, Classifier
from backend.engines.embedded.views import CLASSED, Canvas
from backend.values.features import ImageFeatures
from prompts.geometry import Size


def certain_of(number: int) -> Classifier:
    """A classifier that sees one class everywhere, whose vector is an axis of its own."""
    layer = torch.nn.Linear(HEAD, CLASSES)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.constant_(layer.bias, -30.0)
    layer.bias.data[number] = 30.0
    return Classifier(Backbone(), layer, functional.normalize(torch.eye(CLASSES)[:, :DIM] + 1e-6, dim=1)).eval()


def test_a_place_of_one_class_has_the_class_s_vector() -> None:
    classifier = certain_of(7)
    (mixtures,) = classifier(torch.rand(1, 24, 16, 24))
    assert mixtures.shape == (1, DIM, 2, 3)
    torch.testing.assert_close(mixtures[0, :, 1, 2], classifier.vectors[7], atol=1e-4, rtol=0)
    told = shown_at_all(mixtures[0], torch.eye(DIM)[[7, 8]])
    assert told[0] > 0.99
    assert told[1] < 0.01


def test_what_a_few_places_show_is_shown() -> None:
    mixtures = torch.zeros(DIM, 8, 8)
    mixtures[0] = 0.5
    mixtures[:, 2:4, 2:4] = 0.3 * torch.eye(DIM)[1][:, None, None]
    assert shown_at_all(mixtures, torch.eye(DIM)[[1]]).item() == pytest.approx(1.0)


def canvas_of(mixtures: torch.Tensor) -> Canvas:
    pixels = torch.zeros(64, 64, 3, dtype=torch.uint8)
    return Canvas.of(ImageFeatures(Size(64, 64), torch.zeros(DIM, 8, 8), {CLASSED: mixtures, "pixels": pixels}))


def test_a_taught_name_that_claims_nothing_is_looked_for_where_the_classifier_sees_it() -> None:
    rocket, cat = torch.eye(DIM)[:2]
    mixtures = torch.zeros(DIM, 4, 4)
    mixtures[1] = 0.5
    mixtures[:, :2, :2] = 0.5 * rocket[:, None, None]
    taught = Taught(torch.stack([rocket, cat]), torch.stack([rocket, cat]), torch.zeros(0, DIM), Prototypes.none(DIM))
    silent = torch.full((2, 8, 8), -3.0)
    claims = claims_of(canvas_of(mixtures), silent, torch.stack([rocket, cat]), taught, 2.0)
    assert claims.familiar == [False, False]
    assert (claims.logits[0, :3, :3] > 0).all()
    assert (claims.logits[0, 5:] <= 0).all()
    spoken = silent.clone()
    spoken[0, 6, 6] = 1.0
    heard = claims_of(canvas_of(mixtures), spoken, torch.stack([rocket, cat]), taught, 2.0)
    assert heard.familiar == [True, False]
    torch.testing.assert_close(heard.logits[0], spoken[0])


def test_names_that_nobody_taught_are_lifted_and_taught_ones_are_not() -> None:
    taught = Taught(torch.eye(DIM)[:1], torch.zeros(0, DIM), torch.zeros(0, DIM), Prototypes.none(DIM))
    claims = claims_of(canvas_of(torch.zeros(DIM, 4, 4)), torch.zeros(2, 8, 8), torch.eye(DIM)[:2], taught, 2.0)
    assert claims.familiar == [True, False]
    assert claims.logits.flatten(1).amax(dim=1).tolist() == [0.0, 2.0]


def test_the_shipped_classifier_knows_things_and_leaves_places_as_they_are() -> None:
    found = read_checkpoint(SHIPPED)
    for network in found.networks.values():
        network.eval()
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    (knowing,) = EmbeddedDecoder(found).encode_images([image])
    (certain,) = EmbeddedDecoder(replace(found, classifier=certain_of(7))).encode_images([image])
    assert not torch.allclose(knowing.tensors[CLASSED], certain.tensors[CLASSED])
    torch.testing.assert_close(knowing.grid, certain.grid)
