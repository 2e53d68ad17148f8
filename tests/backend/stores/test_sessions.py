from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.stores import sessions
from backend.stores.database import Database
from backend.stores.sessions import Note, Notes, SessionStore
from backend.values.masks import Masks, MaskSet
from backend.values.session import Round, SessionKey
from prompts.kinds import PointPrompt, PromptSet, TextPrompt

KEY = SessionKey("1", "2", "ann@example.com", "image", 0, "cat")
FIRST, SECOND, THIRD = PointPrompt((1, 1)), PointPrompt((2, 2)), PointPrompt((3, 3), positive=False)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'deep' / 'store.sqlite'}"


@pytest.fixture
def store(url: str) -> SessionStore:
    return SessionStore(Database(url), keep_hours=1)


def round_of(*prompts: PointPrompt | TextPrompt, value: float = 1.0, rows: int = 1) -> Round:
    masks = MaskSet(
        masks=Masks.of_stack(np.ones((rows, 4, 4), np.bool_)),
        scores=np.ones(rows, np.float32),
        labels=(None,) * rows,
        low_res_logits=np.full((rows, 2, 3), value, np.float16),
        embeddings=np.zeros((rows, 1), np.float32),
    )
    return Round(PromptSet(prompts), masks)


def note(store: SessionStore, key: SessionKey, prompts: Sequence[Note], seen: Sequence[Note] = ()) -> None:
    store.remember(key, "engine-1", round_of(TextPrompt("cat")), Notes(key, prompts, seen))


def test_the_next_click_recalls_the_last_answer(store: SessionStore) -> None:
    store.remember(KEY, "engine-1", round_of(FIRST, value=0.5))
    memory = store.recall([KEY], "engine-1", PromptSet((FIRST, SECOND)))
    assert memory is not None
    assert memory.low_res_logits.shape == (2, 3)
    assert (memory.low_res_logits == 0.5).all()
    assert memory.space == "engine-1"


def test_the_same_prompts_again_recall_what_came_before_them(store: SessionStore) -> None:
    store.remember(KEY, "engine-1", round_of(FIRST, value=1))
    store.remember(KEY, "engine-1", round_of(FIRST, SECOND, value=2))
    memory = store.recall([KEY], "engine-1", PromptSet((FIRST, SECOND)))
    assert memory is not None
    assert (memory.low_res_logits == 1).all()


def test_undo_takes_the_round_of_the_removed_prompt_with_it(store: SessionStore) -> None:
    store.remember(KEY, "engine-1", round_of(FIRST, value=1))
    store.remember(KEY, "engine-1", round_of(FIRST, SECOND, value=2))
    memory = store.recall([KEY], "engine-1", PromptSet((FIRST, THIRD)))
    assert memory is not None
    assert (memory.low_res_logits == 1).all()
    assert store.recall([KEY], "engine-1", PromptSet((THIRD,))) is None


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
    store.remember(key, "engine-1", round_of(FIRST))
    note(store, key, [{"id": "a"}])
    another = replace(key, **other)  # type: ignore[arg-type]
    assert store.recall([another], "engine-1", PromptSet((FIRST, SECOND))) is None
    assert store.noted([another]) == []
    assert store.recall([key], "engine-1", PromptSet((FIRST, SECOND))) is not None
    assert store.noted([key]) == [{"id": "a"}]


def test_another_engine_recalls_nothing(store: SessionStore) -> None:
    store.remember(KEY, "engine-1", round_of(FIRST))
    assert store.recall([KEY], "engine-2", PromptSet((FIRST, SECOND))) is None


def test_rounds_survive_a_restart(store: SessionStore, url: str) -> None:
    store.remember(KEY, "engine-1", round_of(FIRST))
    again = SessionStore(Database(url), keep_hours=1)
    assert again.recall([KEY], "engine-1", PromptSet((FIRST, SECOND))) is not None


def test_old_rounds_are_forgotten(url: str) -> None:
    store = SessionStore(Database(url), keep_hours=-1)
    store.remember(KEY, "engine-1", round_of(FIRST))
    assert store.recall([KEY], "engine-1", PromptSet((FIRST, SECOND))) is None


def test_words_alone_and_several_objects_leave_nothing_to_refine(store: SessionStore) -> None:
    store.remember(KEY, "engine-1", round_of(TextPrompt("cat")))
    store.remember(KEY, "engine-1", round_of(FIRST, rows=2))
    assert store.recall([KEY], "engine-1", PromptSet((TextPrompt("cat"), FIRST, SECOND))) is None


def test_of_rounds_and_notes_only_so_many_are_kept(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_ROUNDS", 3)
    monkeypatch.setattr(sessions, "MOST_NOTES", 3)
    keys = [replace(KEY, task=str(number)) for number in range(5)]
    for key in keys:
        store.remember(key, "engine-1", round_of(FIRST))
        note(store, key, [{"id": "a"}])
    asked = PromptSet((FIRST, SECOND))
    assert [store.recall([key], "engine-1", asked) is not None for key in keys] == [False, False, True, True, True]
    assert [bool(store.noted([key])) for key in keys] == [False, False, True, True, True]


def test_notes_take_the_place_of_those_that_the_request_was_read_with(store: SessionStore) -> None:
    note(store, KEY, [{"id": "a"}, {"id": "b"}])
    note(store, KEY, [{"id": "c"}], seen=[{"id": "a"}, {"id": "b"}])
    assert store.noted([KEY]) == [{"id": "c"}]


def test_what_another_request_noted_meanwhile_stays(store: SessionStore) -> None:
    """Two quick clicks in two threads each read, added their own and wrote: the note of one was lost."""
    note(store, KEY, [{"id": "box"}])
    note(store, KEY, [{"id": "a"}], seen=[{"id": "box"}])
    note(store, KEY, [{"id": "b"}], seen=[{"id": "box"}])
    assert store.noted([KEY]) == [{"id": "b"}, {"id": "a"}]


@pytest.mark.slow
def test_notes_of_many_threads_are_all_there(store: SessionStore) -> None:
    def work(first: int) -> None:
        for number in range(first, 80, 8):
            note(store, KEY, [{"id": number}])

    threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found["id"] for found in store.noted([KEY])) == list(range(80))


def test_the_first_key_that_has_something_is_the_one_that_counts(store: SessionStore) -> None:
    other = replace(KEY, annotator="")
    store.remember(other, "engine-1", round_of(FIRST, value=1), Notes(other, [{"id": "old"}]))
    assert store.noted([KEY, other]) == [{"id": "old"}]
    store.remember(KEY, "engine-1", round_of(FIRST, value=2), Notes(KEY, [{"id": "new"}]))
    assert store.noted([KEY, other]) == [{"id": "new"}]
    memory = store.recall([KEY, other], "engine-1", PromptSet((FIRST, SECOND)))
    assert memory is not None
    assert (memory.low_res_logits == 2).all()
