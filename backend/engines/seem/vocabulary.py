"""Names as rows of SEEM's joint space: the prompt templates and their mean."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from backend.engines.phrase_cache import Phrases, VocabularyStore
from prompts.encoders.seem import SeemTextEncoder, load_open_clip
from prompts.phrases import fill_templates

BACKGROUND = "background"
MOST_ROWS = 4096
MOST_LINES = 128
"""As many lines go through the network at once."""
PLAIN = ("{}.",)
QUICK = (
    "{}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of many {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
)


class VocabularyReader:
    """Names into the joint space: each name's phrases fill the templates, and the mean of the unit vectors is its row.

    Rows are remembered in memory and in a store; all that are missing are computed together.
    """

    def __init__(self, text: SeemTextEncoder, store: VocabularyStore | None) -> None:
        self._text = text
        self._store = store
        self._known: OrderedDict[tuple[Phrases, Phrases], Tensor] = OrderedDict()

    def read(self, names: Sequence[Phrases], templates: Phrases) -> Tensor:
        """Unit vectors ``(N, D)`` of N names, each with one or more phrases."""
        wanted = dict.fromkeys(names)
        found = {name: row for name in wanted if (row := self._find(name, templates)) is not None}
        missing = [name for name in wanted if name not in found]
        for name, row in zip(missing, self._compute(missing, templates), strict=True):
            found[name] = row
            if self._store is not None:
                self._store.keep(name, templates, row)
        for name, row in found.items():
            self._remember((name, templates), row)
        return torch.stack([found[name] for name in names])

    def with_background(self, names: Sequence[str], templates: Phrases) -> Tensor:
        """Unit vectors ``(N + 1, D)`` of N names and of "background", as the class logits of SEEM want them."""
        return self.read([(name,) for name in (*names, BACKGROUND)], templates)

    def _find(self, name: Phrases, templates: Phrases) -> Tensor | None:
        known = self._known.get((name, templates))
        return known if known is not None or self._store is None else self._store.find(name, templates)

    def _compute(self, names: Sequence[Phrases], templates: Phrases) -> list[Tensor]:
        lines = [[line for phrase in name for line in fill_templates(phrase, templates)] for name in names]
        flat = [line for name in lines for line in name]
        parts = [self._text.encode_text(flat[start : start + MOST_LINES]) for start in range(0, len(flat), MOST_LINES)]
        counts = [len(name) for name in lines]
        means = [rows.mean(dim=0) for rows in torch.split(torch.cat(parts), counts)] if parts else []
        return [torch.nn.functional.normalize(mean, dim=0) for mean in means]

    def _remember(self, key: tuple[Phrases, Phrases], row: Tensor) -> None:
        self._known[key] = row
        self._known.move_to_end(key)
        while len(self._known) > MOST_ROWS:
            self._known.popitem(last=False)


def all_templates() -> tuple[str, ...]:
    """The 81 templates of SEEM's evaluation: the bare name, and the 80 of CLIP's (Radford et al. 2021)."""
    return (*PLAIN, *(fill("{}") for fill in load_open_clip().OPENAI_IMAGENET_TEMPLATES))
