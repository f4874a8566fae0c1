"""prune_channels: budgets are met, data keep the answers, and what cannot shrink is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgecc
from edgecc import ir
from edgecc.analysis.cost import total_macs, total_parameters
from edgecc.errors import BudgetError, UsageError
from edgecc.importer import load
from edgecc.options import make_options
from edgecc.passes.prune_channels import PruneChannels
from edgecc.pipeline import PassContext, PassRecord, Pipeline
from edgecc.presets import float_passes, make_pass
from edgecc.runtime.ort import OrtRunner

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture(scope="module")
def digits() -> tuple[ir.Model, Any, Any, Any]:
    """The network after the float passes, images to calibrate on, others to test on, and their labels."""
    passes = Pipeline(float_passes(edgecc.target("arm"), make_options({})))
    model, _ = passes.run(load(MODELS / "digits_cnn.onnx"), PassContext(check=False))
    test = np.load(MODELS / "digits_cnn_test.npz")
    return model, np.load(MODELS / "digits_cnn_calib.npz")["image"], test["image"], test["labels"]


def _pruned(digits: Any, **options: Any) -> tuple[ir.Model, PassRecord]:
    model, calibration, _, _ = digits
    context = PassContext(data=calibration, target=edgecc.target("arm"))
    pruned, log = Pipeline([PruneChannels(**options)]).run(model, context)
    return pruned, log.records[0]


def _accuracy(model: ir.Model, digits: Any) -> float:
    _, _, images, labels = digits
    runner = OrtRunner.from_model(model)
    name = runner.inputs[0].name
    found = [next(iter(runner.run({name: image[None]}).values())).argmax() for image in images]
    return float(np.mean(np.array(found) == labels))


def _channels(model: ir.Model) -> dict[str, int]:
    """Of each convolution."""
    return {str(n.name): ir.static_dims(n.outputs[0])[1] for n in model.graph if n.op_type == "Conv"}


@pytest.mark.parametrize("budget", ["75%", "50%"])
def test_multiply_accumulates_are_within_the_budget(digits: Any, budget: str) -> None:
    pruned, record = _pruned(digits, max_macs=budget)
    share = total_macs(pruned) / total_macs(digits[0])
    wanted = float(budget[:-1]) / 100
    assert wanted - 0.12 < share <= wanted
    assert record.effect is not None
    assert record.effect.macs == (total_macs(digits[0]), total_macs(pruned))
    assert record.effect.cycles is not None
    assert record.effect.cycles[1] < record.effect.cycles[0]


def test_a_budget_in_numbers(digits: Any) -> None:
    half = total_macs(digits[0]) / 2
    pruned, _ = _pruned(digits, max_macs=f"{half / 1e6:.6f}M")
    assert total_macs(pruned) <= half


def test_size_and_latency_are_goals_too(digits: Any) -> None:
    small, _ = _pruned(digits, max_size="60%")
    assert total_parameters(small) <= 0.6 * total_parameters(digits[0])
    _, record = _pruned(digits, max_latency="70%")
    assert record.effect is not None
    assert record.effect.cycles is not None
    assert record.effect.cycles[1] <= 0.7 * record.effect.cycles[0]


def test_answers_stay_with_data(digits: Any) -> None:
    """A third of the work gone costs two points at most; without fitting again the weights it costs far more."""
    before = _accuracy(digits[0], digits)
    pruned, _ = _pruned(digits, max_macs="67%")
    assert _accuracy(pruned, digits) > before - 0.02
    blind, _ = Pipeline([PruneChannels(max_macs="67%", criterion="l2")]).run(
        digits[0], PassContext(target=edgecc.target("arm"))
    )
    assert _accuracy(blind, digits) < _accuracy(pruned, digits) - 0.1


@pytest.mark.parametrize("criterion", ["l1", "l2", "activation", "entropy", "gradient", "reconstruction"])
def test_every_criterion(digits: Any, criterion: str) -> None:
    pruned, record = _pruned(digits, ratio=0.25, criterion=criterion)
    before, after = (sum(_channels(m).values()) for m in (digits[0], pruned))
    assert after < 0.85 * before
    assert record.rewritten > 0


def test_gamma_before_batch_normalization_is_folded() -> None:
    model = load(MODELS / "digits_cnn.onnx")
    pruned, log = Pipeline([PruneChannels(ratio=0.2, criterion="gamma")]).run(model)
    assert log.records[0].rewritten > 0
    assert total_macs(pruned) < total_macs(model)


def test_gamma_after_it_says_so(digits: Any) -> None:
    with pytest.raises(UsageError, match="before fold_batchnorm"):
        _pruned(digits, criterion="gamma")


def test_of_each_layer_the_same_share(digits: Any) -> None:
    pruned, _ = _pruned(digits, ratio=0.5, scope="layer", align=1)
    before, after = _channels(digits[0]), _channels(pruned)
    assert after == {name: count // 2 for name, count in before.items()}


def test_channels_stay_multiples_of_the_vector(digits: Any) -> None:
    pruned, _ = _pruned(digits, max_macs="60%", align=8)
    before, after = _channels(digits[0]), _channels(pruned)
    assert after != before
    assert all(after[name] % 8 == 0 for name, count in before.items() if count >= 32 and count % 8 == 0)


def test_latency_counts_channels_that_are_computed_at_once(digits: Any) -> None:
    """Where a kernel makes 32 channels at once, 24 of 32 take as long as 32."""
    from edgecc.analysis.channels import find_channels
    from edgecc.analysis.cost import total_cycles
    from edgecc.analysis.shrunk_cost import ShrunkCost
    from edgecc.passes._shrink import shrink

    rates = edgecc.target("x86-64").cost
    model = digits[0].clone()
    channels = find_channels(model)
    cost = ShrunkCost(model, rates, set(channels.unit))
    assert cost.latency({}) == pytest.approx(total_cycles(model, rates))
    for count in (3, 5, 8):
        trial = digits[0].clone()
        found = find_channels(trial)
        kept = found.kept({u for g in found.groups for u in g.units[: min(count, len(g.units) // 2)]})
        gone = {axis: len(found.unit[axis]) - len(left) for axis, left in kept.items()}
        predicted = ShrunkCost(trial, rates, set(found.unit)).latency(gone)
        shrink(trial, kept)
        assert predicted == pytest.approx(total_cycles(trial, rates))


def test_what_cannot_shrink_is_named(digits: Any) -> None:
    _, record = _pruned(digits, max_macs="80%")
    assert any("is an output of the network" in r.reason for r in record.refused)


def test_a_budget_out_of_reach(digits: Any) -> None:
    with pytest.raises(BudgetError, match="with all channels gone that may go"):
        _pruned(digits, max_macs="0.01%")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune_channels:ratio=0.2,max_macs=50%", "both given"),
        ("prune_channels:ratio=1.5", "not between 0 and 1"),
        ("prune_channels:max_macs=50%,scope=layer", "only a ratio"),
    ],
)
def test_goals_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_pass(text)


def test_layers_of_many_inputs_are_not_fitted(digits: Any) -> None:
    """With none small enough to look at, no channel can be weighed, and that is said."""
    _, record = _pruned(digits, ratio=0.1, scope="layer", max_fan_in=8)
    assert record.rewritten == 0
    assert any("says nothing of its channels" in r.reason for r in record.refused)


def test_without_data_it_asks_for_some(digits: Any) -> None:
    with pytest.raises(UsageError, match="looks at calibration data"):
        Pipeline([PruneChannels()]).run(digits[0], PassContext())


def test_compiled_to_integers(tmp_path: Path, digits: Any) -> None:
    """As a word of `compile`: smaller files, the effect in the report, answers within two points of the original's."""
    test = MODELS / "digits_cnn_test.npz"
    result = edgecc.compile(
        MODELS / "digits_cnn.onnx", data=digits[1], eval_data=np.load(test)["image"], labels=np.load(test)["labels"],
        passes=("prune_channels:max_macs=67%",), output=tmp_path / "small", no_profile=True,
    )  # fmt: skip
    whole = edgecc.compile(
        MODELS / "digits_cnn.onnx", data=digits[1], output=tmp_path / "whole", no_profile=True, no_verify=True
    )
    for form, artifact in result.artifacts.items():
        assert artifact.size < 0.9 * whole.artifacts[form].size
    assert result.fidelity is not None
    assert result.fidelity.drop is not None
    assert result.fidelity.drop < 2
    effects = [p.effect for p in result.report.passes if p.effect is not None]
    assert len(effects) == 1
    assert "What compression did" in (tmp_path / "small" / "report.html").read_text()
