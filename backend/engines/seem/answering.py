"""From SEEM's outputs to masks: instances, semantic and panoptic maps.

The panoptic map is that of Cheng et al. 2022, "Mask2Former", with the thresholds of SEEM; the last class is "background".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backend.engines.device import ShrinkingChunks
from backend.engines.seem.inputs import THINGS, InputFrame, SeemImage, TrainedVocabulary, mask_quality
from backend.engines.seem.predictor import Ask, Prediction, Predictor
from backend.engines.seem.space import Drawings, SeemTokens, how_to_ask
from backend.engines.seem.wiring import VisualTokens
from backend.values.masks import Masks, MaskSet
from prompts.encoders.seem import PhraseTokens


@dataclass(frozen=True, slots=True)
class PanopticRule:
    """Which segments stay: those whose class is at least this sure, and that keep at least this share of their mask when every
    pixel goes to one segment. The defaults are those of SEEM's demo; its evaluation uses 0.8 and 0.8.
    """

    least_score: float = 0.4
    least_share: float = 0.8


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a panoptic map: its number there, its class, the query that it is from, and how sure the class is."""

    number: int
    category: int
    query: int
    score: float


def panoptic_map(
    class_logits: Tensor, mask_logits: Tensor, things: Collection[int], rule: PanopticRule
) -> tuple[Tensor, list[Segment]]:
    """A segment's number for every pixel ``(H, W)``, 0 for none, and the segments. Stuff of one class is one segment."""
    scores, categories = class_logits.softmax(dim=-1).max(dim=-1)
    kept = ((categories != class_logits.shape[1] - 1) & (scores > rule.least_score)).nonzero()[:, 0]
    numbers = torch.zeros(mask_logits.shape[1:], dtype=torch.int32, device=mask_logits.device)
    segments: list[Segment] = []
    if not len(kept):
        return numbers, segments
    inside = mask_logits[kept].sigmoid()
    winner = (scores[kept, None, None] * inside).argmax(dim=0)
    for row, query in enumerate(kept.tolist()):
        mask = (winner == row) & (inside[row] >= 0.5)
        if not _is_kept(mask, winner == row, inside[row] >= 0.5, rule):
            continue
        category = int(categories[query])
        known = next((s for s in segments if s.category == category and category not in things), None)
        if known is None:
            known = Segment(len(segments) + 1, category, query, float(scores[query]))
            segments.append(known)
        numbers[mask] = known.number
    return numbers, segments


def _is_kept(mask: Tensor, won: Tensor, own: Tensor, rule: PanopticRule) -> bool:
    return bool(mask.any()) and int(won.sum()) / int(own.sum()) >= rule.least_share


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What counts as found: the least score of a mask that a phrase named, of one that looks like a reference, and the IoU
    from which two masks are one instance.
    """

    text: float = 0.4
    reference: float = 0.5
    same_instance: float = 0.7


@dataclass(frozen=True, slots=True)
class Candidates:
    """Q asked that may answer: ``logits (Q, h, w)`` at stride 4, ``embedding (Q, D)``, ``scores (Q,)`` in 0..1."""

    logits: Tensor
    embedding: Tensor
    scores: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence[Candidates]) -> Candidates:
        """All candidates of all parts, in order."""
        columns = zip(*((part.logits, part.embedding, part.scores) for part in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))

    def rows(self, chosen: Tensor) -> Candidates:
        """Some of them, by indices or a bool tensor."""
        return Candidates(self.logits[chosen], self.embedding[chosen], self.scores[chosen])

    def instances(self, least: float, same: float) -> Candidates:
        """Those of at least this score, best first; of masks with an IoU above ``same`` only the best."""
        sure = self.rows(self.scores >= least)
        ordered = sure.rows(sure.scores.argsort(descending=True, stable=True))
        iou = _overlap(ordered.logits > 0)
        kept: list[int] = []
        for row in range(len(iou)):
            if not kept or float(iou[row, kept].max()) <= same:
                kept.append(row)
        return ordered.rows(torch.tensor(kept, dtype=torch.long, device=iou.device))


def to_mask_set(frame: InputFrame, found: Candidates, label: str | None) -> MaskSet:
    """The answers at the image's size, one at a time to bound the memory; a mask without a pixel is no answer."""
    masks = [frame.enlarge(found.logits[row : row + 1])[0].cpu().numpy() > 0 for row in range(len(found.scores))]
    return _mask_set(frame, found, masks, label)


