"""Prompt features: the image's own pixels vote for what looks like the prompt; and what else the mask decoder sees."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from backend.engines.embedded import network
from backend.engines.embedded.network import ViewDecoder
from backend.engines.embedded.places import CLOSE, Backbone, close_look
from backend.engines.embedded.places import CONTEXT as CHANNELS
from backend.engines.embedded.views import CLOSE_SIDE, SIDE, Reader, Window, area_map, box_map, click_map

VOTES = slice(network.MAPS, network.MAPS + network.VOTES)
NOTHING = torch.zeros(1, 8, 24, 24)
"""Joint-space vectors of a view of which nothing is known."""


def red_square_on_green() -> torch.Tensor:
    image = torch.zeros(1, 3, SIDE, SIDE)
    image[:, 1] = 0.6
    image[:, :, 24:72, 24:72] = torch.tensor([0.8, 0.1, 0.1])[:, None, None]
    return image


def maps(**drawn: np.ndarray) -> torch.Tensor:
    result = torch.zeros(1, network.MAPS, network.MAP_SIDE, network.MAP_SIDE)
    for name, drawing in drawn.items():
        result[0, getattr(network, name)] = torch.from_numpy(drawing)
    return result


def test_the_pixels_of_a_loose_box_that_look_like_its_surroundings_vote_against() -> None:
    seen = network.gather(red_square_on_green(), maps(BOX=box_map(np.array([15.0, 15, 81, 81]))), NOTHING)
    last_colour_vote = seen[0, VOTES][1]
    assert last_colour_vote[24, 24] > 0.9
    assert last_colour_vote[10, 10] < 0.3


def test_a_click_is_voted_for_by_everything_of_its_colour() -> None:
    seen = network.gather(red_square_on_green(), maps(POSITIVE=click_map(np.array([[48.0, 48.0]]))), NOTHING)
    first_colour_vote = seen[0, VOTES][0]
    assert first_colour_vote[15, 15] > 0.7
    assert first_colour_vote[5, 5] < 0.3


def test_a_negative_click_takes_votes_away_from_its_colour() -> None:
    box = box_map(np.array([0.0, 0, SIDE, SIDE]))
    without = network.gather(red_square_on_green(), maps(BOX=box), NOTHING)[0, VOTES][0]
    refused = click_map(np.array([[8.0, 8.0]]))
    with_it = network.gather(red_square_on_green(), maps(BOX=box, NEGATIVE=refused), NOTHING)[0, VOTES][0]
    assert with_it[5, 40] < without[5, 40] - 0.2
    assert with_it[24, 24] > with_it[5, 40]


def test_joint_space_vectors_vote_only_where_there_are_any() -> None:
    grid = torch.zeros(1, 8, 24, 24)
    grid[:, 0] = 1
    grid[:, :, 6:18, 6:18] = 0
    grid[:, 1, 6:18, 6:18] = 1
    drawn = maps(POSITIVE=click_map(np.array([[48.0, 48.0]])))
    seen = network.gather(torch.full((1, 3, SIDE, SIDE), 0.5), drawn, grid)[0, VOTES][4]
    assert seen[24, 24] > seen[4, 4]
    assert network.gather(torch.full((1, 3, SIDE, SIDE), 0.5), drawn, NOTHING)[0, VOTES][4:].abs().max() == 0


def test_evidence_has_no_gap_for_an_empty_prompt() -> None:
    seen = network.gather(red_square_on_green(), maps(), NOTHING)
    assert seen.shape == (1, network.CHANNELS, network.MAP_SIDE, network.MAP_SIDE)
    assert torch.isfinite(seen).all()


def test_a_box_map_adds_up_to_the_area_of_the_box() -> None:
    assert box_map(np.array([3.5, 10.25, 40.5, 77.0])).sum() * 4 == np.float32(37 * 66.75)


def test_an_area_map_shows_the_mask_under_the_window() -> None:
    mask = np.zeros((100, 100), np.bool_)
    mask[50:, :] = True
    shown = area_map(mask, Window(26, 26, 48))
    assert shown[:23].max() == 0
    assert shown[25:].min() == 1


def test_vectors_are_smoothed_as_doubling_bilinearly_and_halving_by_areas_would() -> None:
    torch.manual_seed(0)
    grid = torch.randn(2, 5, 24, 24)
    doubled = torch.nn.functional.interpolate(grid, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(network.smoothed(grid), torch.nn.functional.avg_pool2d(doubled, 2))


def test_the_mean_of_the_places_around_leaves_out_what_is_off_the_map() -> None:
    drawn = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network.blurred(drawn), F.avg_pool2d(drawn, 5, 1, 2, count_include_pad=False))


def test_a_decoder_hears_what_the_backbone_sees_in_a_view_once_it_has_learnt_to() -> None:
    torch.manual_seed(0)
    decoder, drawn = ViewDecoder(CHANNELS, CLOSE).eval(), maps(POSITIVE=click_map(np.array([[48.0, 48.0]]))).numpy()
    views = [np.random.default_rng(0).integers(0, 255, (CLOSE_SIDE, CLOSE_SIDE, 3), np.uint8)]
    seen = (torch.randn(1, 8, 24, 24), torch.randn(1, CHANNELS, 24, 24))
    readers = [Reader(decoder, close_look(Backbone().eval())) for _ in range(2)]
    with torch.inference_mode():
        one, other = (reader.read(views, drawn, *seen)[0] for reader in readers)
        torch.testing.assert_close(one, other)
        decoder.close.read[-1].weight.fill_(1.0)
        one, other = (reader.read(views, drawn, *seen)[0] for reader in readers)
    assert not torch.allclose(one, other, atol=1e-3)
