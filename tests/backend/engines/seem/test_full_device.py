"""SEEM on a full device, played by one that refuses: fewer phrases at a time, then the CPU, with the same answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from backend.engines.base import Engine
from backend.engines.seem.engine import SeemDecoder
from backend.engines.seem.inputs import SeemImage, SeemNetwork
from backend.engines.seem.space import SeemTokens, Sight
from backend.values.masks import MaskSet
from prompts.encoders.seem import SeemTextEncoder
from prompts.kinds import BoxPrompt, KeyedImage, Prompt, PromptSet, ReferencePrompt, TextPrompt

ELSEWHERE, CPU = torch.device("meta"), torch.device("cpu")
BOX = BoxPrompt((30.0, 20.0, 70.0, 50.0))
WORDS = [TextPrompt(phrase) for phrase in ("dog", "sky", "red umbrella", "person", "grass")]
Ask = Callable[..., MaskSet]


class FullFor:
    """Makes the owner of a network be out of memory until it has moved to the CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type) -> None:
        self.moved: list[torch.device] = []
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(owner, "device", property(lambda _: self.moved[-1] if self.moved else ELSEWHERE))
        monkeypatch.setattr(owner, "to", lambda _, device: self.moved.append(device))

    def guard(self, holder: Any, name: str) -> None:
        real = getattr(holder, name)

        def guarded(*arguments: Any, **named: Any) -> Any:
            if not self.moved:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(*arguments, **named)

        self._monkeypatch.setattr(holder, name, guarded)


@pytest.fixture
def engine(engine_of: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = engine_of("focaldw_v1")
    monkeypatch.setattr(engine.decoder._answering._chunks, "most", 8)  # shrinks for good
    engine.space._text._recall.cache_clear()
    return engine


def equal(found: MaskSet, truth: MaskSet) -> bool:
    return np.array_equal(found.masks, truth.masks) and np.allclose(found.scores, truth.scores, atol=1e-5)


def test_an_image_that_does_not_fit_is_encoded_on_the_cpu_and_so_are_those_after_it(
    engine: Engine, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (truth,) = engine.decoder.encode_images([photo])
    full = FullFor(monkeypatch, SeemDecoder)
    full.guard(engine.decoder._network, "encode")
    for features in engine.decoder.encode_images([photo, photo]):
        assert torch.equal(features.grid, truth.grid)
    assert full.moved == [CPU]
    assert "SeemDecoder: out of memory on the device meta; going on with the CPU, which is slower" in caplog.text


PROMPTS: dict[str, list[Prompt]] = {"a drawing": [BOX], "words": list(WORDS), "nothing": []}


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("where", ["the network", "the features"])
def test_a_question_that_does_not_fit_is_answered_on_the_cpu(
    engine: Engine, photo: np.ndarray, ask: Ask, monkeypatch: pytest.MonkeyPatch, kind: str, where: str
) -> None:
    """Where the features are too much, the network was asked for its device before, and has to be asked again."""
    truth = ask(engine, photo, *PROMPTS[kind])
    said, (features,) = PromptSet(tuple(PROMPTS[kind])), engine.decoder.encode_images([photo])
    tokens = engine.space.embed(said, features)
    full = FullFor(monkeypatch, SeemDecoder if where == "the network" else SeemNetwork)
    if where == "the network":
        for name in ("forward", "sample", "class_logits"):
            full.guard(engine.decoder._network.predictor, name)
    else:
        full.guard(SeemImage, "unpack")
    followed: list[torch.device] = []
    monkeypatch.setattr(SeemTokens, "on", lambda tokens, device: followed.append(device) or tokens)
    assert equal(engine.decoder.decode(features, said, tokens, None), truth)
    assert full.moved == [CPU]
    assert followed[-1:] == [CPU]


def test_as_many_phrases_as_fit_are_asked_for_together(
    engine: Engine, photo: np.ndarray, ask: Ask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    truth = ask(engine, photo, *WORDS)
    predictor, tried = engine.decoder._network.predictor, []
    real = predictor.forward

    def cramped(pixels: Any, asked: Any) -> Any:
        tried.append(len(asked.phrases))
        if len(asked.phrases) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(pixels, asked)

    monkeypatch.setattr(predictor, "forward", cramped)
    for _ in range(2):
        assert equal(ask(engine, photo, *WORDS), truth)
    assert [number for number in tried if number] == [5, 2, 2, 1, 2, 2, 1]
    assert "out of memory with 5 at a time; going on with 2" in caplog.text


def test_words_and_reference_regions_are_read_on_the_cpu_when_they_do_not_fit(
    engine: Engine, photo: np.ndarray, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = np.zeros(photo.shape[:2], np.bool_)
    region[20:50, 30:70] = True
    said = [TextPrompt("dog"), ReferencePrompt(KeyedImage.of(photo), region)]
    truth = ask(engine, photo, *said)
    engine.space._text._recall.cache_clear()
    reading, looking = FullFor(monkeypatch, SeemTextEncoder), FullFor(monkeypatch, Sight)
    reading.guard(engine.space._text._network, "forward")
    looking.guard(SeemImage, "unpack")
    assert equal(ask(engine, photo, *said), truth)
    assert (reading.moved, looking.moved) == ([CPU], [CPU])


def test_tokens_that_were_read_elsewhere_follow_the_decoder(engine: Engine, photo: np.ndarray) -> None:
    here = ReferencePrompt(KeyedImage.of(photo), np.ones(photo.shape[:2], np.bool_))
    said = PromptSet((TextPrompt("dog"), here, ReferencePrompt(KeyedImage.of(photo), here.mask, positive=False)))
    (features,) = engine.decoder.encode_images([photo])
    moved = engine.space.read(engine.space.embed(said, features, [features, features])).on(ELSEWHERE)
    for tokens in (moved.read, moved.shown, moved.negative_shown):
        values = [getattr(tokens, name) for name in tokens.__slots__]
        flat = [each for value in values for each in (value if isinstance(value, tuple) else (value,))]
        assert {each.device for each in flat} == {ELSEWHERE}


def test_a_full_cpu_is_an_error(engine: Engine, photo: np.ndarray, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    (features,) = engine.decoder.encode_images([photo])
    said = PromptSet((WORDS[0],))
    tokens = engine.space.embed(said, features)

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(engine.decoder._network.predictor, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        engine.decoder.decode(features, said, tokens, None)
