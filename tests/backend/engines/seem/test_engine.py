"""SEEM answers every kind of prompt: drawings object by object, text and references with every instance, and rounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from backend.engines import device as pretrained
from backend.engines.base import Engine
from backend.engines.seem.answering import Candidates, Judgement
from backend.engines.seem.engine import SeemDecoder
from backend.engines.seem.inputs import InputSize
from backend.values.masks import MaskSet, overlaps
from prompts.kinds import (
    BoxPrompt,
    KeyedImage,
    MaskPrompt,
    ObjectMemory,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    PromptSet,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from prompts.phrases import Vocabulary

Ask = Callable[..., MaskSet]
Image = np.ndarray


def region(image: Image, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[rows, columns] = True
    return mask


def drawings(image: Image) -> dict[str, Prompt]:
    mask = region(image, slice(20, 50), slice(30, 70))
    return {
        "click": PointPrompt((50.0, 30.0)),
        "box": BoxPrompt((30.0, 20.0, 70.0, 50.0)),
        "scribble": ScribblePrompt(mask),
        "polygon": PolygonPrompt(np.array([[30.0, 20.0], [70.0, 20.0], [50.0, 50.0]])),
        "mask": MaskPrompt(mask),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["click", "box", "scribble", "polygon", "mask"])
def test_every_drawing_gets_one_mask_of_the_images_size(engine: Engine, photo: Image, ask: Ask, kind: str) -> None:
    found = ask(engine, photo, drawings(photo)[kind])
    assert found.masks.decode().shape == (1, *photo.shape[:2])
    assert found.labels == (None,)
    assert found.masks.decode().any()
    np.testing.assert_allclose(np.linalg.norm(found.embeddings, axis=1), 1, atol=1e-5)


def test_a_phrase_alone_labels_its_drawing(engine: Engine, photo: Image, ask: Ask) -> None:
    assert ask(engine, photo, drawings(photo)["box"], TextPrompt("dog")).labels == ("dog",)
    assert ask(engine, photo, drawings(photo)["box"], TextPrompt("dog"), TextPrompt("cat")).labels == (None,)


def test_two_boxes_are_two_objects_answered_in_one_pass(engine_of: Callable[[str], Engine], photo: Image, ask: Ask) -> None:
    """The boxes hold fewer than 512 pixels together: objects share the budget of points."""
    left, right = BoxPrompt((5.0, 10.0, 19.0, 24.0)), BoxPrompt((70.0, 20.0, 84.0, 34.0))
    for name in ("focaldw_v0", "focaldw_demo"):
        both = ask(engine_of(name), photo, left, right)
        alone = [ask(engine_of(name), photo, box) for box in (left, right)]
        np.testing.assert_allclose(both.scores, np.concatenate([one.scores for one in alone]), atol=1e-4)
        np.testing.assert_array_equal(both.masks, np.concatenate([one.masks for one in alone]))
    both = ask(engine_of("focaldw_v1"), photo, left, right)
    assert len(both) == 2
    np.testing.assert_array_equal(both.masks[0], ask(engine_of("focaldw_v1"), photo, left).masks[0])


def test_a_negative_click_changes_the_answer(engine: Engine, photo: Image, ask: Ask) -> None:
    click = drawings(photo)["click"]
    without, corrected = ask(engine, photo, click), ask(engine, photo, click, PointPrompt((100.0, 70.0), positive=False))
    assert np.abs(without.low_res_logits.astype(np.float32) - corrected.low_res_logits.astype(np.float32)).max() > 0.01


def test_only_a_negative_click_finds_nothing(engine: Engine, photo: Image, ask: Ask) -> None:
    assert len(ask(engine, photo, PointPrompt((5.0, 5.0), positive=False))) == 0


def test_the_same_question_gets_the_same_answer(engine: Engine, photo: Image, ask: Ask) -> None:
    whole = ScribblePrompt(np.ones(photo.shape[:2], np.bool_))
    first, second = ask(engine, photo, whole), ask(engine, photo, whole)
    np.testing.assert_array_equal(first.low_res_logits, second.low_res_logits)
    np.testing.assert_array_equal(first.masks, second.masks)


@pytest.mark.slow
def test_text_returns_every_instance_that_is_sure_enough_and_each_once(engine: Engine, photo: Image, ask: Ask) -> None:
    found = [ask(engine, photo, TextPrompt(phrase)) for phrase in ("dog", "a red umbrella", "sky", "person", "window", "grass")]
    assert any(len(answer) for answer in found)
    for answer in found:
        assert (answer.scores >= 0.4).all()
        assert (np.diff(answer.scores) <= 0).all()
        iou, _ = overlaps(answer.masks)
        assert (iou[~np.eye(len(answer), dtype=np.bool_)] < 0.8).all()


@pytest.mark.parametrize("name", ["focaldw_v1", "focaldw_demo"])
def test_many_phrases_are_asked_a_few_at_a_time_and_answered_as_together(
    engine_of: Callable[[str], Engine], photo: Image, ask: Ask, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Eighty labels took 2 GB, three hundred more than any machine has."""
    engine, words = engine_of(name), [TextPrompt(phrase) for phrase in ("dog", "sky", "red umbrella", "person", "grass")]
    together = ask(engine, photo, *words)
    asked: list[int] = []
    handle = engine.decoder._network.predictor.register_forward_pre_hook(lambda _, said: asked.append(len(said[1].phrases)))
    monkeypatch.setattr(engine.decoder._answering._chunks, "most", 2)
    apart = ask(engine, photo, *words)
    handle.remove()
    assert [number for number in asked if number] == [2, 2, 1]
    assert len(together)
    assert apart.labels == together.labels
    np.testing.assert_array_equal(apart.masks, together.masks)
    np.testing.assert_allclose(apart.scores, together.scores, atol=1e-5)


