"""SEEM's predictor: learned queries, tokens of words, drawings and memory, and the layers in which they attend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from backend.engines.seem.pixel_decoders import PixelFeatures, sine_position
from backend.engines.seem.wiring import (
    LOOK_AT_THE_IMAGE,
    QUERIES,
    TOKENS,
    Group,
    MaskMemory,
    SpatialSampler,
    VisualTokens,
    Wiring,
)
from prompts.encoders.seem import LanguageEncoder, LanguageSizes


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


LEVELS = 3


@dataclass(frozen=True, slots=True)
class PredictorSizes:
    """Sizes of the mask decoder."""

    width: int
    heads: int
    feed_forward: int
    depth: int
    queries: int


@dataclass(frozen=True, slots=True)
class Ask:
    """What the decoder is asked, in tokens.

    ``objects`` counts copies of the object queries (one for each prompt that they are to look at); ``phrases``, the tokens
    ``(T, D)`` of each phrase; ``drawn`` and ``reference``, tokens of regions; ``spatial``, which learned queries the drawn
    prompts get, the same number for each; ``memory``, the previous round.
    """

    objects: int = 0
    phrases: Sequence[Tensor] = ()
    drawn: VisualTokens | None = None
    reference: VisualTokens | None = None
    spatial: Tensor | None = None
    memory: MaskMemory | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What Q queries say: ``embedding (Q, D)``, to be compared with text; ``mask_embedding (Q, D)``, to be compared with
    mask features; and the group and the prompt of each, ``(Q,)``.
    """

    embedding: Tensor
    mask_embedding: Tensor
    group: Tensor
    owner: Tensor

    def of(self, group: Group, owner: int | None = None) -> Prediction:
        """The queries of one group, or of one prompt in it."""
        mine = self.group == group
        return self.rows(mine if owner is None else mine & (self.owner == owner))

    def rows(self, chosen: Tensor) -> Prediction:
        """Some queries, by indices or a bool tensor."""
        return Prediction(self.embedding[chosen], self.mask_embedding[chosen], self.group[chosen], self.owner[chosen])

    def float(self) -> Prediction:
        """The same in float32."""
        return Prediction(self.embedding.float(), self.mask_embedding.float(), self.group, self.owner)

    @classmethod
    def concatenate(cls, parts: Sequence[Prediction]) -> Prediction:
        """The queries of all parts, in order."""
        rows = [(part.embedding, part.mask_embedding, part.group, part.owner) for part in parts]
        return cls(*(torch.cat(column) for column in zip(*rows, strict=True)))

    def masks(self, mask_features: Tensor) -> Tensor:
        """Mask logits ``(Q, h, w)`` on features ``(1, D, h, w)``."""
        return torch.einsum("qd,dhw->qhw", self.mask_embedding, mask_features[0])


@dataclass(frozen=True, slots=True)
class _Rows:
    """The decoder's rows: content and position ``(N, D)``, group and owner ``(N,)``."""

    x: Tensor
    position: Tensor
    group: Tensor
    owner: Tensor


