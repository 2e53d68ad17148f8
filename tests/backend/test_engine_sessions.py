"""A labelling session over the HTTP door, on tiny models of every production family: text, clicks, a reference, then labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from backend.app import create_app
from backend.assemble import Parts, assemble
from backend.values.settings import Settings
from prompts.kinds import PromptSet, ReferencePrompt
from tests.backend.annotator import CONFIG as CONFIG_WITH_REFERENCES
from tests.backend.engines import tiny_bundles
from tests.backend.pictures import Picture, two_red_discs, two_shapes
from tests.backend.test_app import body, key_point, predict, task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # torchvision 0.28, when it is imported
]


class Asked:
    """What the engine was asked on the way, while it answers as ever."""

    def __init__(self, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts: list[PromptSet] = []
        self.references: list[int] = []
        decoder = parts.engine.segmenter().engine.decoder
        decode = decoder.decode

        def watched(features: Any, prompts: PromptSet, tokens: Any, memory: Any) -> Any:
            self.prompts.append(prompts)
            self.references.append(len(tokens.references))
            return decode(features, prompts, tokens, memory)

        monkeypatch.setattr(decoder, "decode", watched)


@pytest.fixture(params=tiny_bundles.FAMILIES)
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> Parts:
    bundle = tiny_bundles.write_bundle(request.param, tmp_path / "bundle")
    home = tmp_path / "home"
    return assemble(Settings(engine=request.param, weights=bundle, home=home, local_roots=str(tmp_path), device="cpu"))


@pytest.fixture
def client(parts: Parts) -> Iterator[TestClient]:
    with TestClient(create_app(parts)) as client:
        yield client


def save(picture: Picture, path: Path) -> str:
    Image.fromarray(picture.image).save(path)
    return str(path)


def typed(line: str) -> dict[str, Any]:
    return {"type": "textarea", "from_name": "prompt", "to_name": "image", "id": "t", "value": {"text": [line]}}


def example_box() -> dict[str, Any]:
    """A smart rectangle "like this" around the blue square of the two shapes."""
    value = {"x": 62.5, "y": 31.25, "width": 25, "height": 37.5, "rotation": 0, "rectanglelabels": ["like this"]}
    sides = {"original_width": 120, "original_height": 80, "image_rotation": 0}
    return {**sides, "value": value, "id": "box", "from_name": "rect", "to_name": "image", "type": "rectanglelabels"}


def failures(answer: dict[str, Any]) -> list[str]:
    """The messages of an answer to the annotator, but for those that networks which were never trained find nothing."""
    messages = [region["value"]["text"][0] for region in answer["result"] if region["type"] == "textarea"]
    return [message for message in messages if "nothing found" not in message]


def test_text_then_clicks_then_a_reference_then_labels(
    parts: Parts, client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = save(two_shapes(), tmp_path / "here.png"), save(two_red_discs(), tmp_path / "there.png")
    asked = Asked(parts, monkeypatch)

    def ask(image: str, number: int, *context: dict[str, Any]) -> dict[str, Any]:
        wanted = {"result": list(context)} if context else None
        (answer,) = predict(client, body(task(image, number), context=wanted, config=CONFIG_WITH_REFERENCES))
        return answer

    first, second = key_point(70, 50), key_point(20, 20, positive=False, number=1)
    said = ask(here, 1, typed("red disc, not the square"))
    clicked, corrected = ask(here, 1, first), ask(here, 1, first, second)
    like_here, like_there = ask(here, 1, example_box()), ask(there, 2, typed("like this"))
    labelled = ask(there, 2)

    answers = (said, clicked, corrected, like_here, like_there, labelled)
    assert {answer["model_version"] for answer in answers} == {parts.engine.version}
    assert all(0 <= answer["score"] <= 1 for answer in answers)
    assert [failures(answer) for answer in answers] == [[]] * len(answers)
    assert [len(answer["result"]) for answer in (clicked, corrected)] == [1, 1]
    assert asked.references == [0, 0, 0, 1, 1, 0]
    (reference,) = asked.prompts[4].of(ReferencePrompt)
    assert np.array_equal(reference.image.pixels, two_shapes().image)
    assert np.array_equal(reference.mask, two_shapes().shapes["blue square"])
    assert parts.engine.segmenter()._cache.encoded == 2
