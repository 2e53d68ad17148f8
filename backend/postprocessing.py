"""What becomes of the masks that an engine found: which name of the project each gets, and which of several of the same thing
stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from backend.values.masks import Masks, MaskSet, RunLengths, keep_best, overlaps, shared
from prompts.geometry import BoolArray
from prompts.kinds import PromptSet, TextPrompt
from prompts.memory import LabelMemory, margins_of
from prompts.phrases import Vocabulary
from prompts.space import JointSpace

SAME_REGION_IOU = 0.7
SURE = 0.6
"""The score from which on a region stays even if there are more than usual."""


def ask_for(vocabulary: Vocabulary) -> PromptSet:
    """Every phrase of every label as a text prompt."""
    phrases = dict.fromkeys(phrase for entry in vocabulary.entries for phrase in entry.phrases)
    return PromptSet(tuple(TextPrompt(phrase) for phrase in phrases))


def label_masks(masks: MaskSet, vocabulary: Vocabulary, space: JointSpace) -> MaskSet:
    """Give every row a label of the vocabulary.

    A row that a phrase found gets the label that answers to the phrase, or the most similar one; a row that no phrase found
    gets the label most similar to its own embedding. Without a vocabulary rows keep their phrases.
    """
    if not len(vocabulary) or not len(masks):
        return masks
    known = vocabulary.find_all(phrase for phrase in masks.labels if phrase is not None)
    labels = [known[phrase] if phrase is not None else None for phrase in masks.labels]
    unnamed = [row for row, label in enumerate(labels) if label is None]
    nearest = dict(zip(unnamed, _nearest(masks[unnamed], vocabulary, space), strict=True))
    return masks.named([label if label is not None else nearest[row] for row, label in enumerate(labels)])


def rank_names(masks: MaskSet, vocabulary: Vocabulary, space: JointSpace) -> list[tuple[str, ...]]:
    """For each row all names of a vocabulary: its own label first, if that is one, then those most similar to its embedding."""
    if not len(masks) or not len(vocabulary):
        return [()] * len(masks)
    similarity = space.similarity(torch.from_numpy(masks.embeddings), space.embed_vocabulary(vocabulary))
    ranked = similarity.argsort(dim=1, descending=True).tolist()
    names = [[vocabulary.labels[place] for place in row] for row in ranked]
    return [_first(own, names_of_row) for own, names_of_row in zip(masks.labels, names, strict=True)]


def name_by_examples(masks: MaskSet, places: Tensor, memories: Sequence[LabelMemory]) -> MaskSet:
    """The rows that no phrase found under the label whose examples they look like more than like what surrounds these, by the
    image's ``places (D, h, w)``; all others as they were.
    """
    unnamed = [row for row, label in enumerate(masks.labels) if label is None]
    if not unnamed or not memories:
        return masks
    best, which = margins_of(places, [masks.masks[row] for row in unnamed], memories).max(dim=1)
    found = {row: memories[int(k)].label for row, k, margin in zip(unnamed, which, best, strict=True) if margin > 0}
    return masks.named([found.get(row, label) for row, label in enumerate(masks.labels)])


def as_usual(masks: MaskSet, memories: Sequence[LabelMemory]) -> MaskSet:
    """Rows without those of taught labels whose score is less than the least that is worth suggesting, and without those that
    are unsure and of which there are more than annotators have ever left on an image, of their label or of all labels.
    """
    least = {memory.label: memory.least for memory in memories}
    masks = masks[[row for row, label in enumerate(masks.labels) if masks.scores[row] >= least.get(label or "", 0.0)]]
    usual = {memory.label: memory.usual for memory in memories if memory.usual is not None}
    most = max((each.of_all for each in usual.values()), default=0)
    counts: Counter[str] = Counter()
    dropped: set[int] = set()
    for row in np.argsort(-masks.scores, kind="stable").tolist():
        label = masks.labels[row] or ""
        is_enough = label in usual and (counts[label] >= usual[label].of_label or counts.total() >= most)
        if is_enough and masks.scores[row] < SURE:
            dropped.add(row)
        else:
            counts[label] += label in usual
    return masks[[row for row in range(len(masks)) if row not in dropped]] if dropped else masks


def likest_first(masks: MaskSet, places: Tensor, memory: LabelMemory) -> MaskSet:
    """Readings of one drawing: first that which is good and looks like a label's examples, by its score and its margin."""
    if len(masks) < 2:
        return masks
    worth = torch.from_numpy(masks.scores) + margins_of(places, list(masks.masks), [memory])[:, 0]
    return masks[worth.argsort(descending=True, stable=True).tolist()]


def suppress_duplicates(masks: MaskSet) -> MaskSet:
    """Of rows that show the same region (IoU above 0.7), whatever their labels, only the best one; best first."""
    iou, _ = overlaps(masks.masks)
    return masks[keep_best(iou, masks.scores, SAME_REGION_IOU)]


def drop_known(masks: MaskSet, known: Iterable[RunLengths]) -> MaskSet:
    """Without the rows that show the same region as one of those that are there already."""
    there = Masks(masks.size, tuple(known))
    is_new: BoolArray = np.all(shared(masks.masks, there) <= SAME_REGION_IOU, axis=1)
    return masks[is_new]


def _first(own: str | None, names: Sequence[str]) -> tuple[str, ...]:
    return (own, *(name for name in names if name != own)) if own in names and own is not None else tuple(names)


def _nearest(masks: MaskSet, vocabulary: Vocabulary, space: JointSpace) -> list[str]:
    """For each row the label that is most similar to its phrase, or to its embedding where it has none."""
    if not len(masks):
        return []
    names = space.embed_vocabulary(vocabulary)
    meanings = [
        space.embed_phrases([phrase]) if phrase is not None else torch.from_numpy(masks.embeddings[row : row + 1])
        for row, phrase in enumerate(masks.labels)
    ]
    return [vocabulary.labels[int(space.similarity(meaning, names)[0].argmax())] for meaning in meanings]
