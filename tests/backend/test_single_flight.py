from __future__ import annotations

import threading
import time

import pytest

from backend.single_flight import SingleFlight


def test_callers_at_the_same_time_share_one_piece_of_work() -> None:
    flight: SingleFlight[int] = SingleFlight(most=10, lifetime_s=60)
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


def test_a_result_is_kept_only_if_asked_for_and_only_for_its_lifetime() -> None:
    flight: SingleFlight[int] = SingleFlight(most=10, lifetime_s=0.05)
    numbers = iter(range(100))
    assert flight.do("a", lambda: next(numbers)) == 0
    assert flight.do("a", lambda: next(numbers), keep=lambda _: True) == 1
    assert flight.do("a", lambda: next(numbers)) == 1
    time.sleep(0.06)
    assert flight.do("a", lambda: next(numbers)) == 2


def test_no_more_results_are_kept_than_allowed() -> None:
    flight: SingleFlight[str] = SingleFlight(most=2, lifetime_s=60)
    for key in "abc":
        flight.do(key, lambda key=key: key, keep=lambda _: True)  # type: ignore[misc]
    assert flight.do("a", lambda: "made again") == "made again"
    assert flight.do("c", lambda: "made again") == "c"


def test_an_error_reaches_every_caller_and_the_next_one_tries_again() -> None:
    flight: SingleFlight[int] = SingleFlight(most=10, lifetime_s=60)

    def fail() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        flight.do("a", fail, keep=lambda _: True)
    assert flight.do("a", lambda: 3) == 3
