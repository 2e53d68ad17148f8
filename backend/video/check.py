"""What makes Label Studio's frames other ones than the file's, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from backend.video.film import Film
from backend.video.timeline import Timeline, as_attribute

PLAYED = frozenset({"h264", "vp8", "vp9", "av1"})
"""Codecs that Chromium and Firefox play everywhere; Label Studio shows a film in the browser's own player."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One sentence about a film; a ``wrong`` one puts annotations on other frames, or nothing on the screen."""

    kind: Literal["wrong", "note"]
    text: str


def check_film(film: Film, frame_rate: Fraction) -> list[Remark]:
    """What is to know about a film before it is annotated at a config's ``frameRate``; wrong things first."""
    found = [*_of_file(film), *_of_rate(film.timeline, frame_rate)]
    return sorted(found, key=lambda finding: finding.kind == "note")


def _of_file(film: Film) -> Iterator[Remark]:
    facts, count = film.facts, len(film)
    if facts.promised is not None and facts.promised > count + facts.cut:
        lost = facts.promised - count - facts.cut
        yield Remark("wrong", f"the file breaks off: {lost} of {facts.promised} frames are missing at its end; copy it again")
    if facts.codec not in PLAYED:
        yield Remark("wrong", f"browsers do not play the codec {facts.codec} everywhere; convert it to H.264 or VP9")
    if facts.starts_late > 0.5 / float(film.timeline.rate):
        seconds = f"{facts.starts_late:.3f} s"
        yield Remark("wrong", f"the picture starts {seconds} after the file does, and the player's first frames show nothing")
    if facts.cut:
        yield Remark("note", f"an edit list hides {facts.cut} frames; they are counted neither here nor by the player")
    if facts.rotation:
        width, height = facts.size.width, facts.size.height
        yield Remark("note", f"turned by {facts.rotation} degrees for display: masks have {width} x {height} pixels, upright")
    if facts.pixel_aspect != 1:
        yield Remark("note", f"pixels are {facts.pixel_aspect} as wide as high: masks are of the stored pixels")


def _of_rate(timeline: Timeline, frame_rate: Fraction) -> Iterator[Remark]:
    advised = timeline.advised_rate()
    if not timeline.is_constant:
        yield Remark("note", f"the rate varies around {float(timeline.rate):.3f} frames per second")
    lost = timeline.unreachable(frame_rate)
    drift = timeline.first_drift(frame_rate)
    advice = f'set frameRate="{as_attribute(advised)}" in the config'
    if lost:
        yield Remark(
            "wrong",
            f'at frameRate="{as_attribute(frame_rate)}" Label Studio cannot show {len(lost)} of {len(timeline)} frames, '
            f"the first of them frame {lost[0]} of the file; {advice}",
        )
    elif drift is not None and advised != frame_rate:
        yield Remark(
            "wrong",
            f'at frameRate="{as_attribute(frame_rate)}" Label Studio\'s frame {drift} shows frame '
            f"{timeline.from_studio(drift, frame_rate)} of the file instead of {drift - 1}, and later ones drift on; {advice}",
        )
    elif drift is not None:
        yield Remark("note", f"Label Studio counts more frames than the file has, as the rate varies; keep {advice[4:]}")
