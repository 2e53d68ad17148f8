"""Every detector finds the boxes that transformers' own processor makes of the same model's output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from backend.engines.catalogue import Placement
from backend.engines.sam import detectors
from backend.engines.sam.text_grounding import Boxes, Grounder
from backend.values.errors import SetupError
from prompts.geometry import Size
from tests.backend.engines import tiny_detectors
from tests.backend.engines.tiny_detectors import SIDE

CPU = Placement("cpu", "float32")
PHRASES = ["red cup", "dog"]
WRITERS: dict[str, Callable[[Path], Path]] = {
    "omdet": tiny_detectors.write_omdet,
    "owlv2": tiny_detectors.write_owlv2,
    "grounding_dino": tiny_detectors.write_grounding_dino,
    "mm_grounding_dino": tiny_detectors.write_mm_grounding_dino,
}


@pytest.fixture(autouse=True)
def _low_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models are sure of nothing."""
    for name in ("OMDET_THRESHOLD", "OWLV2_THRESHOLD", "GROUNDING_DINO_THRESHOLD"):
        monkeypatch.setattr(detectors, name, 0.001)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture
def folder_of(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    def find(name: str) -> Path:
        if name not in folders:
            folders[name] = WRITERS[name](tmp_path_factory.mktemp(name))
        return folders[name]

    return find


@pytest.fixture(scope="module")
def grounders() -> dict[str, Grounder]:
    return {}


@pytest.fixture
def grounder_of(grounders: dict[str, Grounder], folder_of: Callable[[str], Path]) -> Callable[[str], Grounder]:
    """Each is loaded once, and changed by nobody."""

    def find(name: str) -> Grounder:
        if name not in grounders:
            grounders[name] = detectors.load_detector(folder_of(name), CPU)
        return grounders[name]

    return find


def picture(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8))


def detect(grounder: Grounder, pixels: torch.Tensor, phrases: list[str]) -> Boxes:
    return grounder.detect({"pixels": pixels}, Size(pixels.shape[0], pixels.shape[1]), phrases)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("shape", [(64, 64), (30, 90), (1, 7)])
def test_boxes_lie_on_the_image_and_bear_the_phrases(
    name: str, shape: tuple[int, int], grounder_of: Callable[[str], Grounder]
) -> None:
    found = detect(grounder_of(name), picture(*shape), PHRASES)
    assert found.xyxy.shape == (len(found.scores), 4)
    assert len(found.phrases) == len(found.scores)
    assert set(found.phrases) <= set(PHRASES)
    assert ((found.scores > 0) & (found.scores <= 1)).all()
    assert (found.xyxy >= 0).all()
    assert (found.xyxy[:, [0, 2]] <= shape[1]).all()
    assert (found.xyxy[:, [1, 3]] <= shape[0]).all()
    assert (found.xyxy[:, 2:] - found.xyxy[:, :2] >= 1).all()


@pytest.mark.parametrize("name", WRITERS)
def test_no_phrases_are_no_boxes_and_the_same_question_has_the_same_answer(
    name: str, grounder_of: Callable[[str], Grounder]
) -> None:
    grounder = grounder_of(name)
    assert len(detect(grounder, picture(64, 64), []).scores) == 0
    first, second = (detect(grounder, picture(64, 64), PHRASES) for _ in range(2))
    assert np.array_equal(first.xyxy, second.xyxy)
    assert first.phrases == second.phrases


def best(result: dict[str, Any]) -> tuple[list[float], float]:
    """The surest box and its score."""
    row = int(result["scores"].argmax())
    return result["boxes"][row].tolist(), float(result["scores"][row])


