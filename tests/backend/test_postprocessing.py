from __future__ import annotations

import numpy as np
import torch

from backend.engines.colour import ColourTextEncoder
from backend.postprocessing import SURE, as_usual, label_masks, rank_names, suppress_duplicates
from backend.values.masks import Masks, MaskSet
from prompts.examples import Examples
from prompts.memory import LabelMemory, Usual
from prompts.phrases import LabelPhrases, Vocabulary
from prompts.space import JointSpace
from tests.backend.pictures import square

SPACE = JointSpace("colour", ColourTextEncoder())
VOCABULARY = Vocabulary((LabelPhrases.of("Ball", ["red"]), LabelPhrases.of("Box", ["blue"])))


def rows(masks: list[np.ndarray], scores: list[float], labels: list[str | None]) -> MaskSet:
    return MaskSet(
        masks=Masks.of_stack(np.stack(masks)),
        scores=np.array(scores, np.float32),
        labels=tuple(labels),
        low_res_logits=np.zeros((len(masks), 1, 1), np.float16),
        embeddings=np.stack([SPACE.embed_phrases(["blue"])[0].numpy()] * len(masks)),
    )


def test_a_phrase_becomes_the_label_that_answers_to_it() -> None:
    masks = rows([square(20, 20, 2, 2, 5)] * 3, [0.9, 0.9, 0.9], ["red", "Box", "boxes"])
    assert label_masks(masks, VOCABULARY, SPACE).labels[:2] == ("Ball", "Box")


def test_an_unknown_phrase_becomes_the_nearest_label_of_the_project() -> None:
    masks = rows([square(20, 20, 2, 2, 5)], [0.9], ["darkred thing"])
    assert label_masks(masks, VOCABULARY, SPACE).labels == ("Ball",)


def test_a_mask_that_no_phrase_found_is_named_by_its_own_look() -> None:
    masks = rows([square(20, 20, 2, 2, 5)], [0.9], [None])
    assert label_masks(masks, VOCABULARY, SPACE).labels == ("Box",)


def test_each_row_of_many_gets_its_own_name_and_the_vocabulary_is_embedded_once() -> None:
    """It was embedded for every row: a hundred masks and a thousand labels took seconds, in which nobody else was served."""
    embedded: list[int] = []

    class Counting(JointSpace):
        def embed_vocabulary(self, vocabulary: Vocabulary) -> torch.Tensor:
            embedded.append(len(vocabulary))
            return super().embed_vocabulary(vocabulary)

    labels = ["red", None, "darkred thing", "Box", None, "navy thing"]
    masks = rows([square(20, 20, 2, 2, 5)] * 6, [0.9] * 6, labels)
    space = Counting("colour", ColourTextEncoder())
    assert label_masks(masks, VOCABULARY, space).labels == ("Ball", "Box", "Ball", "Box", "Box", "Box")
    assert embedded == [2]


def test_without_a_vocabulary_phrases_stay_as_they_are() -> None:
    masks = rows([square(20, 20, 2, 2, 5)], [0.9], ["red"])
    assert label_masks(masks, Vocabulary(), SPACE).labels == ("red",)


def test_of_two_labels_on_one_region_the_better_score_stays() -> None:
    one, same, other = square(20, 20, 2, 2, 10), square(20, 20, 2, 3, 10), square(20, 20, 13, 13, 5)
    kept = suppress_duplicates(rows([one, same, other], [0.5, 0.9, 0.7], ["a", "b", "c"]))
    assert kept.labels == ("b", "c")
    assert kept.scores.tolist() == np.array([0.9, 0.7], np.float32).tolist()


def test_nothing_stays_nothing() -> None:
    empty = rows([square(20, 20, 2, 2, 5)], [0.9], [None])[[]]
    assert len(suppress_duplicates(empty)) == 0
    assert len(label_masks(empty, VOCABULARY, SPACE)) == 0


def test_names_are_ranked_by_likeness_and_a_row_s_own_label_comes_first() -> None:
    colours = Vocabulary.from_names(["red", "navy", "blue", "green"])
    masks = rows([square(20, 20, 2, 2, 5)] * 2, [0.9, 0.8], ["Ball", "green"])
    unnamed, named = rank_names(masks, colours, SPACE)
    assert unnamed[:2] == ("blue", "navy")
    assert named[:3] == ("green", "blue", "navy")
    assert rank_names(masks, Vocabulary(), SPACE) == [(), ()]
    assert rank_names(masks[[]], colours, SPACE) == []


def memory(label: str, usual: Usual | None) -> LabelMemory:
    return LabelMemory(label, (label,), Examples(torch.eye(3), torch.eye(3)), 3, "e", usual=usual)


def test_of_unsure_regions_there_are_no_more_than_annotators_ever_left_and_sure_ones_stay() -> None:
    squares = [square(40, 40, 1 + 6 * k, 2, 5) for k in range(6)]
    labels = ["Ball", "Ball", "Box", "Ball", "Egg", "Ball"]
    masks = rows(squares, [0.5, 0.45, 0.42, SURE, 0.41, 0.44], labels)
    ball, box, egg = (Usual(2, 3), Usual(1, 3), None)
    kept = as_usual(masks, [memory("Ball", ball), memory("Box", box), memory("Egg", egg)])
    assert [(label, round(float(score), 2)) for label, score in zip(kept.labels, kept.scores, strict=True)] == [
        ("Ball", 0.5),
        ("Box", 0.42),
        ("Ball", 0.6),
        ("Egg", 0.41),
    ], "two balls and one box, three together; how many eggs are usual is not known"
    assert len(as_usual(masks, [memory("Ball", None)])) == 6
    sure = rows(squares[:4], [0.9, 0.8, 0.7, 0.65], ["Ball"] * 4)
    assert len(as_usual(sure, [memory("Ball", Usual(1, 1))])) == 4
