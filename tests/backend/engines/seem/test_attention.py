"""Attention over rows: both of its ways against PyTorch's own attention."""

from __future__ import annotations

import pytest
import torch

from backend.engines.seem.predictor import MultiheadAttention, SelfAttentionLayer

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
