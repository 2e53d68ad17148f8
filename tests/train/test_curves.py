"""The page of training curves, from logs as the loop writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from train.curves import POINTS, draw, smooth


def test_every_part_of_every_stage_has_a_curve(tmp_path: Path) -> None:
    for stage, parts in (("encoder", ("dense", "region")), ("masks", ("overlap",))):
        rows = [{"step": 20 * k, "s": 9 * k, **dict.fromkeys(parts, 1 / k)} for k in range(1, 200)]
        tmp_path.joinpath(f"{stage}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw(tmp_path)
    page = tmp_path.joinpath("curves.html").read_text()
    assert page.count("<polyline") == 3
    assert "3,980 steps, 30 minutes" in page


def test_a_stage_that_has_logged_nothing_yet_has_no_curve(tmp_path: Path) -> None:
    tmp_path.joinpath("text.jsonl").write_text("")
    draw(tmp_path)
    assert "nothing logged yet" in tmp_path.joinpath("curves.html").read_text()


def test_a_line_whose_writing_was_interrupted_does_not_matter(tmp_path: Path) -> None:
    tmp_path.joinpath("masks.jsonl").write_text('{"step": 20, "s": 60, "iou": 0.5}\n{"step": 40, "s"')
    draw(tmp_path)
    assert "20 steps, 1 minutes" in tmp_path.joinpath("curves.html").read_text()


@pytest.mark.parametrize("count", [1, POINTS, POINTS + 1, 1000])
def test_a_smooth_curve_keeps_the_mean_and_has_few_points(count: int) -> None:
    points = [(float(k), float(k % 7)) for k in range(count)]
    shown = smooth(points)
    assert 1 <= len(shown) <= POINTS
    assert [x for x, _ in shown] == sorted(x for x, _ in shown)
    size = -(-count // POINTS)
    assert shown[0][1] == pytest.approx(sum(y for _, y in points[:size]) / min(size, count))
