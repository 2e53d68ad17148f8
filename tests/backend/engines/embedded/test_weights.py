"""The checkpoint file: what is written is read, and what cannot be read is said plainly."""

from __future__ import annotations

import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backend.engines.catalogue import find_engine
from backend.engines.embedded import build
from backend.engines.embedded.checkpoint import Checkpoint, read_checkpoint, write
from backend.engines.embedded.engine import SHIPPED, read
from backend.engines.embedded.evidence import Calibration, Prototypes
from backend.engines.embedded.network import Conv, Residual, fold_batch_norm
from backend.engines.embedded.places import DIM
from backend.values.errors import SetupError

CALIBRATION = Calibration(20, -6, 10, -5, 0.4, 0.7, evidence=(-1.0, 0.5, 0.25, 1.0, 0.5, 2.0, 0.1, 0.1, 0.1))


def fresh() -> Checkpoint:
    vectors = {"names": torch.eye(DIM)[:3], "places": torch.eye(DIM)[3:5]}
    shown = Prototypes(torch.eye(DIM)[5:7], torch.eye(DIM)[7:9], torch.tensor([0.25, 0.5]))
    return replace(Checkpoint.fresh(CALIBRATION), **vectors, prototypes=shown)


def rounding(tensor: torch.Tensor) -> float:
    """Half a step of 127 up to the largest number, in which large tables are kept."""
    return float(tensor.abs().max()) / 254 if tensor.ndim > 1 else 0.0


@pytest.mark.slow
def test_what_is_written_is_read_again_within_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(1)
    written = fresh()
    write(tmp_path / "w.safetensors", written)
    again = read_checkpoint(tmp_path / "w.safetensors")
    assert again.calibration == CALIBRATION
    assert torch.equal(again.names, written.names)
    assert torch.equal(again.places, written.places)
    for each in fields(Prototypes):
        assert torch.equal(getattr(again.prototypes, each.name), getattr(written.prototypes, each.name))
    assert again.networks.keys() == written.networks.keys()
    for mine, theirs in zip(written.networks.values(), again.networks.values(), strict=True):
        for name, tensor in mine.state_dict().items():
            torch.testing.assert_close(theirs.state_dict()[name].to(tensor), tensor, rtol=1e-3, atol=1e-3 + rounding(tensor))


@pytest.mark.slow
def test_other_weights_have_another_version(tmp_path: Path) -> None:
    write(tmp_path / "w.safetensors", fresh())
    assert build(tmp_path / "w.safetensors").version != build(None).version


def test_the_version_is_the_one_the_registry_tells_without_loading() -> None:
    assert build(None).version == find_engine("embedded").version(None)


def test_missing_weights_are_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no weights at"):
        build(tmp_path / "nothing.safetensors")


def test_a_file_that_is_no_checkpoint_is_said_plainly(tmp_path: Path) -> None:
    broken, other = tmp_path / "broken.safetensors", tmp_path / "other.safetensors"
    broken.write_bytes(b"not a checkpoint at all")
    save_file({"x": torch.zeros(1)}, other)
    for path in (broken, other):
        with pytest.raises(SetupError, match="no checkpoint of the embedded engine"):
            read(path)


def test_weights_that_are_no_file_are_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be read"):
        read(tmp_path)


def test_folding_batch_norms_changes_no_answer() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(Conv(3, 8, 2), Residual(8))
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean = torch.randn(8)
            part.running_var = torch.rand(8) + 0.5
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
    picture = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        before = network.eval()(picture)
    with torch.inference_mode():
        torch.testing.assert_close(fold_batch_norm(network)(picture), before, rtol=1e-4, atol=1e-5)


def test_the_shipped_file_is_small_and_holds_no_code() -> None:
    assert SHIPPED.suffix == ".safetensors"
    assert SHIPPED.stat().st_size < 40e6


def test_loading_does_not_keep_anyone_waiting() -> None:
    began = time.process_time()
    build(None)
    assert time.process_time() - began < 3
