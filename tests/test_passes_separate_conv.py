"""separate_conv: a dense kernel becomes depthwise and pointwise, the best for what it reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgecc
from edgecc import ir
from edgecc.analysis.cost import total_macs
from edgecc.errors import UsageError
from edgecc.importer import load
from edgecc.passes.separate_conv import SeparateConv
from edgecc.passes.split_gemm import SplitGemm
from edgecc.pipeline import PassContext, Pipeline
from edgecc.runtime.ort import OrtRunner

MODELS = Path(__file__).resolve().parents[1] / "models"
CONV = "y = Conv<pads = [1, 0, 2, 1], strides = [2, 1], dilations = [2, 1]>(x, w, b)"


def _random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _terms(out: int, into: int, rank: int, noise: float = 1e-3) -> Any:
    """Weights that are a sum of `rank` depthwise kernels and pointwise weights."""
    points, kernels = _random(out, into, rank), _random(into, rank, 9, seed=1)
    weight = np.einsum("oir,irt->oit", points, kernels) + noise * _random(out, into, 9, seed=2)
    return weight.reshape(out, into, 3, 3).astype(np.float32)


def _model(parse: Any, rank: int = 2, noise: float = 1e-3, body: str = CONV) -> ir.Model:
    constants = {"w": _terms(32, 8, rank, noise), "b": _random(32)}
    used = {name: array for name, array in constants.items() if f" {name}" in body}
    return load(parse(f"g (float[N,8,9,8] x) => (float[] y) {{ {body} }}", 21, used))


def _data(count: int, seed: int = 0) -> Any:
    """Smooth, as images are: the metric differs from that of noise."""
    x = np.random.default_rng(seed).standard_normal((count, 8, 9, 8))
    for axis in (2, 3, 2, 3):
        x = x + np.roll(x, 1, axis)
    return (x + 0.5).astype(np.float32)


def _sqnr(model: ir.Model, other: ir.Model, x: Any) -> float:
    a, b = (next(iter(OrtRunner.from_model(m).run({"x": x}).values())) for m in (model, other))
    return float(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()))


@pytest.mark.parametrize("weighted", [True, False])
def test_a_sum_of_terms_is_found(parse: Any, weighted: bool) -> None:
    model = _model(parse)
    step = SeparateConv(error=1e-3, weighted=weighted)
    made, log = Pipeline([step]).run(model, PassContext(data=_data(100)))
    assert log.records[0].rewritten == 1
    repeat, first, second = made.graph
    assert [len(repeat.inputs), repeat.op_type] == [2, "Concat"]
    assert ir.static_dims(first.inputs[1]) == (16, 1, 3, 3)  # type: ignore[arg-type]
    assert ir.static_dims(second.inputs[1]) == (32, 16, 1, 1)  # type: ignore[arg-type]
    assert ir.attribute(first, "group") == 16
    assert total_macs(made) < 0.5 * total_macs(model)
    assert _sqnr(model, made, _data(20, 9)) > 45
    _, again = Pipeline([step]).run(made, PassContext(data=_data(100)))
    assert again.records[0].rewritten == 0


def test_data_and_least_squares_gain(parse: Any) -> None:
    model = _model(parse, rank=9, noise=0.0)
    found = []
    for weighted in (False, True):
        made, _ = Pipeline([SeparateConv(rank=2, weighted=weighted)]).run(model, PassContext(data=_data(200)))
        found.append(_sqnr(model, made, _data(20, 9)))
    assert found[1] > found[0] + 1


def test_more_terms_lose_less(parse: Any) -> None:
    model = _model(parse, rank=9, noise=0.0)
    found = []
    for rank in (1, 2, 4):
        made, _ = Pipeline([SeparateConv(rank=rank)]).run(model, PassContext(data=_data(200)))
        found.append(_sqnr(model, made, _data(20, 9)))
    assert found == sorted(found)


def test_the_share_of_multiply_accumulates_is_kept(parse: Any) -> None:
    model = _model(parse)
    made, _ = Pipeline([SeparateConv(ratio=0.4)]).run(model, PassContext(data=_data(50)))
    assert total_macs(made) <= 0.4 * total_macs(model)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "groups": ("y = Conv<group = 2>(x, k)", {"rank": 1}, "it has 2 groups"),
    "computed": ("v = Relu(w) y = Conv(x, v)", {"rank": 1}, "are computed while running"),
    "error": (CONV, {"error": 1e-9}, "it would lose more than the option allows"),
    "rank": (CONV, {"rank": 9}, "it would lose more than the option allows"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_reason(parse: Any, case: str) -> None:
    body, options, reason = REFUSED[case]
    constants = {"w": _terms(32, 8, 9), "b": _random(32), "k": _random(8, 4, 3, 3)}
    used = {n: a for n, a in constants.items() if f" {n}" in body or f"({n}" in body}
    model = load(parse(f"g (float[N,8,9,8] x) => (float[] y) {{ {body} }}", 21, used))
    _, log = Pipeline([SeparateConv(**options)]).run(model, PassContext(data=_data(50)))
    assert log.records[0].rewritten == 0
    assert any(reason in refusal.reason for refusal in log.records[0].refused), log.records[0].refused


def test_pointwise_layers_are_left(parse: Any) -> None:
    constants = {"p": _random(8, 8, 1, 1)}
    model = load(parse("g (float[N,8,9,8] x) => (float[] y) { y = Conv(x, p) }", 21, constants))
    _, log = Pipeline([SeparateConv(rank=1)]).run(model, PassContext(data=_data(5)))
    assert (log.records[0].rewritten, log.records[0].refused) == (0, ())


@pytest.mark.parametrize(
    ("options", "reason"),
    [({}, "none of rank"), ({"rank": 1, "ratio": 0.5}, "2 of rank"), ({"error": 0}, "above 0")],
)
def test_wrong_use(parse: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Pipeline([SeparateConv(**options)]).run(_model(parse), PassContext(data=_data(5)))


def test_digits_to_both_formats(tmp_path: Path) -> None:
    calibration, test = (np.load(MODELS / f"digits_cnn_{part}.npz") for part in ("calib", "test"))
    result = edgecc.compile(
        MODELS / "digits_cnn.onnx", precision="int8", data=calibration[calibration.files[0]],
        eval_data=test[test.files[0]], passes=("separate_conv:ratio=0.8",), no_profile=True, output=tmp_path / "out",
    )  # fmt: skip
    assert set(result.artifacts) == {"tflite", "onnx"}
    for fidelity in result.fidelities.values():
        assert fidelity.agreement is not None
        assert fidelity.agreement > 0.95


def test_a_pass_lists_its_own_options_before_those_that_it_shares() -> None:
    shared = ["weighted", "onward", "sequential", "precision", "damping", "columns", "samples"]
    assert list(SeparateConv(rank=1).options()) == ["rank", "error", "ratio", *shared]
    assert [f.name for f in SplitGemm.declared()][-7:] == shared
