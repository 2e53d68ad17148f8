"""The compact text tower of the embedded checkpoint: any noun phrase as a unit vector of its joint space.

A word is read twice, as a whole and as its letter n-grams, all hashed into one table (Bojanowski et al. 2017, "Enriching
Word Vectors with Subword Information"; two rows per word as in Tito Svenstrup et al. 2017, "Hash Embeddings"), so that a word
nobody taught lies near words spelt like it. A small transformer reads the words of the phrase together.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import torch
from torch import Tensor, nn

from prompts.phrases import in_words

TABLE_ROWS = 65536
MOST_WORDS = 8
MOST_PIECES = 40
_WORD = re.compile(r"\w+")
_GRAMS = (3, 4, 5)
_BATCH = 256
OWN = 0.5
"""How much a phrase itself counts beside the kind of thing that it means."""
_ARTICLES = frozenset({"a", "an", "the"})
_KINDS = {
    "person": "man men woman women boy girl child children kid baby babies toddler lady ladies guy human pedestrian worker "
    "player tourist",
    "motorcycle": "motorbike", "airplane": "aeroplane", "car": "automobile", "truck": "lorry lorries",
    "dog": "puppy puppies", "cat": "kitten kitty", "sheep": "lamb ewe", "cow": "cattle calf calves", "horse": "pony foal",
    "couch": "sofa", "tv": "television telly", "cell phone": "phone smartphone cellphone", "refrigerator": "fridge",
    "handbag": "purse", "potted plant": "houseplant",
}  # fmt: skip
"""Everyday words for things that were taught under another name, by that name."""
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words.split()}


@lru_cache(maxsize=65536)
def word_pieces(word: str) -> tuple[int, ...]:
    """The table rows of a word: two for the word as a whole, then one for each of its n-grams; row 0 means nothing."""
    whole = [_row(f"{seed}|{word}") for seed in ("first", "second")]
    marked = f"<{word}>"
    grams = [_row(marked[start : start + n]) for n in _GRAMS for start in range(len(marked) - n + 1)]
    return tuple((whole + grams)[:MOST_PIECES])


def words_of(phrase: str) -> tuple[str, ...]:
    """At most 8 words of a phrase: lower case, no accents, no punctuation, no articles beside other words; ``?`` when there
    is no letter in it.
    """
    plain = unicodedata.normalize("NFKD", in_words(phrase))
    found = _WORD.findall("".join(sign for sign in plain if not unicodedata.combining(sign)))
    meant = [word for word in found if word not in _ARTICLES] or found
    return tuple(meant[:MOST_WORDS]) or ("?",)


def kind_of(phrase: str) -> str | None:
    """The name under which was taught what a phrase's last word means, ``person`` of ``an old man``; None where it is that
    name, or none is known.
    """
    word = words_of(phrase)[-1]
    return _KIND_OF.get(word) or _KIND_OF.get(word.removesuffix("s"))


def tokenize(phrases: Sequence[str]) -> Tensor:
    """Table rows ``(N, 8, 40)`` int64 of N phrases, 0 where there is no word or no piece."""
    rows = torch.zeros(len(phrases), MOST_WORDS, MOST_PIECES, dtype=torch.int64)
    for k, phrase in enumerate(phrases):
        for place, word in enumerate(words_of(phrase)):
            pieces = word_pieces(word)
            rows[k, place, : len(pieces)] = torch.tensor(pieces)
    return rows


def _row(piece: str) -> int:
    return 1 + crc32(piece.encode()) % (TABLE_ROWS - 1)


class TextTower(nn.Module):
    """Table rows ``(N, 8, 40)`` to unit vectors ``(N, dim)``."""

    def __init__(self, dim: int = 128, table_width: int = 96, width: int = 160, layers: int = 1) -> None:
        super().__init__()
        self.table = nn.Embedding(TABLE_ROWS, table_width, padding_idx=0)
        nn.init.normal_(self.table.weight, std=0.05)
        nn.init.zeros_(self.table.weight[0])
        self.widen = nn.Linear(2 * table_width, width)
        self.places = nn.Parameter(torch.zeros(MOST_WORDS, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, dim)

    def forward(self, rows: Tensor) -> Tensor:
        """Unit vectors ``(N, dim)`` of tokenised phrases ``(N, 8, 40)``."""
        rows = rows[:, : int(rows[:, :, 0].ne(0).sum(dim=1).max())]
        silent = rows[:, :, 0].eq(0)
        spoken = rows[~silent]
        whole = self._sum(spoken[:, :2])
        grams = self._sum(spoken[:, 2:]) / spoken[:, 2:].ne(0).sum(dim=1, keepdim=True).clamp(min=1)
        read = self.widen(torch.cat([whole, grams], dim=1))
        empty = read.new_zeros(*silent.shape, read.shape[1])
        words = empty.masked_scatter(~silent.unsqueeze(2), read) + self.places[: rows.shape[1]]
        for block in self.blocks:
            words = block(words, src_key_padding_mask=silent)
        said = (~silent).unsqueeze(2).to(words)
        pooled = (self.norm(words) * said).sum(dim=1) / said.sum(dim=1)
        return nn.functional.normalize(self.head(pooled), dim=-1)

    def _sum(self, rows: Tensor) -> Tensor:
        """The sum of the table's vectors ``(M, width)`` over rows ``(M, P)``; its gradient is sparse."""
        return nn.functional.embedding_bag(rows, self.table.weight, mode="sum", padding_idx=0, sparse=True)


class EmbeddedTextEncoder:
    """Phrases into the joint space of the embedded checkpoint; the vectors of known phrases are kept, the latest ones."""

    def __init__(self, tower: TextTower, most_kept: int = 4096) -> None:
        self._tower = tower.eval()
        self._most_kept = most_kept
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def encode_text(self, phrases: Sequence[str]) -> Tensor:
        """Unit vectors ``(N, D)`` of N phrases; those that are new are read together."""
        if not phrases:
            return self._tower.head.weight.new_zeros(0, self._tower.head.out_features)
        with self._lock:
            known = {phrase: self._kept[phrase] for phrase in phrases if phrase in self._kept}
        fresh = [phrase for phrase in dict.fromkeys(phrases) if phrase not in known]
        for start in range(0, len(fresh), _BATCH):
            batch = fresh[start : start + _BATCH]
            known.update(zip(batch, self._read(batch), strict=True))
        self._keep({phrase: known[phrase] for phrase in fresh})
        return torch.stack([known[phrase] for phrase in phrases])

    def _keep(self, fresh: dict[str, Tensor]) -> None:
        with self._lock:
            self._kept.update(fresh)
            while len(self._kept) > self._most_kept:
                self._kept.popitem(last=False)

    @torch.inference_mode()
    def _read(self, phrases: Sequence[str]) -> list[Tensor]:
        """The vectors of phrases; those of which a kind was taught lie between it and what they say, nearer to it."""
        kinds = {phrase: kind for phrase in phrases if (kind := kind_of(phrase)) is not None}
        every = [*phrases, *dict.fromkeys(kinds.values())]
        vectors = dict(zip(every, self._tower(tokenize(every).to(self._tower.head.weight.device)), strict=True))
        for phrase, kind in kinds.items():
            vectors[phrase] = nn.functional.normalize(vectors[kind] + OWN * vectors[phrase], dim=0)
        return [vectors[phrase].clone() for phrase in phrases]