class _Mlp(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.layers
        out: Tensor = third(functional.relu(second(functional.relu(first(x)))))
        return out


class Predictor(nn.Module):
    """The decoder with every learned part of the joint space: queries, samplers, memory and the language encoder."""

    def __init__(self, sizes: PredictorSizes, language: LanguageSizes, wiring: Wiring) -> None:
        super().__init__()
        width, heads, depth = sizes.width, sizes.heads, range(sizes.depth)
        self.wiring = wiring
        self.transformer_cross_attention_layers = nn.ModuleList(CrossAttentionLayer(width, heads) for _ in depth)
        self.transformer_self_attention_layers = nn.ModuleList(SelfAttentionLayer(width, heads) for _ in depth)
        self.transformer_ffn_layers = nn.ModuleList(FeedForwardLayer(width, sizes.feed_forward) for _ in depth)
        self.decoder_norm = nn.LayerNorm(width)
        self.query_feat = nn.Embedding(sizes.queries, width)
        self.query_embed = nn.Embedding(sizes.queries, width)
        self.level_embed = nn.Embedding(LEVELS, width)
        self.class_embed = nn.Parameter(torch.zeros(width, width))
        self.mask_embed = _Mlp(width)
        self.mask_sptial_embed = nn.ParameterList(nn.Parameter(torch.zeros(width, width)) for _ in range(LEVELS))
        self.spatial_embed = nn.Embedding(TOKENS, width)
        self.spatial_featured = nn.Embedding(TOKENS, width)
        self.pn_indicator = nn.Embedding(2, width)
        self.lang_encoder = LanguageEncoder(language)

    def sample(self, image: PixelFeatures, masks: tuple[Tensor, Tensor]) -> VisualTokens:
        """The visual tokens of n prompts: positive and negative masks ``(n, H, W)`` bool in the padded frame."""
        sampler = SpatialSampler(tuple(self.mask_sptial_embed), self.pn_indicator.weight, self.wiring.nothing)
        return sampler.sample(self._levels(image), image.mask_features, masks)

    def class_logits(self, embedding: Tensor, vocabulary: Tensor) -> Tensor:
        """How well embeddings ``(Q, D)`` fit a vocabulary ``(K, D)`` of unit vectors, ``(Q, K)``."""
        unit = embedding / (embedding.norm(dim=-1, keepdim=True) + 1e-7)
        logits: Tensor = self.lang_encoder.logit_scale.exp() * unit @ vocabulary.T
        return logits

    def forward(self, image: PixelFeatures, ask: Ask) -> list[Prediction]:
        """What the queries say before the first layer and after each one; the last one counts."""
        rows, shown, seen = self._assemble(ask)
        levels = self._levels(image)
        small = [functional.interpolate(image.mask_features, level.shape[-2:], mode="bilinear") for level in levels]
        pixels = [(_tokens(level), _tokens(_place(level))) for level in levels]
        is_query, looks = _among(rows.group, QUERIES), _among(rows.group, LOOK_AT_THE_IMAGE)
        x, said = rows.x, []
        for number in range(len(self.transformer_ffn_layers)):
            level = number % LEVELS
            said.append(self._predict(x[is_query], rows.group[is_query], rows.owner[is_query]))
            visible = self._visible(said[-1], small[level], ask.memory)
            cross = self.transformer_cross_attention_layers[number]
            x = x.index_put((looks,), cross(x[looks], rows.position[looks], pixels[level], visible))
            x = self.transformer_self_attention_layers[number](x, rows.position, shown[level], seen)
            x = self.transformer_ffn_layers[number](x)
        said.append(self._predict(x[is_query], rows.group[is_query], rows.owner[is_query]))
        return said

    def _levels(self, image: PixelFeatures) -> list[Tensor]:
        return [level + self.level_embed.weight[i, :, None, None] for i, level in enumerate(image.levels)]

    def _predict(self, x: Tensor, group: Tensor, owner: Tensor) -> Prediction:
        normed = self.decoder_norm(x)
        return Prediction(normed @ self.class_embed, self.mask_embed(normed), group, owner)

    def _visible(self, said: Prediction, small: Tensor, memory: MaskMemory | None) -> Tensor:
        """The pixels that each looking row may look at, ``(Q, h * w)``: those inside its own mask so far, those inside the
        previous mask for a memory token, and all where there would be none. Resizing commutes with the product that makes
        masks, so it is done once, to the features.
        """
        visible = (said.masks(small) >= 0).flatten(1)
        if memory is not None:
            visible = torch.cat([visible, ~memory.outside((small.shape[2], small.shape[3]))])
        return visible | ~visible.any(dim=1, keepdim=True)

    def _assemble(self, ask: Ask) -> tuple[_Rows, list[Tensor], Tensor]:
        """The rows that change; for each level the tokens that they are shown, ``(T, D)``; who sees whom ``(N, N + T)``."""
        parts = [*self._query_parts(ask), *self._token_parts(ask)]
        columns = zip(*parts, strict=True)
        rows = _Rows(*(torch.cat(column) for column in columns))
        samples = [(tokens, group) for tokens, group in ((ask.drawn, Group.DRAWN), (ask.reference, Group.REFERENCE)) if tokens]
        shown = [torch.cat([rows.x[:0], *(tokens.levels[level] for tokens, _ in samples)]) for level in range(LEVELS)]
        groups = torch.cat([rows.group, *(torch.full_like(tokens.owner, group) for tokens, group in samples)])
        owners = torch.cat([rows.owner, *(tokens.owner for tokens, _ in samples)])
        return rows, shown, self.wiring.seen(groups, owners)[: len(rows.x)]

    def _query_parts(self, ask: Ask) -> list[tuple[Tensor, ...]]:
        everything = torch.arange(self.query_feat.num_embeddings)
        wanted = [(Group.OBJECT, everything.repeat(ask.objects), ask.objects)]
        if not self.wiring.composes:
            wanted.append((Group.GROUNDING, everything.repeat(len(ask.phrases)), len(ask.phrases)))
            if ask.spatial is not None and ask.drawn is not None:
                wanted.append((Group.SPATIAL, ask.spatial, len(ask.drawn)))
        return [self._queries(*queries) for queries in wanted if queries[2]]

    def _queries(self, group: Group, index: Tensor, prompts: int) -> tuple[Tensor, ...]:
        index = index.to(self.class_embed.device)
        owner = torch.arange(prompts, device=index.device).repeat_interleave(len(index) // prompts)
        return self.query_feat(index), self.query_embed(index), torch.full_like(index, group), owner

    def _token_parts(self, ask: Ask) -> list[tuple[Tensor, ...]]:
        parts: list[tuple[Tensor, ...]] = []
        if ask.memory is not None:
            owner = ask.memory.owner[ask.memory.split()]
            parts.append((self.spatial_featured.weight, self.spatial_embed.weight, torch.full_like(owner, Group.MEMORY), owner))
        for number, tokens in enumerate(ask.phrases):
            owner = torch.full((len(tokens),), number, device=tokens.device)
            parts.append((tokens, tokens, torch.full_like(owner, Group.PHRASE), owner))
        return parts


def _among(groups: Tensor, some: Sequence[Group]) -> Tensor:
    """The rows of some groups, as indices in order."""
    return torch.isin(groups, torch.tensor(some, device=groups.device)).nonzero()[:, 0]


def _tokens(image: Tensor) -> Tensor:
    """A map ``(1, D, h, w)`` as rows ``(h * w, D)``."""
    return image[0].flatten(1).T.contiguous()


def _place(level: Tensor) -> Tensor:
    return sine_position(level.shape[2], level.shape[3], level.shape[1], level.device).to(level.dtype)