def test_instances_are_the_sure_ones_without_duplicates_best_first() -> None:
    logits = torch.full((4, 8, 8), -5.0)
    logits[0, :4] = logits[1, :4, 1:] = logits[2, 4:] = logits[3, 6:] = 5
    candidates = Candidates(logits, torch.eye(4), torch.tensor([0.7, 0.9, 0.5, 0.3]))
    found = candidates.instances(least=0.4, same=0.7)
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.5]))
    torch.testing.assert_close(found.embedding, torch.eye(4)[[1, 2]])


@pytest.mark.slow
def test_a_negative_click_removes_the_instance_under_it(engine: Engine, photo: Image, ask: Ask) -> None:
    for phrase in ("dog", "a red umbrella", "sky", "person", "window", "grass"):
        found = ask(engine, photo, TextPrompt(phrase))
        if len(found):
            y, x = np.argwhere(found.masks[0])[0]
            left = ask(engine, photo, TextPrompt(phrase), PointPrompt((float(x), float(y)), positive=False))
            assert not left.masks.decode()[:, y, x].any()
            assert len(left) < len(found)
            return
    pytest.fail("no phrase found anything")


def test_a_negative_phrase_competes(engine_of: Callable[[str], Engine], photo: Image, ask: Ask) -> None:
    engine = engine_of("samvit_v1")
    found = {phrase: ask(engine, photo, TextPrompt(phrase)) for phrase in ("dog", "sky", "person", "window")}
    phrase = next(phrase for phrase, answer in found.items() if len(answer))
    again = ask(engine, photo, TextPrompt(phrase), TextPrompt(phrase, positive=False))
    assert not len(again) or again.scores.max() <= 0.5 + 1e-4
    assert found[phrase].scores.max() > (again.scores.max() if len(again) else 0)


@pytest.mark.slow
def test_a_region_of_another_image_finds_what_looks_like_it(engine: Engine, photo: Image, other_photo: Image, ask: Ask) -> None:
    reference = ReferencePrompt(KeyedImage.of(other_photo), region(other_photo, slice(10, 60), slice(10, 60)))
    found = ask(engine, photo, reference)
    assert found.masks.decode().shape[1:] == photo.shape[:2]
    assert (found.scores >= 0.5).all()
    assert set(found.labels) <= {None}
    against = ReferencePrompt(KeyedImage.of(other_photo), reference.mask, positive=False)
    assert len(ask(engine, photo, reference, against)) == 0


def test_an_empty_reference_region_asks_for_nothing(engine: Engine, photo: Image, ask: Ask) -> None:
    assert len(ask(engine, photo, ReferencePrompt(KeyedImage.of(photo), np.zeros(photo.shape[:2], np.bool_)))) == 0


def test_only_the_demo_composes_a_reference_with_a_phrase(
    engine_of: Callable[[str], Engine], photo: Image, other_photo: Image, ask: Ask
) -> None:
    reference = ReferencePrompt(KeyedImage.of(other_photo), region(other_photo, slice(10, 60), slice(10, 60)))
    alone, composed = (ask(engine_of("focaldw_demo"), photo, *said) for said in ([reference], [reference, TextPrompt("sky")]))
    assert set(composed.labels) == {"sky"}
    assert composed.embeddings.shape != alone.embeddings.shape or np.abs(composed.embeddings - alone.embeddings).max() > 0.01
    separate = ask(engine_of("focaldw_v1"), photo, reference, TextPrompt("sky"))
    shown = [row for row, label in enumerate(separate.labels) if label is None]
    np.testing.assert_array_equal(separate[shown].masks, ask(engine_of("focaldw_v1"), photo, reference).masks)


def test_a_phrase_changes_what_a_stroke_means_in_the_demo(engine_of: Callable[[str], Engine], photo: Image, ask: Ask) -> None:
    stroke = drawings(photo)["scribble"]
    alone, composed = (ask(engine_of("focaldw_demo"), photo, *said) for said in ([stroke], [stroke, TextPrompt("sky")]))
    assert np.abs(alone.embeddings - composed.embeddings).max() > 0.01