def segments_to_mask_set(frame: InputFrame, found: Candidates, numbers: Tensor, segments: Sequence[Segment]) -> MaskSet:
    """The segments of a panoptic map ``(h, w)`` of the content, best first; ``found`` are all asked that it was made of."""
    best_first = sorted(segments, key=lambda segment: -segment.score)
    chosen = found.rows(torch.tensor([segment.query for segment in best_first], dtype=torch.long, device=numbers.device))
    masks = [frame.spread(numbers == segment.number) for segment in best_first]
    return _mask_set(frame, chosen, masks, None)


def _mask_set(frame: InputFrame, found: Candidates, masks: Sequence[np.ndarray], label: str | None) -> MaskSet:
    kept = [row for row, mask in enumerate(masks) if mask.any()]
    if not kept:
        return MaskSet.empty(frame.size)
    return MaskSet(
        masks=Masks.of((masks[row] for row in kept), frame.size),
        scores=found.scores[kept].float().clamp(0, 1).cpu().numpy(),
        labels=(label,) * len(kept),
        low_res_logits=found.logits[kept].float().cpu().numpy().astype(np.float16),
        embeddings=functional.normalize(found.embedding[kept].float(), dim=-1).cpu().numpy(),
    )


def _overlap(masks: Tensor) -> Tensor:
    """The IoU ``(N, N)`` of masks ``(N, h, w)``."""
    flat = masks.flatten(1).float()
    both = flat @ flat.T
    area = both.diagonal()
    return both / (area[:, None] + area[None, :] - both).clamp(min=1)


MOST_PHRASES = 8
"""As many phrases are asked for at once, and fewer where the device is full."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How answers are judged: the classes of training, the thresholds, and the rule for what is found without a prompt."""

    classes: TrainedVocabulary
    thresholds: Thresholds = field(default_factory=Thresholds)
    panoptic: PanopticRule = field(default_factory=PanopticRule)


