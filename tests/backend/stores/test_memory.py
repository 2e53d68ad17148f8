"""The memory bank, on a real database file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.stores import memory
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from backend.values.session import Example
from tests.backend.pictures import disc

CAT = Example("1", "7", "70", "r", "/a.png", "Cat", disc(40, 60, 30, 20, 12))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.sqlite'}"


@pytest.fixture
def bank(url: str) -> MemoryBank:
    return MemoryBank(Database(url))


def regions(found: list[Example]) -> list[str]:
    return [example.region for example in found]


def test_what_was_accepted_comes_back_to_the_pixel_after_a_restart(bank: MemoryBank, url: str) -> None:
    bank.replace("1", "70", [CAT])
    (found,) = MemoryBank(Database(url)).recall("1", "Cat", 5)
    assert np.array_equal(found.mask, CAT.mask)
    assert replace(found, mask=CAT.mask) == CAT or (found.task, found.image_url, found.label) == ("7", "/a.png", "Cat")


def test_the_newest_come_first_and_labels_projects_and_mere_references_are_apart(bank: MemoryBank) -> None:
    bank.replace("1", "70", [CAT, replace(CAT, region="shown", label=None)])
    bank.replace("1", "71", [replace(CAT, region="newer"), replace(CAT, region="dog", label="Dog")])
    bank.replace("2", "70", [replace(CAT, region="elsewhere", project="2")])
    assert regions(bank.recall("1", "Cat", 5)) == ["newer", "r"]
    assert regions(bank.recall("1", "Cat", 1)) == ["newer"]
    assert regions(bank.recall("1", None, 5)) == ["shown"]
    assert regions(bank.recall("2", "Cat", 5)) == ["elsewhere"]
    assert bank.recall("3", "Cat", 5) == []


def test_an_updated_annotation_replaces_what_it_said_before(bank: MemoryBank) -> None:
    bank.replace("1", "70", [CAT, replace(CAT, region="second")])
    bank.replace("1", "70", [replace(CAT, region="second")])
    assert regions(bank.recall("1", "Cat", 5)) == ["second"]


def test_deleted_annotations_and_tasks_are_forgotten(bank: MemoryBank) -> None:
    for annotation, task in (("70", "7"), ("80", "8"), ("90", "9")):
        bank.replace("1", annotation, [replace(CAT, region=annotation, task=task, annotation=annotation)])
    bank.forget("2", annotations=["70"], tasks=["8"])
    assert len(bank.recall("1", "Cat", 5)) == 3
    bank.forget("1", annotations=["70"], tasks=["8"])
    assert regions(bank.recall("1", "Cat", 5)) == ["90"]


def test_of_each_label_only_so_many_are_kept(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_OF_A_LABEL", 3)
    for number in range(5):
        bank.replace("1", str(number), [replace(CAT, region=str(number))])
    bank.replace("1", "dogs", [replace(CAT, region="dog", label="Dog")])
    assert regions(bank.recall("1", "Cat", 10)) == ["4", "3", "2"]
    assert regions(bank.recall("1", "Dog", 10)) == ["dog"]


def test_of_all_examples_only_so_many_are_kept(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_EXAMPLES", 3)
    for number in range(5):
        bank.replace("1", str(number), [replace(CAT, region=str(number), label=str(number))])
    assert [len(bank.recall("1", str(number), 1)) for number in range(5)] == [0, 0, 1, 1, 1]
