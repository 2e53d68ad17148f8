"""The memory bank, on a real database file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.stores import memory
from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from backend.stores.rows import row_of
from backend.values.masks import RunLengths
from backend.values.session import Example, Submission, Verdict
from tests.backend.pictures import disc

CAT = Example("1", "7", "70", "r", "/a.png", "Cat", RunLengths.of(disc(40, 60, 30, 20, 12)))


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
    assert (found.task, found.image_url, found.label, found.verdict) == ("7", "/a.png", "Cat", Verdict.DRAWN)


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


def test_of_all_examples_only_so_many_are_kept(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_EXAMPLES", 3)
    for number in range(5):
        bank.replace("1", str(number), [replace(CAT, region=str(number), label=str(number))])
    assert [len(bank.recall("1", str(number), 1)) for number in range(5)] == [0, 0, 1, 1, 1]


def told(annotation: str, made_at: float, *shown: Example, task: str = "7") -> Submission:
    stamped = tuple(replace(each, annotation=annotation, task=task, made_at=made_at) for each in shown)
    return Submission("1", task, annotation, stamped, "ann", "engine-1", made_at, 12.5)


def test_an_older_state_that_is_told_late_does_not_replace_a_newer_one(bank: MemoryBank) -> None:
    assert bank.submit(told("70", 2.0, replace(CAT, region="new")))
    assert not bank.submit(told("70", 1.0, replace(CAT, region="old")))
    assert regions(bank.recall("1", "Cat", 5)) == ["new"]


def test_what_is_told_of_a_deleted_annotation_or_task_is_not_taken(bank: MemoryBank) -> None:
    bank.forget("1", annotations=["70"], tasks=["8"])
    assert not bank.submit(told("70", 9.0, CAT))
    assert not bank.submit(told("80", 9.0, CAT, task="8"))
    assert bank.recall("1", "Cat", 5) == []
    bank.find_again("1", ["70"], ["8"])
    assert bank.submit(told("70", 9.0, CAT))


def test_rejected_regions_are_examples_of_what_a_label_is_not(bank: MemoryBank) -> None:
    bank.submit(told("70", 1.0, CAT, replace(CAT, region="no", verdict=Verdict.REJECTED, engine="engine-1", iou=0.0)))
    assert regions(bank.recall("1", "Cat", 5)) == ["r"]
    (rejected,) = bank.rejected("1", "Cat", 5)
    assert (rejected.region, rejected.verdict, rejected.engine, rejected.made_at) == ("no", Verdict.REJECTED, "engine-1", 1.0)
    assert bank.labels("1") == {"Cat": 1}


def test_changes_are_counted_only_when_something_changed(bank: MemoryBank) -> None:
    assert bank.changes("1", ["Cat"])["Cat"] == 0
    bank.submit(told("70", 1.0, CAT))
    after = bank.changes("1", ["Cat"])["Cat"]
    bank.submit(told("70", 1.0, CAT))
    assert bank.changes("1", ["Cat"])["Cat"] == after > 0
    bank.submit(told("70", 2.0, CAT))
    again = bank.changes("1", ["Cat"])["Cat"]
    assert again != after
    bank.forget("1", annotations=["70"])
    assert bank.changes("1", ["Cat"])["Cat"] != again


def test_a_change_is_one_of_the_labels_that_changed_alone(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    dog = replace(CAT, region="dog", label="Dog")
    bank.submit(told("70", 1.0, CAT))
    bank.submit(told("71", 1.0, dog))
    before = bank.changes("1", ["Cat", "Dog", "Eel"])
    assert before["Eel"] == 0
    for change in (
        lambda: bank.submit(told("71", 2.0, dog)),
        lambda: bank.forget("1", annotations=["71"]),
        lambda: bank.submit(told("72", 2.0, dog)),
    ):
        change()
        after = bank.changes("1", ["Cat", "Dog"])
        assert (after["Cat"], after["Dog"] > before["Dog"]) == (before["Cat"], True)
        before = after
    monkeypatch.setattr(memory, "MOST_EXAMPLES", 2)
    bank.submit(told("73", 3.0, replace(CAT, region="eel", label="Eel")))
    assert bank.changes("1", ["Cat"])["Cat"] != before["Cat"], "the oldest region was one of it"


def test_an_annotation_that_label_studio_has_no_more_is_forgotten_and_drafts_stay(bank: MemoryBank) -> None:
    bank.submit(told("70", 1.0, CAT))
    bank.submit(told("71", 1.0, replace(CAT, region="kept")))
    bank.replace("1", "draft 5", [replace(CAT, annotation="draft 5", region="shown", label=None)])
    assert bank.keep_only("1", ["71"]) == 1
    assert (regions(bank.recall("1", "Cat", 5)), regions(bank.recall("1", None, 5))) == (["kept"], ["shown"])


def test_masks_are_coded_while_others_can_write(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of 7 kB about 30 boxes of 81 megapixels once held the database for seconds, in which no click was remembered."""
    coded = []

    def code(example: Example) -> dict[str, Any]:
        bank.replace("2", "other", ())  # would wait for itself
        coded.append(example.region)
        return row_of(example)

    monkeypatch.setattr(bank._database, "_wait_s", 0.1)
    monkeypatch.setattr(memory, "row_of", code)
    bank.replace("1", "draft", [CAT])
    bank.submit(Submission("1", "7", "70", (CAT,)))
    assert coded == ["r", "r"]