class Answering:
    """A mask decoder with its way of being asked and of being judged."""

    def __init__(self, predictor: Predictor, judgement: Judgement) -> None:
        self._predictor = predictor
        self._asking = how_to_ask(predictor.wiring, predictor.query_feat.num_embeddings)
        self._judge = judgement
        self._chunks = ShrinkingChunks(MOST_PHRASES)

    def drawings(self, image: SeemImage, drawings: Drawings, asked: SeemTokens) -> MaskSet:
        """One mask for each drawn object: that of the query which fits the drawn pixels best."""
        tokens = self._predictor.sample(image.pixels, (drawings.positive, drawings.negative))
        said = self._ask(image, self._asking.drawn(tokens, drawings.memory, asked))
        best = [self._best(said.of(self._asking.to_regions, j), tokens.pooled[j], asked) for j in range(len(tokens))]
        chosen = Prediction.concatenate([prediction for prediction, _ in best])
        found = _candidates(image, chosen, torch.cat([fit for _, fit in best]))
        return to_mask_set(image.frame, found, _only_phrase(asked))

    def words_and_references(self, image: SeemImage, asked: SeemTokens) -> MaskSet:
        """Every instance of every phrase and of every reference; a wiring that composes them is asked for both at once."""
        parts = []
        if asked.read is not None and not (self._predictor.wiring.composes and asked.shown is not None):
            parts.append(self._named(image, asked.read, asked))
        if asked.shown is not None:
            parts.append(self._shown(image, asked.shown, asked))
        return MaskSet.concatenate(parts, image.frame.size)

    def everything(self, image: SeemImage) -> MaskSet:
        """The segments of a panoptic map of the classes that SEEM was trained with, best first, without their names."""
        class_logits = self._judge.classes.class_logits(image.objects.embedding)
        found = _candidates(image, image.objects, class_logits.softmax(dim=-1)[:, :-1].amax(dim=1))
        things = range(len(THINGS))
        numbers, segments = panoptic_map(class_logits, image.frame.crop(found.logits), things, self._judge.panoptic)
        return segments_to_mask_set(image.frame, found, numbers, segments)

    def _ask(self, image: SeemImage, ask: Ask) -> Prediction:
        layers: list[Prediction] = self._predictor(image.pixels, ask)
        return layers[-1].float()

    def _best(self, said: Prediction, pooled: Tensor, asked: SeemTokens) -> tuple[Prediction, Tensor]:
        """The one query that fits a drawing best, and how well ``(1,)``: the probability of the mean drawn pixel."""
        logit = said.mask_embedding @ pooled
        order = logit
        if asked.read is not None:
            chances = [self._chance(said, phrase, asked.read.sentence[k], asked) for k, phrase in enumerate(asked.phrases)]
            order = self._asking.prefer(logit, torch.stack(chances).amax(dim=0))
        best = order.argmax()[None]
        return said.rows(best), logit[best].sigmoid()

    def _named(self, image: SeemImage, read: PhraseTokens, asked: SeemTokens) -> MaskSet:
        """Every instance of each phrase, labelled with it. Phrases do not see each other, so that a few at a time say the same
        as all at once, whose attention would take the square of their number in memory.
        """

        def compute(rows: Sequence[int]) -> list[MaskSet]:
            said = self._ask(image, self._asking.named(read.rows(slice(rows[0], rows[-1] + 1))))
            parts = []
            for place, row in enumerate(rows):
                mine, phrase = said.of(self._asking.to_phrases, place), asked.phrases[row]
                found = _candidates(image, mine, self._chance(mine, phrase, read.sentence[row], asked))
                parts.append(to_mask_set(image.frame, self._instances(found, self._judge.thresholds.text), phrase))
            return parts

        return MaskSet.concatenate(self._chunks.run(range(len(asked.phrases)), compute), image.frame.size)

    def _shown(self, image: SeemImage, shown: VisualTokens, asked: SeemTokens) -> MaskSet:
        """Every region that fits a reference, and fits it better than any negative reference."""
        said = self._ask(image, self._asking.shown(shown, asked.read))
        parts = []
        for number, pooled in enumerate(shown.pooled):
            mine = said.of(self._asking.to_regions, number)
            if asked.negative_shown is not None:
                against = (mine.mask_embedding @ asked.negative_shown.pooled.T).amax(dim=1)
                mine = mine.rows(mine.mask_embedding @ pooled > against)
            parts.append(_candidates(image, mine, (mine.mask_embedding @ pooled).sigmoid()))
        found = self._instances(Candidates.concatenate(parts), self._judge.thresholds.reference)
        return to_mask_set(image.frame, found, _only_phrase(asked) if self._predictor.wiring.composes else None)

    def _instances(self, candidates: Candidates, least: float) -> Candidates:
        return candidates.instances(least, self._judge.thresholds.same_instance)

    def _chance(self, said: Prediction, phrase: str, sentence: Tensor, asked: SeemTokens) -> Tensor:
        """How sure it is that each query shows a phrase, ``(Q,)``."""
        return self._judge.classes.chance(said.embedding, phrase, sentence.float(), asked.negative_text)


def _candidates(image: SeemImage, said: Prediction, chance: Tensor) -> Candidates:
    """Queries with their masks, scored by how sure they are of what they show and of where it is."""
    logits = said.masks(image.pixels.mask_features)
    return Candidates(logits, said.embedding, chance * mask_quality(logits))


def _only_phrase(asked: SeemTokens) -> str | None:
    return asked.phrases[0] if len(asked.phrases) == 1 else None