@pytest.mark.parametrize("name", ["focaldw_v0", "focaldw_v1", "samvit_v1"])
def test_the_second_round_uses_the_memory_of_the_first(
    engine_of: Callable[[str], Engine], photo: Image, ask: Ask, name: str
) -> None:
    engine, click = engine_of(name), drawings(photo)["click"]
    first = ask(engine, photo, click)
    memory = ObjectMemory(first.low_res_logits[0], engine.space.name)
    correction = PointPrompt((100.0, 70.0), positive=False)
    without, remembered = (ask(engine, photo, click, correction, memory=kept) for kept in (None, memory))
    assert np.abs(without.embeddings - remembered.embeddings).max() > 1e-3


def test_a_correction_alone_refines_what_is_remembered(engine_of: Callable[[str], Engine], photo: Image, ask: Ask) -> None:
    engine = engine_of("focaldw_v1")
    first = ask(engine, photo, drawings(photo)["box"])
    memory = ObjectMemory(first.low_res_logits[0], engine.space.name)
    refined = ask(engine, photo, PointPrompt((100.0, 70.0), positive=False), memory=memory)
    assert len(refined) == 1


def test_without_a_prompt_the_segments_do_not_overlap(engine: Engine, photo: Image, ask: Ask) -> None:
    found = ask(engine, photo)
    assert len(found)
    assert found.masks.decode().sum(axis=0).max() <= 1
    assert set(found.labels) == {None}


def test_any_region_has_a_meaning_that_can_be_compared_with_names(engine: Engine, photo: Image) -> None:
    features = engine.decoder.encode_images([photo])[0]
    vocabulary = engine.space.embed_vocabulary(Vocabulary.from_names(["dog", "cat", "sky"]))
    meaning = features.pool(region(photo, slice(0, 40), slice(0, 40)))
    similarity = engine.space.similarity(meaning[None], vocabulary)
    assert similarity.shape == (1, 3)
    assert similarity.abs().max() <= 1 + 1e-5
    assert similarity.std() > 0


def test_rounds_never_run_the_backbone_again(engine_of: Callable[[str], Engine], photo: Image) -> None:
    engine = engine_of("focaldw_v1")
    runs: list[object] = []
    handle = engine.decoder._network.backbone.register_forward_hook(lambda *_: runs.append(None))
    features = engine.decoder.encode_images([photo])[0]
    for prompts in (PromptSet((drawings(photo)["click"],)), PromptSet((TextPrompt("dog"),)), PromptSet()):
        engine.decoder.decode(features, prompts, engine.space.embed(prompts, features), None)
    handle.remove()
    assert len(runs) == 1


def test_references_of_another_engine_are_refused(engine_of: Callable[[str], Engine], photo: Image) -> None:
    engine = engine_of("focaldw_v1")
    (features,) = engine.decoder.encode_images([photo])
    said = PromptSet((ReferencePrompt(KeyedImage.of(photo), np.ones(photo.shape[:2], np.bool_)),))
    with pytest.raises(TypeError, match="expected ImageFeatures of SEEM"):
        engine.decoder.decode(features, said, engine.space.embed(said, features, [Foreign()]), None)


class Foreign:
    """The features of an engine of another kind."""


def test_images_encoded_in_bfloat16_are_nearly_the_same(
    engine_of: Callable[[str], Engine], photo: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "processor_has_bfloat16", lambda: True)  # PyTorch imitates it where it is missing
    exact = engine_of("focaldw_v1").decoder
    judgement = Judgement(exact._classes)
    rounded = SeemDecoder(exact._network, InputSize(96, 256, 32), torch.bfloat16, judgement, engine_of("focaldw_v1").space)
    exactly, roughly = (decoder.encode_images([photo])[0] for decoder in (exact, rounded))
    assert {tensor.dtype for tensor in (roughly.grid, *roughly.tensors.values())} == {torch.float32}
    one, other = exactly.tensors["mask_features"], roughly.tensors["mask_features"]
    assert not torch.equal(one, other)
    assert float((one - other).norm() / one.norm()) < 0.05
    assert float((exactly.grid * roughly.grid).sum(dim=0).mean()) > 0.95


def test_masks_and_memory_out_of_a_store_are_read_only_and_used_as_well(
    engine_of: Callable[[str], Engine], photo: Image, ask: Ask
) -> None:
    """PyTorch warns of arrays that it may not write to; a second round of clicks failed on it once."""
    engine, mask = engine_of("focaldw_v1"), region(photo, slice(20, 50), slice(30, 70))
    logits = ask(engine, photo, MaskPrompt(mask)).low_res_logits[0].copy()
    for array in (mask, logits):
        array.flags.writeable = False
    memory = ObjectMemory(logits, engine.space.name)
    assert len(ask(engine, photo, ScribblePrompt(mask), ReferencePrompt(KeyedImage.of(photo), mask), memory=memory)) == 1
