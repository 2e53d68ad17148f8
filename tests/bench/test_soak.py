from __future__ import annotations

import math

import numpy as np
import pytest

from bench.soak import Seen, curve, slope

STEP_S, FULL = 5.0, 60


def soaked(rise: float, minutes: int = 30) -> Seen:
    """Caches that are full after five minutes with 600 MiB, and then so many MiB a minute more."""
    times = [STEP_S * k for k in range(int(60 * minutes / STEP_S))]
    levels = [min(600.0, 10 * k) + rise * max(0.0, time - FULL * STEP_S) / 60 for k, time in enumerate(times)]
    return Seen(memory=list(zip(times, levels, strict=True)), filled=FULL)


@pytest.mark.parametrize("rise", [0.0, 0.5, 2.0])
def test_the_slope_is_what_memory_gains_a_minute_once_caches_are_full(rise: float) -> None:
    assert slope(soaked(rise)) == (pytest.approx(rise), pytest.approx(0.0, abs=1e-6))


def test_caches_that_fill_late_are_no_leak() -> None:
    late = soaked(0.0)
    late.memory = [(time, min(600.0, time)) for time, _ in late.memory]
    late.filled = 130
    assert slope(late) == (pytest.approx(0.0), pytest.approx(0.0, abs=1e-6))


def test_there_is_no_slope_where_caches_never_were_full() -> None:
    assert all(map(math.isnan, slope(Seen(memory=soaked(0.0).memory))))


def test_the_standard_error_of_the_slope_covers_memory_that_comes_and_goes() -> None:
    """As seen on a server without a leak: 40 MiB up and down for minutes at a time."""
    outside = 0
    for seed in range(40):
        swinging, level = soaked(0.0), 0.0
        chance = np.random.default_rng(seed)
        for k, (time, base) in enumerate(swinging.memory):
            level = 0.94 * level + 13.6 * chance.standard_normal()
            swinging.memory[k] = time, base + level
        rise, doubt = slope(swinging)
        outside += abs(rise) > 2.5 * doubt
        assert 0.5 < doubt < 6
    assert outside <= 6


def test_the_curve_tells_a_leak_from_a_cache_that_fills() -> None:
    full, leaking = curve(soaked(0.0)), curve(soaked(2.0))
    assert len(full) == len(leaking) == 10
    assert full[-7:] == [600.0] * 7
    assert all(later - before == pytest.approx(6.0) for before, later in zip(leaking[-7:], leaking[-6:], strict=False))
