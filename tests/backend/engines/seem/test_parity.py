"""The small networks against the recorded outputs of SEEM's own code, array by array."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn import functional

from backend.engines.seem.predictor import Ask, Prediction
from backend.engines.seem.wiring import Group, MaskMemory, VisualTokens

if TYPE_CHECKING:
    from conftest import Recording

LOGITS, EMBEDDING = 5e-5, 1e-5
V1 = ("focaldw_v1", "focal4_v1", "samvit_v1")
pytestmark = pytest.mark.usefixtures("inference")


@pytest.fixture
def inference():
    with torch.inference_mode():
        yield


def check_answer(recording: Recording, mode: str, layers: list[Prediction], image: str = "A") -> Prediction:
    """Compare everything that was recorded of one answer."""
    last, features = layers[-1], recording.features(image).mask_features
    objects, grounding, spatial = (last.of(group) for group in (Group.OBJECT, Group.GROUNDING, Group.SPATIAL))
    vocabulary = torch.from_numpy(recording["text.class_embeddings_eval"])
    computed = {
        "pred_logits": (recording.network.predictor.class_logits(objects.embedding, vocabulary), LOGITS),
        "pred_masks": (objects.masks(features), LOGITS),
        "pred_captions": (objects.embedding, EMBEDDING),
        "pred_maskembs": (objects.mask_embedding, EMBEDDING),
        "pred_gmasks": (grounding.masks(features), LOGITS),
        "pred_gtexts": (grounding.embedding, EMBEDDING),
        "pred_smasks": (spatial.masks(features), LOGITS),
        "pred_stexts": (spatial.embedding, EMBEDDING),
        "pred_smaskembs": (spatial.mask_embedding, EMBEDDING),
    }
    for layer, said in enumerate(layers[:-1]):
        means = said.of(Group.OBJECT).masks(features).mean(dim=(1, 2))
        computed[f"aux{layer}.pred_masks_mean"] = (means, LOGITS)
    wanted = [name for name in computed if f"{mode}.{name}" in recording]
    assert "pred_masks" in wanted
    for name in wanted:
        recording.check(f"{mode}.{name}", *computed[name])
    return last


def ask_for_drawings(recording: Recording, tokens: VisualTokens, memory: MaskMemory | None = None) -> Ask:
    predictor = recording.network.predictor
    spatial = predictor.wiring.spatial_queries(len(tokens), predictor.query_feat.num_embeddings)
    return Ask(objects=1, drawn=tokens, spatial=spatial, memory=memory)


def best_masks(recording: Recording, said: Prediction, tokens: VisualTokens, image: str = "A") -> torch.Tensor:
    """Each prompt's best mask by the rule of SEEM: the largest product with the pooled vector."""
    masks = []
    for prompt in range(len(tokens)):
        mine = said.of(Group.SPATIAL, prompt)
        best = int((mine.mask_embedding @ tokens.pooled[prompt]).argmax())
        masks.append(mine.masks(recording.features(image).mask_features)[best])
    return torch.stack(masks)


@pytest.mark.slow
def test_the_backbone_and_the_pixel_decoder(recording: Recording) -> None:
    maps = recording.network.backbone(recording.padded(recording["imageA_uint8_chw"]))
    for level, image in enumerate(maps, start=2):
        recording.check(f"A.backbone.res{level}", image, atol=LOGITS)
    for level, image in enumerate(recording.features("A").levels):
        recording.check(f"A.multi_scale.{level}", image, EMBEDDING * 2)
    for name in ("A", "B"):
        recording.check(f"{name}.mask_features", recording.features(name).mask_features, EMBEDDING)


def test_the_language_encoder_reads_no_further_than_the_longest_phrase(recording: Recording) -> None:
    ids = torch.from_numpy(recording["text.input_ids"])
    encoder = recording.network.predictor.lang_encoder
    read = encoder(ids)
    np.testing.assert_array_equal(read.lengths.numpy(), recording["text.attention_mask"].sum(axis=1))
    recording.check("text.class_emb", read.sentence, EMBEDDING)
    whole = encoder.lang_encoder(ids) @ encoder.lang_proj
    recording.check("text.token_emb", whole, EMBEDDING)
    torch.testing.assert_close(read.tokens, whole[:, : int(read.lengths.max())], rtol=0, atol=EMBEDDING)


def test_without_prompts(recording: Recording) -> None:
    check_answer(recording, "seg", recording.network.predictor(recording.features("A"), Ask(objects=1)))


def test_a_phrase(recording: Recording) -> None:
    predictor, phrases = recording.network.predictor, recording.phrases()
    said = check_answer(recording, "text", predictor(recording.features("A"), Ask(objects=1, phrases=[phrases.of(0)])))
    answering = said.of(Group.OBJECT if predictor.wiring.composes else Group.GROUNDING)
    scale = predictor.lang_encoder.logit_scale.exp().clamp(max=100)
    unit = functional.normalize(answering.embedding, dim=-1)
    similarity = scale * unit @ functional.normalize(phrases.sentence[:1], dim=-1).T
    recording.check("text.similarity", similarity, EMBEDDING)
    assert int(similarity.argmax()) == int(recording["text.matched_id"][0])