@pytest.mark.slow
@torch.inference_mode()
def test_omdet_finds_what_its_processor_finds(folder_of: Callable[[str], Path]) -> None:
    import transformers as hf

    folder, pixels = folder_of("omdet"), picture(30, 90)
    images = hf.DetrImageProcessor(size={"height": SIDE, "width": SIDE}, do_pad=False)
    processor = hf.OmDetTurboProcessor(images, hf.AutoTokenizer.from_pretrained(folder))
    inputs = processor(images=pixels.numpy(), text=PHRASES, return_tensors="pt")
    inputs.pop("pixel_mask", None)
    output = hf.OmDetTurboForObjectDetection.from_pretrained(folder).eval()(**inputs)
    own = output.decoder_class_logits[0, :, : len(PHRASES)].sigmoid().amax(dim=1).numpy()
    middle, half = output.decoder_coord_logits[0, :, :2].numpy(), output.decoder_coord_logits[0, :, 2:].numpy() / 2
    boxes = np.clip(np.concatenate([middle - half, middle + half], axis=1) * [90, 30, 90, 30], 0, [90, 30, 90, 30])
    found = detect(detectors.load_detector(folder, CPU), pixels, PHRASES)
    for box, score in zip(found.xyxy, found.scores, strict=True):
        row = int(np.abs(boxes - box).sum(axis=1).argmin())
        assert score == pytest.approx(float(own[row]), abs=1e-4)
        assert np.allclose(box, boxes[row], atol=0.05)
    visible = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1) & (own > detectors.OMDET_THRESHOLD)
    assert bool(visible.any()) == bool(len(found.scores))


@torch.inference_mode()
@pytest.mark.parametrize("name", ["grounding_dino", "mm_grounding_dino"])
def test_grounding_dino_finds_what_its_processor_finds(name: str, folder_of: Callable[[str], Path]) -> None:
    import transformers as hf

    folder, pixels = folder_of(name), picture(40, 60)
    images = hf.GroundingDinoImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE})
    processor = hf.GroundingDinoProcessor(images, hf.AutoTokenizer.from_pretrained(folder))
    inputs = processor(images=pixels.numpy(), text="dog.", return_tensors="pt")
    model_class = hf.MMGroundingDinoForObjectDetection if name.startswith("mm") else hf.GroundingDinoForObjectDetection
    model = model_class.from_pretrained(folder).eval()
    output = model(**inputs)
    own = output.logits[0].sigmoid()[:, 1:4].amax(dim=1).numpy()
    (result,) = processor.post_process_grounded_object_detection(output, inputs["input_ids"], -1.0, 0.0, [(40, 60)])
    boxes = np.clip(result["boxes"].numpy(), 0, [60, 40, 60, 40])
    visible = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
    grounder = detectors.GroundingDino(model, hf.AutoTokenizer.from_pretrained(folder), SIDE, 2 * SIDE)
    found = detect(grounder, pixels, ["dog"])
    for box, score in zip(found.xyxy, found.scores, strict=True):
        row = int(np.abs(boxes - box).sum(axis=1).argmin())
        assert visible[row]
        assert score == pytest.approx(float(own[row]), abs=1e-4)
        assert np.allclose(box, boxes[row], atol=0.05)
    assert bool(visible.any()) == bool(len(found.scores))


@torch.inference_mode()
def test_owlv2_finds_what_its_processor_finds(folder_of: Callable[[str], Path]) -> None:
    import transformers as hf

    folder, pixels = folder_of("owlv2"), picture(SIDE, SIDE)
    grounder = detectors.load_detector(folder, CPU)
    tokens = hf.AutoTokenizer.from_pretrained(folder)(PHRASES, padding="max_length", max_length=16, return_tensors="pt")
    images = hf.Owlv2ImageProcessor(size={"height": SIDE, "width": SIDE})
    values = images(pixels.numpy(), return_tensors="pt")["pixel_values"]
    output = hf.Owlv2ForObjectDetection.from_pretrained(folder).eval()(pixel_values=values, **tokens)
    (result,) = images.post_process_object_detection(output, 0.0, [(SIDE, SIDE)])
    box, score = best(result)
    found = detect(grounder, pixels, PHRASES)
    row = int(found.scores.argmax())
    assert found.scores[row] == pytest.approx(score, abs=1e-3)
    assert np.allclose(found.xyxy[row], np.clip(box, 0, SIDE), atol=0.05)


