"""The bench of engines on mini networks: the way that it goes on a GPU, rehearsed on the CPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from backend.engines import device as pretrained
from bench import engines
from bench.random_models import build

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torchvision 0.28, when it is imported
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def imitated_bfloat16(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """bfloat16 is computed here, slowly, whatever the processor: how long it takes does not matter. One thread is quicker for
    networks as small as these.
    """
    monkeypatch.setattr(pretrained, "has_bfloat16", lambda device: True)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CLICKS = ["encode one image", "bare decoder", "second click", "plain transformers call", "16 boxes", "everything"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "more"), [("sam2-mini", []), ("sam3-mini", ["one phrase"])])
def test_everything_that_is_measured_of_a_network_runs_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, name: str, more: list[str]
) -> None:
    monkeypatch.setattr(engines, "POINTS_PER_SIDE", 2)
    rows = engines.rows_of(name, CPU, torch.bfloat16, 1)
    assert [row.what.startswith(what) for row, what in zip(rows, CLICKS + more, strict=True)] == [True] * len(rows)
    assert all(0 < row.least <= row.seconds and row.cpu > 0 for row in rows)


@pytest.mark.parametrize("name", ["sam2-mini", "sam3-mini"])
def test_batches_are_measured_through_maskloom_and_bare(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(engines, "BATCHES", (1, 3))
    rows = engines.bulk_rows(name, CPU, torch.bfloat16, 1)
    ways = ("bulk encode through Maskloom", "bare encode")
    assert [row.what for row in rows] == [f"{way}, batch {batch}" for batch in (1, 3) for way in ways]


@pytest.mark.parametrize("name", ["sam2-mini", "sam3-mini"])
def test_bfloat16_changes_what_is_computed_and_not_what_comes_out(name: str) -> None:
    networks = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        networks.append(build(name, CPU, dtype).network)
    with torch.inference_mode():
        pixels = torch.randn(2, 3, networks[0].frame.side, networks[0].frame.side)
        exact, rounded = (network.encode(pixels) for network in networks)
    for one, other in zip(exact, rounded, strict=True):
        for name, tensor in one.items():
            assert other[name].dtype == torch.float32
            assert not torch.equal(other[name], tensor)
            assert (other[name] - tensor).norm() < 0.05 * tensor.norm()


def test_a_table_holds_every_row(tmp_path: Path) -> None:
    row = engines.Row("encode one image", 1.25, 1.0, 1.2, 3)
    text = engines.table("sam3", [row, row], "a machine")
    assert text.startswith("## sam3, a machine")
    assert len(re.findall(r"^\| encode one image \| 1\.2500 \| 1\.0000 \| 1\.2000 \| 3 \|$", text, re.MULTILINE)) == 2


def test_models_stand_side_by_side_with_their_ratios() -> None:
    rows = [
        engines.Row(what, seconds, seconds, seconds, 1) for what, seconds in zip("abcd", (2.0, 0.05, 0.1, 2.5), strict=True)
    ]
    (line,) = engines.side_by_side({"sam": rows}, lambda row: row.cpu).splitlines()[2:]
    assert line == "| sam | 2.000 | 2.500 | 0.050 | 0.100 | 25.000 | 2.000 |"


def test_ways_of_encoding_are_measured_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module: module)  # takes a compiler and a minute
    rows = engines.way_rows("sam2-mini", CPU, torch.float32, 1)
    assert [row.what for row in rows][:2] == ["encode one image, as it is done", "encode one image, channels last"]