@pytest.mark.parametrize("drawing", ["stroke", "box"])
def test_a_drawing(recording: Recording, drawing: str) -> None:
    if f"{drawing}.pred_masks" not in recording:
        pytest.skip("the demo was recorded with a stroke only")
    predictor, features = recording.network.predictor, recording.features("A")
    tokens = predictor.sample(features, (recording.masks(drawing), recording.masks(None)))
    said = check_answer(recording, drawing, predictor(features, ask_for_drawings(recording, tokens)))
    recording.check(f"{drawing}.pred_pspatials", tokens.pooled, EMBEDDING)
    recording.check(f"{drawing}.pred_nspatials", tokens.negative_pooled, EMBEDDING)
    if predictor.wiring.composes:
        scores = said.of(Group.OBJECT).mask_embedding @ tokens.pooled.T
        recording.check("stroke.match_logits", scores, LOGITS)
        assert int(scores.argmax()) == int(recording["stroke.matched_id"][0])
    elif f"{drawing}.task_spatial.prev_mask" in recording:
        recording.check(f"{drawing}.task_spatial.prev_mask", best_masks(recording, said, tokens), LOGITS)


@pytest.mark.parametrize("name", ["focaldw_v0", *V1])
def test_a_second_round_with_memory(recorded: Callable[[str], Recording], name: str) -> None:
    recording = recorded(name)
    predictor, features = recording.network.predictor, recording.features("A")
    first = predictor.sample(features, (recording.masks("stroke"), recording.masks(None)))
    before = best_masks(recording, predictor(features, ask_for_drawings(recording, first))[-1], first)
    memory = MaskMemory(before, torch.zeros(1, dtype=torch.long))
    second = predictor.sample(features, (recording.masks("stroke"), recording.masks("neg")))
    said = check_answer(recording, "memory", predictor(features, ask_for_drawings(recording, second, memory)))
    recording.check("memory.task_spatial.prev_mask", best_masks(recording, said, second), LOGITS)


@pytest.mark.parametrize("name", V1)
def test_three_objects_in_one_pass_and_again_with_memory(recorded: Callable[[str], Recording], name: str) -> None:
    recording = recorded(name)
    predictor, features = recording.network.predictor, recording.features("A")
    drawings = (recording.masks("stroke", "point", "box"), recording.masks(None, "neg", None))
    tokens = predictor.sample(features, drawings)
    said = check_answer(recording, "multi3", predictor(features, ask_for_drawings(recording, tokens)))
    masks = best_masks(recording, said, tokens)
    recording.check("multi3.task_spatial.prev_mask", masks, LOGITS)
    again = predictor(features, ask_for_drawings(recording, tokens, MaskMemory(masks, torch.arange(3))))[-1]
    recording.check("multi3_memory_even_split.task_spatial.prev_mask", best_masks(recording, again, tokens), LOGITS)


def test_the_tokens_of_a_reference_region(recording: Recording) -> None:
    kind = "visual" if recording.network.predictor.wiring.composes else "spatial"
    tokens = recording.network.predictor.sample(recording.features("A"), (recording.masks("stroke"), recording.masks(None)))
    for level, rows in enumerate(tokens.levels):
        recording.check(f"refimg.src_{kind}_queries.{level}", rows[:, None], EMBEDDING)
    recording.check(f"refimg.{kind}_query_pos", tokens.pooled, EMBEDDING)


def test_a_reference_region_on_another_image_in_v0(recorded: Callable[[str], Recording]) -> None:
    recording = recorded("focaldw_v0")
    predictor = recording.network.predictor
    tokens = predictor.sample(recording.features("A"), (recording.masks("stroke"), recording.masks(None)))
    said = check_answer(recording, "refimg.on_B", predictor(recording.features("B"), ask_for_drawings(recording, tokens)), "B")
    recording.check("refimg.on_B.task_spatial.prev_mask", best_masks(recording, said, tokens, "B"), LOGITS)


def test_a_reference_region_on_another_image_in_the_demo(recorded: Callable[[str], Recording]) -> None:
    recording = recorded("focaldw_demo")
    predictor = recording.network.predictor
    tokens = predictor.sample(recording.features("A"), (recording.masks("stroke"), recording.masks(None)))
    said = check_answer(recording, "refimg", predictor(recording.features("B"), Ask(objects=1, reference=tokens)), "B")
    scores = said.mask_embedding @ tokens.pooled.T
    recording.check("refimg.match_logits", scores, LOGITS)
    assert int(scores.argmax()) == int(recording["refimg.matched_id"][0])


def test_a_stroke_together_with_a_phrase(recording: Recording) -> None:
    predictor, features = recording.network.predictor, recording.features("A")
    tokens = predictor.sample(features, (recording.masks("stroke"), recording.masks(None)))
    drawing = ask_for_drawings(recording, tokens)
    ask = Ask(objects=1, phrases=[recording.phrases().of(0)], drawn=tokens, spatial=drawing.spatial)
    check_answer(recording, "stroke_text", predictor(features, ask))
