from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.stores import sessions
from backend.stores.sessions import SessionStore, open_database
from backend.values.masks import MaskSet
from backend.values.session import Round, SessionKey
from prompts.kinds import PointPrompt, PromptSet, TextPrompt

KEY = SessionKey("1", "2", "ann@example.com", "image", 0, "cat")
FIRST, SECOND, THIRD = PointPrompt((1, 1)), PointPrompt((2, 2)), PointPrompt((3, 3), positive=False)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'deep' / 'store.sqlite'}"


@pytest.fixture
def store(url: str) -> SessionStore:
    return SessionStore(open_database(url), keep_hours=1)


def round_of(*prompts: PointPrompt | TextPrompt, value: float = 1.0, rows: int = 1) -> Round:
    masks = MaskSet(
        masks=np.ones((rows, 4, 4), np.bool_),
        scores=np.ones(rows, np.float32),
        labels=(None,) * rows,
        low_res_logits=np.full((rows, 2, 3), value, np.float16),
        embeddings=np.zeros((rows, 1), np.float32),
    )
    return Round(PromptSet(prompts), masks)


def test_the_next_click_recalls_the_last_answer(store: SessionStore) -> None:
    store.append(KEY, "engine-1", round_of(FIRST, value=0.5))
    memory = store.recall(KEY, "engine-1", PromptSet((FIRST, SECOND)))
    assert memory is not None
    assert memory.low_res_logits.shape == (2, 3)
    assert (memory.low_res_logits == 0.5).all()
    assert memory.space == "engine-1"


def test_the_same_prompts_again_recall_what_came_before_them(store: SessionStore) -> None:
    store.append(KEY, "engine-1", round_of(FIRST, value=1))
    store.append(KEY, "engine-1", round_of(FIRST, SECOND, value=2))
    memory = store.recall(KEY, "engine-1", PromptSet((FIRST, SECOND)))
    assert memory is not None
    assert (memory.low_res_logits == 1).all()


def test_undo_takes_the_round_of_the_removed_prompt_with_it(store: SessionStore) -> None:
    store.append(KEY, "engine-1", round_of(FIRST, value=1))
    store.append(KEY, "engine-1", round_of(FIRST, SECOND, value=2))
    memory = store.recall(KEY, "engine-1", PromptSet((FIRST, THIRD)))
    assert memory is not None
    assert (memory.low_res_logits == 1).all()
    assert store.recall(KEY, "engine-1", PromptSet((THIRD,))) is None


@pytest.mark.parametrize(
    "other",
    [
        {"project": "9"},
        {"task": "9"},
        {"annotator": "bob"},
        {"image": "right"},
        {"item": 1},
        {"label": "dog"},
        {"label": "x" * 999},
    ],
)
@pytest.mark.parametrize("length", [1, 400])
def test_nothing_is_shared_between_projects_tasks_annotators_images_items_and_labels(
    store: SessionStore, other: dict[str, object], length: int
) -> None:
    key = replace(KEY, task="2" * length)
    store.append(key, "engine-1", round_of(FIRST))
    store.note(key, [{"id": "a"}])
    another = replace(key, **other)  # type: ignore[arg-type]
    assert store.recall(another, "engine-1", PromptSet((FIRST, SECOND))) is None
    assert store.noted(another) == []
    assert store.recall(key, "engine-1", PromptSet((FIRST, SECOND))) is not None
    assert store.noted(key) == [{"id": "a"}]


def test_another_engine_recalls_nothing(store: SessionStore) -> None:
    store.append(KEY, "engine-1", round_of(FIRST))
    assert store.recall(KEY, "engine-2", PromptSet((FIRST, SECOND))) is None


def test_rounds_survive_a_restart(store: SessionStore, url: str) -> None:
    store.append(KEY, "engine-1", round_of(FIRST))
    again = SessionStore(open_database(url), keep_hours=1)
    assert again.recall(KEY, "engine-1", PromptSet((FIRST, SECOND))) is not None


def test_old_rounds_are_forgotten(url: str) -> None:
    store = SessionStore(open_database(url), keep_hours=-1)
    store.append(KEY, "engine-1", round_of(FIRST))
    assert store.recall(KEY, "engine-1", PromptSet((FIRST, SECOND))) is None


def test_words_alone_and_several_objects_leave_nothing_to_refine(store: SessionStore) -> None:
    store.append(KEY, "engine-1", round_of(TextPrompt("cat")))
    store.append(KEY, "engine-1", round_of(FIRST, rows=2))
    assert store.recall(KEY, "engine-1", PromptSet((TextPrompt("cat"), FIRST, SECOND))) is None


def test_of_rounds_and_notes_only_so_many_are_kept(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_ROUNDS", 3)
    monkeypatch.setattr(sessions, "MOST_NOTES", 3)
    keys = [replace(KEY, task=str(number)) for number in range(5)]
    for key in keys:
        store.append(key, "engine-1", round_of(FIRST))
        store.note(key, [{"id": "a"}])
    asked = PromptSet((FIRST, SECOND))
    assert [store.recall(key, "engine-1", asked) is not None for key in keys] == [False, False, True, True, True]
    assert [bool(store.noted(key)) for key in keys] == [False, False, True, True, True]


def test_a_note_takes_the_place_of_the_one_before(store: SessionStore) -> None:
    store.note(KEY, [{"id": "a"}, {"id": "b"}])
    store.note(KEY, [{"id": "c"}])
    assert store.noted(KEY) == [{"id": "c"}]