def test_owlv2_s_boxes_are_relative_to_the_longer_side(folder_of: Callable[[str], Path]) -> None:
    """Its images are padded to a square at the right and the bottom."""
    grounder = detectors.load_detector(folder_of("owlv2"), CPU)
    model = grounder._model  # type: ignore[attr-defined]

    def one_box(**_: object) -> SimpleNamespace:
        return SimpleNamespace(pred_boxes=torch.tensor([[[0.5, 0.25, 0.2, 0.1]]]), logits=torch.tensor([[[5.0, -9.0]]]))

    one_box.config, one_box.device = model.config, model.device  # type: ignore[attr-defined]
    grounder._model = one_box  # type: ignore[attr-defined]
    assert np.allclose(detect(grounder, picture(40, 60), PHRASES).xyxy, [[24, 12, 36, 18]], atol=1e-4)
    assert np.allclose(detect(grounder, picture(60, 40), PHRASES).xyxy, [[24, 12, 36, 18]], atol=1e-4)


def test_the_tokens_of_a_text_belong_to_their_phrases(grounder_of: Callable[[str], Grounder]) -> None:
    grounder = grounder_of("grounding_dino")
    read, owners = grounder._tokens(["Red cup", "dog"])  # type: ignore[attr-defined]
    words = grounder._tokenizer.convert_ids_to_tokens(read["input_ids"][0])  # type: ignore[attr-defined]
    spelt = ["".join(word.removeprefix("##") for word, mine in zip(words, owner, strict=True) if mine) for owner in owners]
    assert spelt == ["redcup", "dog"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grounding_dino", "mm_grounding_dino"])
def test_more_phrases_than_fit_into_one_text_are_read_in_several(name: str, grounder_of: Callable[[str], Grounder]) -> None:
    """The network of this test reads 64 tokens; a vocabulary that was longer failed, and so did a phrase without a token."""
    grounder = grounder_of(name)
    phrases = ["red cup", *(f"{letter}{letter}{letter}" for letter in "abcdefghijklmnopqrs"), "...", "x " * 70]
    texts = grounder._texts(phrases)  # type: ignore[attr-defined]
    assert [phrase for text in texts for phrase in text] == phrases
    assert [len(grounder._tokens(text)[0]["input_ids"][0]) <= 64 for text in texts] == [True] * len(texts)  # type: ignore[attr-defined]
    assert len(texts) == 3
    together = detect(grounder, picture(64, 64), phrases)
    alone = [detect(grounder, picture(64, 64), text) for text in texts]
    assert len(together.scores) == min(sum(len(one.scores) for one in alone), detectors.MOST_BOXES)
    assert (np.diff(together.scores) <= 0).all()
    assert together.scores[0] == max(one.scores.max() for one in alone if len(one.scores))


def test_of_more_boxes_than_can_be_used_the_surest_stay_whatever_their_phrase_and_place() -> None:
    """Those of the first phrases stayed, and of all the first of the network's rows: a sure box near the end was lost."""
    count, most = 900, detectors.MOST_BOXES
    centred = torch.tensor([[(k % 30 + 0.5) / 30, (k // 30 + 0.5) / 30, 0.02, 0.02] for k in range(count)])
    scores = torch.full((count, 2), 0.0)
    scores[:, 0] = 0.4
    scores[-5:, 1] = torch.tensor([0.5, 0.9, 0.6, 0.7, 0.8])
    found = detectors.boxes_of(centred, scores, ["a", "b"], 0.3, (300, 300))
    assert len(found.scores) == most
    assert found.phrases == ("b",) * 5 + ("a",) * (most - 5)
    assert np.allclose(found.scores[:5], [0.9, 0.8, 0.7, 0.6, 0.5])


def test_of_two_boxes_of_one_phrase_at_the_same_place_the_better_stays() -> None:
    centred = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.52, 0.5, 0.4, 0.4], [0.2, 0.2, 0.1, 0.1]])
    scores = torch.tensor([[0.5, 0.0], [0.9, 0.0], [0.0, 0.7]])
    found = detectors.boxes_of(centred, scores, ["a", "b"], 0.3, (100, 50))
    assert found.phrases == ("a", "b")
    assert np.allclose(found.xyxy, [[32, 15, 72, 35], [15, 7.5, 25, 12.5]], atol=1e-4)
    assert np.allclose(found.scores, [0.9, 0.7])


def test_a_model_that_is_no_detector_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SetupError, match="known detectors are omdet-turbo"):
        detectors.load_detector(tmp_path, CPU)
