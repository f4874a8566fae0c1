"""Predictions without published figures: by a target's [cost] at its clock."""

from pathlib import Path

import pytest
from latency_cases import Parse, device, write_network

from edgecc.analysis.workload import layers_of
from edgecc.errors import UnsupportedError
from edgecc.importer import load
from edgecc.profile import rates
from edgecc.profile.predict import predict
from edgecc.profile.recalibrate import Measured, refit, target_text
from edgecc.target import BoardSpec, CostSpec, target


@pytest.fixture
def network(parse: Parse, tmp_path: Path) -> Path:
    return write_network(parse, tmp_path)


def test_without_a_latency_table_the_cost_at_a_clock_predicts(network: Path) -> None:
    model = load(network)
    cost = CostSpec(
        mac={"int8": 2.0, "fp32": 5.0}, byte={"int8": 0.5, "fp32": 0.25}, operator=100.0, source="guess"
    )
    board = BoardSpec(description="B", ghz=0.1, source="s")
    found = predict(model, device(cost=cost, ghz=0.2))
    layers = layers_of(model)
    sums = [sum(getattr(x, k) for x in layers) for k in ("macs", "moved", "weights")]
    assert found.ms == pytest.approx((2 * sums[0] + 0.5 * sums[1] + 0.5 * sums[2] + 500) / 0.2e6)
    assert found.grade == rates.UNCALIBRATED
    assert (found.low_ms, found.high_ms) == (found.ms / 2, found.ms * 2)
    assert "[cost]" in found.notes[0]
    assert found.source == "guess"
    slow = predict(model, device(cost=cost, ghz=0.2, boards={"b": board}, board="b"))
    assert slow.ms == pytest.approx(2 * found.ms)
    assert (slow.ghz, slow.board) == (0.1, "B")
    wide = predict(model, device(cost=cost, ghz=0.2), precision="fp16")  # computes as float32
    assert wide.ms == pytest.approx((5 * sums[0] + sums[1] + sums[2] + 500) / 0.2e6)


def test_targets_without_figures(network: Path) -> None:
    assert predict(load(network), target("cortex-m55")).grade == rates.UNCALIBRATED
    with pytest.raises(UnsupportedError, match="no latency table"):
        predict(load(network), target("x86-64"))


def test_a_clock_of_ones_own_scales_the_rates(network: Path, tmp_path: Path) -> None:
    (tmp_path / "slow.toml").write_text(
        'extends = "cortex-a53"\nname = "slow"\ndescription = "d"\nghz = 0.7\n'
    )
    model = load(network)
    own, base = (
        predict(model, target(t), runtime="ncnn") for t in (str(tmp_path / "slow.toml"), "cortex-a53")
    )
    assert own.ms == pytest.approx(base.ms * base.ghz / 0.7)
    assert own.grade == rates.CLOCK_ONLY


def test_calibrating_what_had_no_figures(network: Path, tmp_path: Path) -> None:
    base = device(ghz=0.4, name="bare")
    spec, _ = refit([Measured(network, 3.0)], base, runtime=None, precision="int8", ghz=0.2, board="mine")
    assert (spec.ghz, spec.error) == (0.2, 1.0)  # nobody knows what one network is worth there
    (tmp_path / "mine.toml").write_text(target_text(spec, base, "mine", "cortex-m55"))
    again = predict(load(network), target(str(tmp_path / "mine.toml")), runtime="LiteRT")
    assert again.ms == pytest.approx(3.0, rel=0.05)  # at the clock of the measurement, not of what it extends
