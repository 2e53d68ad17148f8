"""The training loop: it learns, it keeps its budget over restarts, and it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from train.averaging import Average
from train.calibrate import MOST_INVENTED, best_threshold, evenly, fit_evidence, fit_logistic, sparing_threshold
from train.loop import Plan, fit, made_ahead


def line(network: nn.Linear) -> tuple[Tensor, dict[str, Tensor]]:
    x = torch.linspace(-1, 1, 32).unsqueeze(1)
    loss = (network(x) - (3 * x + 1)).square().mean()
    return loss, {"error": loss}


def plan(folder: Path, seconds: float) -> Plan:
    return Plan(folder, "line", seconds / 60, 0.05, torch.device("cpu"))


@pytest.mark.slow
def test_a_network_learns_and_its_log_shows_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Linear(1, 1)
    fit(network, plan(tmp_path, 3), lambda _: line(network))
    log = [json.loads(row) for row in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert log[-1]["error"] < log[0]["error"] / 4
    assert [row["step"] for row in log] == sorted(row["step"] for row in log)


def test_a_budget_that_is_used_up_is_not_spent_again(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    fit(network, plan(tmp_path, 1), lambda _: line(network))

    def never(_: int) -> tuple[Tensor, dict[str, Tensor]]:
        raise AssertionError("a step was made after the budget was used up")

    other = nn.Linear(1, 1)
    again = fit(other, plan(tmp_path, 1), never)
    saved = torch.load(tmp_path / "line.pt", weights_only=True)
    assert torch.equal(again.weight, saved["average"]["weight"])  # type: ignore[arg-type]
    assert torch.equal(other.weight, saved["model"]["weight"])


@pytest.mark.slow
def test_training_goes_on_with_the_step_that_follows(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    fit(network, plan(tmp_path, 1), lambda _: line(network))
    before = torch.load(tmp_path / "line.pt", weights_only=True)["step"]
    seen: list[int] = []

    def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append(number)
        return line(network)

    fit(network, plan(tmp_path, 2), step)
    assert seen[0] == before


def test_what_is_made_ahead_comes_in_order_and_stops_with_its_user() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    with made_ahead(make, most=3) as take:
        assert [take() for _ in range(5)] == [0, 1, 2, 3, 4]
    after = len(made)
    assert 5 <= after <= 8
    assert made == list(range(after))


def test_an_average_follows_its_network() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = Average(network, decay=0.9)
    with torch.no_grad():
        network.weight.fill_(10)
    for _ in range(200):
        average.update(network)
    assert isinstance(average.model, nn.Linear)
    assert average.model.weight.item() == pytest.approx(10, abs=0.01)


def test_the_logistic_fit_finds_the_scale_and_bias_that_made_the_data() -> None:
    x = np.linspace(-4, 4, 400)
    scale, bias = fit_logistic(x, 1 / (1 + np.exp(-(1.7 * x - 0.4))))
    assert scale == pytest.approx(1.7, abs=0.02)
    assert bias == pytest.approx(-0.4, abs=0.02)


def test_the_threshold_separates_present_from_absent() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    assert 0.3 < best_threshold(scores, scores > 0.5, np.ones(6)) <= 0.7


def test_every_name_weighs_the_same_in_the_threshold_however_often_it_is_asked_for() -> None:
    names = ["sky"] * 18 + ["oar", "oar"]
    scores = np.array([0.9] * 6 + [0.5] * 12 + [0.4, 0.1])
    present = np.array([True] * 6 + [False] * 12 + [True, False])
    assert evenly(names).tolist() == pytest.approx([1 / 18] * 18 + [1 / 2] * 2)
    assert best_threshold(scores, present, np.ones(20)) > 0.5, "the false claims of a common name outweigh a rare one"
    assert best_threshold(scores, present, evenly(names)) <= 0.4


def test_the_sparing_threshold_is_the_least_that_claims_few_absent_names() -> None:
    scores = np.linspace(0, 0.9, 101)
    present = np.arange(101) % 2 == 1
    threshold = sparing_threshold(scores, present, np.ones(101))
    absent = scores[~present]
    assert (absent >= threshold).mean() <= MOST_INVENTED < (absent >= threshold - 0.03).mean()


def test_evidence_is_weighed_by_what_it_tells_and_silence_weighs_nothing() -> None:
    dice = np.random.default_rng(0)
    evidence = dice.normal(0, 1, (2000, 3))
    evidence[:, 2] = 0
    reached = 1 / (1 + np.exp(-(2 * evidence[:, 0] - 1)))
    bias, telling, idle, silent = fit_evidence(evidence, reached, np.ones(2000))
    assert abs(telling - 2) < 0.2
    assert abs(bias + 1) < 0.2
    assert abs(idle) < 0.1
    assert silent == 0
