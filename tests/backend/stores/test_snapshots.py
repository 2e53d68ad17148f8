"""Versions of a memory: what was frozen stays as it was, until something of it is deleted in Label Studio."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.stores.database import Database
from backend.stores.memory import MemoryBank
from backend.stores.snapshots import Snapshots
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from backend.values.session import Verdict
from tests.backend.pictures import disc
from tests.backend.stores.test_memory import CAT, regions, told

OTHER = RunLengths.of(disc(40, 60, 20, 20, 9))


@pytest.fixture
def stores(tmp_path: Path) -> tuple[MemoryBank, Snapshots]:
    database = Database(f"sqlite:///{tmp_path / 'store.sqlite'}")
    return MemoryBank(database), Snapshots(database)


def test_a_snapshot_stays_as_it_was_when_the_memory_goes_on(stores: tuple[MemoryBank, Snapshots]) -> None:
    bank, snapshots = stores
    bank.submit(told("70", 1.0, CAT))
    bank.submit(told("71", 2.0, replace(CAT, region="no", verdict=Verdict.REJECTED)))
    assert snapshots.freeze("1") == snapshots.get("1", 1)
    bank.submit(told("70", 3.0, replace(CAT, runs=OTHER), replace(CAT, region="more")))
    bank.submit(told("71", 4.0))
    (frozen,) = bank.recall("1", "Cat", 5, snapshot=1)
    assert np.array_equal(frozen.mask, CAT.mask)
    assert regions(bank.rejected("1", "Cat", 5, snapshot=1)) == ["no"]
    assert regions(bank.recall("1", "Cat", 5)) == ["more", "r"]
    assert bank.rejected("1", "Cat", 5) == []
    assert (snapshots.get("1", 1).examples, snapshots.get("1", 1).name) == (2, "memory@1")


def test_a_memory_that_has_not_changed_has_no_new_version_and_an_empty_one_has_none(
    stores: tuple[MemoryBank, Snapshots],
) -> None:
    bank, snapshots = stores
    assert snapshots.freeze("1") is None
    numbers = []
    for made_at in (1.0, 1.0, 2.0):
        bank.submit(told("70", made_at, CAT))
        numbers += [found.n for found in (snapshots.freeze("1"), snapshots.freeze("1")) if found]
    assert numbers == [1, 1, 1, 1, 2, 2]


def test_a_snapshot_from_which_something_was_deleted_is_withdrawn_and_the_next_one_lacks_it(
    stores: tuple[MemoryBank, Snapshots],
) -> None:
    bank, snapshots = stores
    bank.submit(told("70", 1.0, CAT))
    bank.submit(told("80", 1.0, replace(CAT, region="kept"), task="8"))
    snapshots.freeze("1")
    snapshots.choose("1", 1)
    bank.submit(told("70", 2.0, replace(CAT, runs=OTHER)))
    bank.forget("1", tasks=["7"])
    assert regions(bank.recall("1", "Cat", 5, snapshot=1)) == ["kept"], "not even the version that is not current any more"
    with pytest.raises(RequestError, match="memory@1 of project 1 is withdrawn"):
        snapshots.get("1", 1)
    assert snapshots.for_bulk("1") is None
    after = snapshots.freeze("1")
    assert after is not None
    assert (after.n, regions(bank.recall("1", "Cat", 5, snapshot=2))) == (2, ["kept"])


def test_bulk_runs_use_the_version_that_was_chosen_and_can_go_back(stores: tuple[MemoryBank, Snapshots]) -> None:
    bank, snapshots = stores
    for made_at in (1.0, 2.0):
        bank.submit(told("70", made_at, replace(CAT, region=str(made_at))))
        snapshots.freeze("1")
    assert snapshots.for_bulk("1") is None
    for n in (2, 1):
        snapshots.choose("1", n)
        found = snapshots.for_bulk("1")
        assert found is not None
        assert found.n == n
    snapshots.choose("1", None)
    assert snapshots.for_bulk("1") is None
    with pytest.raises(RequestError, match="project 1 has no memory@7; it has 2, 1"):
        snapshots.choose("1", 7)


def test_what_was_measured_of_a_version_is_kept_with_it(stores: tuple[MemoryBank, Snapshots]) -> None:
    bank, snapshots = stores
    bank.submit(told("70", 1.0, CAT))
    snapshots.freeze("1")
    snapshots.note("1", 1, {"iou": 0.8})
    assert snapshots.get("1", 1).report == {"iou": 0.8}


def test_versions_of_one_project_are_none_of_another(stores: tuple[MemoryBank, Snapshots]) -> None:
    bank, snapshots = stores
    bank.submit(told("70", 1.0, CAT))
    snapshots.freeze("1")
    assert snapshots.all("2") == []
    assert bank.recall("2", "Cat", 5, snapshot=1) == []
