"""The predictor: attention that blocked rows have no part in, and one answer for each prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from backend.engines.seem.pixel_decoders import PixelFeatures
from backend.engines.seem.predictor import Ask, MultiheadAttention, Predictor, SelfAttentionLayer
from backend.engines.seem.wiring import TOKENS, V0, V1, Group, MaskMemory

WIDTH, HEADS = 32, 2


def same_weights(mine: MultiheadAttention) -> torch.nn.MultiheadAttention:
    theirs = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    torch.nn.init.normal_(theirs.in_proj_bias)
    mine.load_state_dict(theirs.state_dict())
    return theirs


@pytest.mark.parametrize("queries", [1, 5, 15, 16, 40])
def test_few_queries_and_many_are_attended_alike(queries: int) -> None:
    """Fewer queries than a head is wide (16) take the shorter way."""
    torch.manual_seed(0)
    mine = MultiheadAttention(WIDTH, HEADS).eval()
    theirs = same_weights(mine)
    query, key, value = torch.randn(queries, WIDTH), torch.randn(50, WIDTH), torch.randn(50, WIDTH)
    seen = torch.rand(queries, 50) > 0.4
    with torch.inference_mode():
        expected = theirs(query[None], key[None], value[None], attn_mask=~seen, need_weights=False)[0][0]
        torch.testing.assert_close(mine(query, key, value, seen), expected, rtol=1e-4, atol=1e-5)


def test_shown_rows_are_their_own_positions() -> None:
    """A token enters as a key twice itself, as a value once: what is shown equals rows that also move."""
    torch.manual_seed(0)
    layer = SelfAttentionLayer(WIDTH, HEADS).eval()
    same_weights(layer.self_attn)
    x, position, shown = torch.randn(4, WIDTH), torch.randn(4, WIDTH), torch.randn(6, WIDTH)
    seen = torch.ones(4, 10, dtype=torch.bool)
    with torch.inference_mode():
        got = layer(x, position, shown, seen)
        everything, places = torch.cat([x, shown]), torch.cat([position, shown])
        whole = layer(everything, places, shown[:0], torch.ones(10, 10, dtype=torch.bool))
    torch.testing.assert_close(got, whole[:4], rtol=1e-4, atol=1e-5)


if TYPE_CHECKING:
    from conftest import Recording


@pytest.fixture
def recording(recorded: Callable[[str], Recording]) -> Recording:
    return recorded("focaldw_v1")


def half_memory(features: PixelFeatures) -> MaskMemory:
    """A previous mask that covers the left half of the image."""
    logits = torch.full((1, *features.mask_features.shape[2:]), -4.0)
    logits[:, :, : logits.shape[2] // 2] = 4
    return MaskMemory(logits, torch.zeros(1, dtype=torch.long))


def ask_with_memory(recording: Recording, features: PixelFeatures) -> Ask:
    tokens = recording.network.predictor.sample(features, (recording.masks("stroke"), recording.masks(None)))
    return Ask(drawn=tokens, spatial=V1.spatial_queries(1, 21), memory=half_memory(features))


def first_cross_attention(predictor: Predictor, features: PixelFeatures, ask: Ask) -> tuple[Tensor, Tensor]:
    """What the rows may see in the first layer, ``(Q, h * w)``, and what they become by it, ``(Q, D)``."""
    caught: list[tuple[Tensor, Tensor]] = []
    layer = predictor.transformer_cross_attention_layers[0]
    handle = layer.register_forward_hook(lambda _, inputs, output: caught.append((inputs[3], output)))
    with torch.inference_mode():
        predictor(features, ask)
    handle.remove()
    return caught[0]


def test_memory_tokens_see_only_the_previous_mask(recording: Recording) -> None:
    features = recording.features("A")
    seen, _ = first_cross_attention(recording.network.predictor, features, ask_with_memory(recording, features))
    height, width = features.levels[0].shape[2:]
    memory = seen[-TOKENS:].reshape(TOKENS, height, width)
    assert memory[:, :, : width // 2].all()
    assert not memory[:, :, width // 2 :].any()


def test_what_lies_outside_the_previous_mask_does_not_reach_memory(recording: Recording) -> None:
    features = recording.features("A")
    ask = ask_with_memory(recording, features)
    coarse = features.levels[0].clone()
    coarse[..., coarse.shape[3] // 2 :] += 1
    changed = PixelFeatures((coarse, *features.levels[1:]), features.mask_features)
    _, before = first_cross_attention(recording.network.predictor, features, ask)
    _, after = first_cross_attention(recording.network.predictor, changed, ask)
    torch.testing.assert_close(before[-TOKENS:], after[-TOKENS:])
    assert not torch.allclose(before[:-TOKENS], after[:-TOKENS])


def test_groups_that_never_meet_can_be_asked_alone(recording: Recording) -> None:
    """In v0 and v1 a drawing is answered without the object queries, which saves most of the work."""
    predictor, features = recording.network.predictor, recording.features("A")
    tokens = predictor.sample(features, (recording.masks("stroke"), recording.masks(None)))
    phrase = recording.phrases().of(0)
    spatial = V1.spatial_queries(1, 21)
    with torch.inference_mode():
        together = predictor(features, Ask(objects=1, phrases=[phrase], drawn=tokens, spatial=spatial))[-1]
        drawn = predictor(features, Ask(drawn=tokens, spatial=spatial))[-1]
        named = predictor(features, Ask(phrases=[phrase]))[-1]
    for group, alone in ((Group.SPATIAL, drawn), (Group.GROUNDING, named)):
        torch.testing.assert_close(together.of(group).embedding, alone.embedding, rtol=1e-4, atol=1e-5)


def test_two_phrases_in_one_pass_do_not_hear_each_other(recording: Recording) -> None:
    predictor, features, phrases = recording.network.predictor, recording.features("A"), recording.phrases()
    with torch.inference_mode():
        both = predictor(features, Ask(phrases=[phrases.of(0), phrases.of(1)]))[-1]
        second = predictor(features, Ask(phrases=[phrases.of(1)]))[-1]
    torch.testing.assert_close(both.of(Group.GROUNDING, 1).embedding, second.embedding, rtol=1e-4, atol=1e-5)


def test_the_queries_of_a_drawing_are_a_fixed_choice() -> None:
    assert V1.spatial_queries(2, 101).tolist() == [3, 10, 17, 24, 31, 38]
    assert V0.spatial_queries(2, 3).tolist() == [0, 1, 2, 0, 1, 2]
