"""The bench of presets asks as Label Studio asks, and measures the process that answers."""

from __future__ import annotations

import os
import time

import pytest

from backend.labelstudio.request.request import InteractionRequest, read_predict
from bench.presets import CONFIG, WIDTH, click, cpu_seconds, peak_memory, write_bundle


def test_a_click_is_read_as_one_on_the_image() -> None:
    task = {"id": 1, "data": {"image": "data:,"}, "annotations": [], "predictions": [], "drafts": []}
    context = {"result": [{"id": "x", "to_name": "image", **click(50, 40)}]}
    (asked,) = read_predict({"tasks": [task], "project": "1.1", "label_config": CONFIG, "params": {"context": context}})
    assert isinstance(asked, InteractionRequest)
    (mark,) = asked.marks
    assert (mark.x, mark.y) == (50, 40)  # type: ignore[union-attr]


def test_the_time_and_the_memory_of_a_process_are_those_that_the_system_tells() -> None:
    before, until = cpu_seconds(os.getpid()), time.process_time() + 0.1
    while time.process_time() < until:
        sum(range(WIDTH))
    assert 0.05 < cpu_seconds(os.getpid()) - before < 5
    assert 0.01 < peak_memory(os.getpid()) < 100


def test_a_preset_that_is_not_written_here_is_named(tmp_path: object) -> None:
    with pytest.raises(KeyError, match="facebook/sam3"):
        write_bundle("sam3", tmp_path)  # type: ignore[arg-type]
