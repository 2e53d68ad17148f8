"""Single flight: one piece of work for all who want it at once, and bounds on what is kept of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from backend.single_flight import Bounds, SingleFlight


def one(result: object) -> int:
    """Every result counts as one."""
    return 1


def test_callers_at_the_same_time_share_one_piece_of_work() -> None:
    flight: SingleFlight[int] = SingleFlight(Bounds(10, one))
    started, release = threading.Event(), threading.Event()
    calls: list[int] = []

    def work() -> int:
        calls.append(1)
        started.set()
        release.wait(10)
        return 7

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(flight.do("same", work))) for _ in range(5)]
    threads[0].start()
    assert started.wait(10)
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.1)
    release.set()
    for thread in threads:
        thread.join()
    assert results == [7] * 5
    assert len(calls) == 1


def test_a_result_is_kept_only_where_it_is_worth_it_and_only_for_its_lifetime() -> None:
    flight: SingleFlight[int] = SingleFlight(Bounds(10, one, lifetime_s=0.05, is_kept=lambda result: result > 0))
    numbers = iter(range(100))
    assert flight.do("a", lambda: next(numbers)) == 0
    assert flight.do("a", lambda: next(numbers)) == 1
    assert flight.do("a", lambda: next(numbers)) == 1
    time.sleep(0.06)
    assert flight.do("a", lambda: next(numbers)) == 2
    assert flight.nbytes == 1


def test_the_bytes_are_bounded_the_least_recently_used_leave_first_and_the_owner_is_told() -> None:
    left: list[tuple[str, str]] = []
    flight: SingleFlight[str] = SingleFlight(Bounds(5, len, left=lambda key, result: left.append((key, result))))
    for key, result in (("a", "11"), ("b", "22"), ("a", "again"), ("c", "33"), ("huge", "666666")):
        flight.do(key, lambda result=result: result)  # type: ignore[misc]
    assert left == [("b", "22"), ("huge", "666666")]
    assert flight.nbytes == 4
    assert [flight.do(key, lambda: "?") for key in ("a", "c")] == ["11", "33"]


def test_an_error_reaches_every_caller_and_the_next_one_tries_again() -> None:
    flight: SingleFlight[int] = SingleFlight(Bounds(10, one))

    def fail() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        flight.do("a", fail)
    assert flight.do("a", lambda: 3) == 3


def test_of_several_keys_only_those_that_nobody_has_are_worked_on_and_a_failed_one_costs_no_other() -> None:
    flight: SingleFlight[int] = SingleFlight(Bounds(10, one))
    asked: list[Sequence[str]] = []

    def double(keys: Sequence[str]) -> dict[str, int | Exception]:
        asked.append(keys)
        return {key: 2 * int(key) if key != "3" else ValueError("three") for key in keys}

    assert flight.do_all(["1", "2", "1"], double) == [2, 4, 2]
    with pytest.raises(ValueError, match="three"):
        flight.do_all(["2", "3", "4"], double)
    assert flight.do_all(["4", "1"], double) == [8, 2]
    assert asked == [["1", "2"], ["3", "4"]]
