"""What each wiring of SEEM must be told, and which of its queries then answer."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from backend.engines.seem.memory_tokens import MaskMemory
from backend.engines.seem.predictor import Ask
from backend.engines.seem.space import SeemQueries
from backend.engines.seem.spatial import VisualTokens, merge_tokens, repeat_tokens
from backend.engines.seem.wiring import Group, Wiring
from prompts.encoders.seem import PhraseTokens


class Asking(Protocol):
    """How a decoder is asked. Each drawing, phrase or reference is one prompt, and answers come prompt by prompt."""

    to_phrases: Group
    """The queries that answer phrases."""
    to_regions: Group
    """The queries that answer drawings and references."""

    def drawn(self, tokens: VisualTokens, memory: MaskMemory | None, queries: SeemQueries) -> Ask:
        """Ask for n drawn objects, each helped by whatever was said."""
        ...

    def named(self, read: PhraseTokens) -> Ask:
        """Ask for each of n phrases."""
        ...

    def shown(self, shown: VisualTokens, read: PhraseTokens | None) -> Ask:
        """Ask for what looks like each of n references, helped by the phrases."""
        ...

    def prefer(self, fit: Tensor, chance: Tensor) -> Tensor:
        """Which of the queries for a drawing is best ``(Q,)``, from how they fit the drawing and the phrases ``(Q,)``."""
        ...


class SeparateAsking:
    """SEEM v0 and v1: phrases and regions have queries of their own, which never see each other."""

    to_phrases = Group.GROUNDING
    to_regions = Group.SPATIAL

    def __init__(self, wiring: Wiring, queries: int) -> None:
        self._wiring = wiring
        self._queries = queries

    def drawn(self, tokens: VisualTokens, memory: MaskMemory | None, queries: SeemQueries) -> Ask:
        if queries.shown is not None:
            tokens = merge_tokens(tokens, repeat_tokens(queries.shown, len(tokens)))
        return Ask(drawn=tokens, spatial=self._wiring.spatial_queries(len(tokens), self._queries), memory=memory)

    def named(self, read: PhraseTokens) -> Ask:
        return Ask(phrases=[read.of(row) for row in range(len(read.lengths))])

    def shown(self, shown: VisualTokens, read: PhraseTokens | None) -> Ask:
        """Every learned query looks for the reference, also where a drawing gets a few: there can be many answers."""
        return Ask(drawn=shown, spatial=torch.arange(self._queries).repeat(len(shown)))

    def prefer(self, fit: Tensor, chance: Tensor) -> Tensor:
        return fit * chance


class ComposedAsking:
    """The wiring of the official demo: the object queries look at everything that was said, drawn and shown."""

    to_phrases = Group.OBJECT
    to_regions = Group.OBJECT

    def drawn(self, tokens: VisualTokens, memory: MaskMemory | None, queries: SeemQueries) -> Ask:
        count = len(tokens)
        shown = repeat_tokens(queries.shown, count) if queries.shown is not None else None
        return Ask(objects=count, phrases=_together(queries.read) * count, drawn=tokens, reference=shown)

    def named(self, read: PhraseTokens) -> Ask:
        return Ask(objects=len(read.lengths), phrases=[read.of(row) for row in range(len(read.lengths))])

    def shown(self, shown: VisualTokens, read: PhraseTokens | None) -> Ask:
        return Ask(objects=len(shown), phrases=_together(read) * len(shown), reference=shown)

    def prefer(self, fit: Tensor, chance: Tensor) -> Tensor:
        """The phrases already had their say inside the network."""
        return fit


def how_to_ask(wiring: Wiring, queries: int) -> Asking:
    """The way to ask a decoder with this wiring and so many learned queries."""
    return ComposedAsking() if wiring.composes else SeparateAsking(wiring, queries)


def _together(read: PhraseTokens | None) -> list[Tensor]:
    """All phrases as one row of tokens; an empty list without any."""
    return [torch.cat([read.of(row) for row in range(len(read.lengths))])] if read is not None else []
