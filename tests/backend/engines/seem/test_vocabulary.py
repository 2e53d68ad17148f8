"""The vocabulary: names as vectors in batches, and what a phrase scores among the trained names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from backend.engines.base import Engine
from backend.engines.device import VocabularyStore
from backend.engines.seem import inputs as vocabulary
from backend.engines.seem.inputs import (
    NAMES,
    PANOPTIC_NAMES,
    PLAIN,
    QUICK,
    STUFF,
    THINGS,
    TrainedVocabulary,
    VocabularyReader,
    plain_name,
)
from prompts.encoders.seem import SeemTextEncoder, load_open_clip

if TYPE_CHECKING:
    from conftest import Recording

RECORDED = ["person", "dog", "grass-merged", "sky-other-merged", "wall-stone"]


@pytest.fixture
def reader_of(engine_of: Callable[[str], Engine]) -> Callable[..., tuple[VocabularyReader, list[object]]]:
    """A reader of the small model's vocabulary, and a list that grows whenever the network runs."""
    space = engine_of("focaldw_v1").space

    def make(store: VocabularyStore | None) -> tuple[VocabularyReader, list[object]]:
        runs: list[object] = []
        known: SeemTextEncoder = space._text

        class Counting(SeemTextEncoder):
            def encode_text(self, phrases: object) -> torch.Tensor:
                runs.append(phrases)
                return known.encode_text(phrases)  # type: ignore[arg-type]

        return VocabularyReader(Counting(known._network, known._tokenize), store), runs

    return make


def test_the_rows_of_names_in_all_templates_are_those_of_seem(
    recorded: Callable[[str], Recording], reader_of: Callable[..., tuple[VocabularyReader, list[object]]]
) -> None:
    """SEEM's evaluation fills a name into 81: the bare name, and the 80 of CLIP's (Radford et al. 2021)."""
    templates = (*PLAIN, *(fill("{}") for fill in load_open_clip().OPENAI_IMAGENET_TEMPLATES))
    assert len(set(templates)) == 81
    with torch.inference_mode():
        rows = reader_of(None)[0].with_background([plain_name(name) for name in RECORDED], templates)
    recorded("focaldw_v1").check("text.class_embeddings_eval", rows, 1e-5)


def test_the_first_template_is_the_bare_name() -> None:
    assert PLAIN[0] == QUICK[0]
    assert all(template.format("dog").count("dog") == 1 for template in QUICK)


def test_a_row_on_disk_is_not_computed_again(
    tmp_path: Path, reader_of: Callable[..., tuple[VocabularyReader, list[object]]]
) -> None:
    store = VocabularyStore(tmp_path, "focaldw")
    row = reader_of(store)[0].read([("dog", "puppy")], QUICK)
    reader, runs = reader_of(store)
    torch.testing.assert_close(reader.read([("dog", "puppy")], QUICK), row)
    assert runs == []
    other, runs = reader_of(VocabularyStore(tmp_path, "another network"))
    other.read([("dog", "puppy")], QUICK)
    assert len(runs) == 1
    for phrases, templates in ((("dog", "puppy"), PLAIN), (("dog",), QUICK)):
        other, runs = reader_of(store)
        assert not torch.allclose(other.read([phrases], templates), row)
        assert len(runs) == 1


def test_a_broken_file_on_disk_is_replaced(
    tmp_path: Path, reader_of: Callable[..., tuple[VocabularyReader, list[object]]]
) -> None:
    store = VocabularyStore(tmp_path, "focaldw")
    row = reader_of(store)[0].read([("dog",)], PLAIN)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    torch.testing.assert_close(reader_of(store)[0].read([("dog",)], PLAIN), row)
    found = store.find(("dog",), PLAIN)
    assert found is not None
    torch.testing.assert_close(found, row[0])


