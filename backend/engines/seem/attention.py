"""The three steps of a decoder layer over rows ``(N, D)``: look at the image, look at each other, think; all post-norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class MultiheadAttention(nn.Module):
    """Attention with the parameter names of ``torch.nn.MultiheadAttention``, over rows ``(N, D)`` and without a batch.

    With fewer queries than a head is wide it is cheaper to carry the queries into the space of the keys than to project every
    key and value; the two ways are equal in exact arithmetic.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
        """``query (Q, D)``, ``key`` and ``value (K, D)``; ``seen (Q, K)`` bool, at least one key for each query."""
        weight, bias = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q = self._heads(functional.linear(query, weight[0], bias[0]))
        if len(query) < q.shape[-1]:
            attended = self._carry_queries(q, key, value, seen)
        else:
            k = self._heads(functional.linear(key, weight[1], bias[1]))
            v = self._heads(functional.linear(value, weight[2], bias[2]))
            attended = functional.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=seen)[0]
        out: Tensor = self.out_proj(attended.transpose(0, 1).flatten(1))
        return out

    def _carry_queries(self, q: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
        """The same for few queries ``(heads, Q, d)``. The bias of the keys moves all scores of a query alike and drops out."""
        _, to_key, to_value = (torch.unflatten(part, 0, (self.heads, -1)) for part in self.in_proj_weight.chunk(3))
        value_bias = torch.unflatten(self.in_proj_bias.chunk(3)[2], 0, (self.heads, 1, -1))
        scores = (q * q.shape[-1] ** -0.5 @ to_key) @ key.T
        attention = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        carried: Tensor = attention @ value @ to_value.transpose(1, 2) + value_bias
        return carried

    def _heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(0, 1)


class CrossAttentionLayer(nn.Module):
    """Rows look at the pixels of one feature level."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = MultiheadAttention(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor, pixels: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
        """``x`` and ``position (Q, D)``; ``pixels``, features and their positions ``(K, D)``; ``seen (Q, K)`` bool."""
        features, places = pixels
        out: Tensor = self.norm(x + self.multihead_attn(x + position, features + places, features, seen))
        return out


class SelfAttentionLayer(nn.Module):
    """Rows look at each other and at rows that only they can see."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor, shown: Tensor, seen: Tensor) -> Tensor:
        """``x`` and ``position (N, D)``; ``shown (T, D)``, further rows that are their own positions; ``seen (N, N + T)``."""
        placed = x + position
        key, value = torch.cat([placed, 2 * shown]), torch.cat([x, shown])
        out: Tensor = self.norm(x + self.self_attn(placed, key, value, seen))
        return out


class FeedForwardLayer(nn.Module):
    """Every row for itself."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, inner)
        self.linear2 = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x + self.linear2(functional.relu(self.linear1(x))))
        return out
