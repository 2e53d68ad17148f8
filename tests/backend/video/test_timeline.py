"""File frame, presentation time and Label Studio frame, for rates that are the config's and for rates that are not."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.video.timeline import Timeline, as_attribute, numbers_in, parse_frame_rate

NTSC_FILM, NTSC = Fraction(24000, 1001), Fraction(30000, 1001)


def constant(rate: Fraction, count: int, clock: int = 90_000) -> Timeline:
    """A film whose times are rounded to ticks of a clock, as containers do."""
    starts = np.round(np.arange(count) / float(rate) * clock) / clock
    return Timeline(starts, count / float(rate))


@pytest.mark.parametrize("rate", [Fraction(24), Fraction(25), NTSC_FILM, NTSC, Fraction(60)])
@pytest.mark.parametrize("clock", [90_000, 1000])
def test_a_film_at_the_configs_rate_has_label_studios_numbers_for_an_hour(rate: Fraction, clock: int) -> None:
    timeline = constant(rate, int(3600 * rate), clock)
    attribute = parse_frame_rate(as_attribute(timeline.rate))

    assert timeline.is_constant
    assert timeline.rate == rate
    assert timeline.first_drift(attribute) is None
    assert [timeline.to_studio(k, attribute) for k in (0, 1, 5000, len(timeline) - 1)] == [1, 2, 5001, len(timeline)]
    assert timeline.studio_length(attribute) == len(timeline)


def test_a_film_of_29_97_read_as_24_loses_every_fifth_frame() -> None:
    timeline = constant(NTSC, 300)

    lost = timeline.unreachable(Fraction(24))

    seen = {int(seek(n, 24) * 30000 / 1001 + 1e-6) for n in range(1, timeline.studio_length(Fraction(24)) + 1)}
    assert lost == [k for k in range(300) if k not in seen]
    assert 58 <= len(lost) <= 61


def test_a_film_of_23_976_read_as_24_drifts_by_one_frame_in_forty_seconds() -> None:
    timeline = constant(NTSC_FILM, 2000)

    first = timeline.first_drift(Fraction(24))

    assert first is not None
    assert first == next(n for n in range(1, 2000) if seek(n, 24) < (n - 1) * 1.001 / 24 - 1e-6)
    assert 30 < first < 80
    assert timeline.from_studio(1500, Fraction(24)) == int(seek(1500, 24) * 24 / 1.001)


def seek(number: int, rate: float) -> float:
    """A port of Label Studio's ``goToFrame`` and ``frameSteppedTime`` (1.23, VideoCanvas.tsx)."""
    return math.floor((number - 1) / rate / 0.002 + 0.5) * 0.002 + 0.002


@given(
    gaps=st.lists(st.integers(20, 400), min_size=1, max_size=60),
    rate=st.sampled_from([Fraction(24), Fraction(25), NTSC, Fraction(50), Fraction(120)]),
)
def test_every_frame_that_label_studio_shows_is_found_again(gaps: list[int], rate: Fraction) -> None:
    starts = np.cumsum([0, *gaps]) / 1000
    timeline = Timeline(starts, float(starts[-1]) + 0.04)
    shown = {timeline.from_studio(n, rate) for n in range(1, timeline.studio_length(rate) + 1)}

    reachable = set(range(len(timeline))) - set(timeline.unreachable(rate))

    assert reachable == shown
    assert all(timeline.from_studio(timeline.to_studio(k, rate), rate) == k for k in reachable)


@given(gaps=st.lists(st.integers(20, 400), min_size=1, max_size=60))
def test_at_the_advised_rate_no_frame_is_lost(gaps: list[int]) -> None:
    starts = np.cumsum([0, *gaps]) / 1000
    timeline = Timeline(starts, float(starts[-1]) + 0.04)

    assert timeline.unreachable(timeline.advised_rate()) == []


def test_frame_rates_are_read_as_label_studio_reads_them() -> None:
    assert parse_frame_rate(None) == 24
    assert parse_frame_rate("29.97") == Fraction(2997, 100)
    assert parse_frame_rate("0.04") == 25
    for wrong in ("fast", "0", "-3"):
        with pytest.raises(ValueError, match="frameRate"):
            parse_frame_rate(wrong)


def test_lists_of_frames_are_read() -> None:
    assert numbers_in("1, 5,10-12") == [1, 5, 10, 11, 12]
    with pytest.raises(ValueError, match=r"1,5,10-20"):
        numbers_in("1,x")


def test_a_timeline_without_frames_or_order_is_refused() -> None:
    for starts in ([], [0.0, 0.0], [1.0, 0.5]):
        with pytest.raises(ValueError, match="rising"):
            Timeline(np.array(starts), 2.0)