def test_a_folder_that_cannot_be_written_costs_no_answer_and_is_reported_once(
    tmp_path: Path, reader_of: Callable[..., tuple[VocabularyReader, list[object]]], caplog: pytest.LogCaptureFixture
) -> None:
    """A home that is read-only, or a full disk, failed every question."""
    (tmp_path / "file").write_text("in the way")
    reader, _ = reader_of(VocabularyStore(tmp_path / "file", "focaldw"))
    plain, _ = reader_of(None)
    for name in ("dog", "cat"):
        torch.testing.assert_close(reader.read([(name,)], PLAIN), plain.read([(name,)], PLAIN))
    assert caplog.text.count("cannot be kept") == 1


def test_the_classes_of_training_are_cocos_133() -> None:
    assert (len(THINGS), len(STUFF), len(set(PANOPTIC_NAMES))) == (80, 53, 133)
    assert [plain_name(name) for name in ("sky-other-merged", "door-stuff", "wall-stone")] == ["sky", "door", "wall-stone"]


def test_a_name_in_memory_is_not_computed_again(
    reader_of: Callable[..., tuple[VocabularyReader, list[object]]],
) -> None:
    reader, runs = reader_of(None)
    for _ in range(3):
        reader.read([("dog",)], PLAIN)
    assert len(runs) == 1


def test_the_names_that_were_asked_for_last_stay_in_memory(
    reader_of: Callable[..., tuple[VocabularyReader, list[object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "MOST_ROWS", 2)
    reader, runs = reader_of(None)
    for name in ("dog", "cat", "dog", "cow", "dog"):
        reader.read([(name,)], PLAIN)
    assert runs == [["dog."], ["cat."], ["cow."]]


def test_missing_names_are_computed_together_and_known_ones_not_at_all(
    reader_of: Callable[..., tuple[VocabularyReader, list[object]]],
) -> None:
    reader, runs = reader_of(None)
    alone = reader.read([("dog",)], PLAIN)
    both = reader.read([("cat",), ("dog",), ("hot dog", "sausage")], PLAIN)
    assert runs == [["dog."], ["cat.", "hot dog.", "sausage."]]
    torch.testing.assert_close(both[1], alone[0])
    torch.testing.assert_close(both.norm(dim=1), torch.ones(3))


@pytest.fixture
def classes(engine_of: Callable[[str], Engine]) -> TrainedVocabulary:
    return engine_of("focaldw_v1").decoder._classes


@pytest.fixture
def means(engine_of: Callable[[str], Engine]) -> Callable[..., Tensor]:
    """The vectors of phrases."""
    return lambda *phrases: engine_of("focaldw_v1").space.embed_phrases(phrases)


def test_a_query_that_means_a_class_is_an_object_and_background_is_none(
    classes: TrainedVocabulary, means: Callable[..., Tensor]
) -> None:
    sure = classes.objectness(means("dog.", "umbrella.", "background."))
    assert (sure[:2] > 0.9).all()
    assert sure[2] < 0.5


def test_a_phrase_wins_where_its_meaning_is_shown_and_loses_where_another_class_is(
    classes: TrainedVocabulary, means: Callable[..., Tensor]
) -> None:
    phrase = means("the dog on the left")[0]
    chances = classes.chance(
        means("the dog on the left", "umbrella.", "background."), "the dog on the left", phrase, phrase[None][:0]
    )
    assert chances[0] > 0.9
    assert (chances[1:] < 0.1).all()


def test_a_class_does_not_compete_with_a_phrase_that_contains_its_word(
    classes: TrainedVocabulary, means: Callable[..., Tensor]
) -> None:
    shown, phrase = means("dog."), means("two dogs")[0]
    nothing = phrase[None][:0]
    with_word = classes.chance(shown, "two dogs", phrase, nothing)
    without = classes.chance(shown, "two animals", phrase, nothing)
    assert "dog" in NAMES
    assert with_word > without


def test_a_negative_phrase_takes_its_share(classes: TrainedVocabulary, means: Callable[..., Tensor]) -> None:
    shown, phrase = means("a red cup"), means("a red cup")[0]
    alone = classes.chance(shown, "a red cup", phrase, phrase[None][:0])
    against = classes.chance(shown, "a red cup", phrase, phrase[None])
    torch.testing.assert_close(against, alone / (1 + alone), atol=1e-3, rtol=0)
