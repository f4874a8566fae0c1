"""split_gemm: layers become two of lower rank, the best in the metric of what they read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgecc
from edgecc import ir
from edgecc.analysis.cost import total_macs
from edgecc.errors import UsageError
from edgecc.importer import load
from edgecc.passes._low_rank import Metric, Option, allot, spectrum, weigh
from edgecc.passes.fuse_depthwise_pointwise import FuseDepthwisePointwise
from edgecc.passes.split_gemm import SplitGemm
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import make_pass
from edgecc.runtime.ort import OrtRunner

MODELS = Path(__file__).resolve().parents[1] / "models"


def _random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _low(out: int, fan_in: int, rank: int, noise: float = 1e-3) -> Any:
    return (_random(out, rank) @ _random(rank, fan_in, seed=1) + noise * _random(out, fan_in, seed=2)).astype(
        np.float32
    )


def _metric(size: int, seed: int = 0) -> Metric:
    x = np.random.default_rng(seed).standard_normal((4 * size, size)) * np.linspace(0.1, 3, size)
    x = x @ np.random.default_rng(seed + 1).standard_normal((size, size))
    z = x + 0.3 * np.random.default_rng(seed + 2).standard_normal(x.shape)
    n, means = len(x), (x.mean(0), z.mean(0))
    return Metric.measured(x.T @ x / n, z.T @ x / n, *means, damping=0.0, centred=True)


def test_the_best_of_its_rank_whatever_one_tries() -> None:
    """Descent on both factors from several starts never finds less error, and always about as much."""
    weight, metric, rank = np.random.default_rng(5).standard_normal((5, 6)), _metric(6), 2
    gram = np.cov(np.random.default_rng(6).standard_normal((5, 40)))
    # the level that `weigh` adds is part of what is to be made small
    level = gram + 0.1 * np.trace(gram) / 5 * np.eye(5)

    def error(product: Any) -> float:
        best = weight @ metric.cross @ np.linalg.inv(metric.second)
        gap = best - product
        return float(np.trace(level @ gap @ metric.second @ gap.T))

    a, b = weigh(weight, metric, gram).factors(rank)
    found = error(a @ b)
    best = weight @ metric.cross @ np.linalg.inv(metric.second)
    reached = []
    for seed in range(4):
        right = np.random.default_rng(seed).standard_normal((rank, 6))
        for _ in range(300):  # least squares for one factor, then for the other
            left = best @ metric.second @ right.T @ np.linalg.inv(right @ metric.second @ right.T)
            right = np.linalg.inv(left.T @ level @ left) @ left.T @ level @ best
        reached.append(error(left @ right))
    assert min(reached) >= found * (1 - 1e-9)
    assert min(reached) == pytest.approx(found, rel=1e-6)


def test_without_weights_it_is_the_plain_decomposition() -> None:
    weight = np.random.default_rng(0).standard_normal((7, 5))
    made = spectrum(weight, Metric.plain(5))
    np.testing.assert_allclose(made.values, np.linalg.svd(weight)[1])
    assert made.lost()[0] == pytest.approx(1)
    assert made.lost()[-1] == pytest.approx(0)


def test_what_is_between_has_variance_one() -> None:
    metric = _metric(6)
    _, b = weigh(np.random.default_rng(3).standard_normal((4, 6)), metric).factors(3)
    np.testing.assert_allclose(b @ metric.second @ b.T, np.eye(3), atol=1e-8)


def test_allotment_matches_trying_everything() -> None:
    random = np.random.default_rng(0)
    layers = []
    for _ in range(3):
        values = np.sort(random.random(6))[::-1] ** 2  # falling: the losses are convex
        rest = np.concatenate([np.cumsum(values[::-1])[::-1], [0]])
        layers.append([Option(10 * r, float(rest[r]), r) for r in range(7)])
    for budget in range(0, 190, 10):
        chosen = allot(layers, budget)
        assert sum(o.macs for o in chosen) <= budget
        best = min(
            a.loss + b.loss + c.loss
            for a in layers[0] for b in layers[1] for c in layers[2]
            if a.macs + b.macs + c.macs <= budget
        )  # fmt: skip
        assert sum(o.loss for o in chosen) == pytest.approx(best)


BODIES: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "gemm": ("float[N,64] x", "y = Gemm<transB = 1>(x, w, b)", {"w": _low(48, 64, 8), "b": _random(48)}, 8),
    "gemm as it comes": (
        "float[N,64] x",
        "y = Gemm<alpha = 0.5, beta = 2.0>(x, w, b)",
        {"w": _low(64, 48, 8), "b": _random(48)},
        8,
    ),
    "matmul": ("float[N,64] x", "y = MatMul(x, w)", {"w": _low(64, 48, 8)}, 8),
    "stacked": ("float[N,5,64] x", "m = MatMul(x, w) y = Add(m, b)", {"w": _low(64, 48, 8), "b": _random(48)}, 8),
    "stacked, no bias": ("float[N,5,64] x", "y = MatMul(x, w)", {"w": _low(64, 48, 8)}, 8),
    "pointwise": (
        "float[N,64,6,7] x",
        "y = Conv<strides = [2, 1]>(x, w)",
        {"w": _low(48, 64, 8).reshape(48, 64, 1, 1)},
        8,
    ),
    "channels": (
        "float[N,8,9,8] x",
        "y = Conv<pads = [1, 0, 2, 1], strides = [2, 1], dilations = [2, 1]>(x, w, b)",
        {"w": _low(32, 72, 4).reshape(32, 8, 3, 3), "b": _random(32)},
        4,
    ),
    "one axis": ("float[N,8,9] x", "y = Conv<pads = [1, 1]>(x, w)", {"w": _low(32, 24, 4).reshape(32, 8, 3)}, 4),
}  # fmt: skip


def _model(parse: Any, case: str) -> ir.Model:
    shape, body, constants, _ = BODIES[case]
    return load(parse(f"g ({shape}) => (float[] y) {{ {body} }}", 21, constants))


def _data(model: ir.Model, count: int = 200, seed: int = 0) -> Any:
    shape = [d if isinstance(d, int) else 1 for d in (ir.dims(model.graph.inputs[0]) or ())]
    return np.random.default_rng(seed).standard_normal((count, *shape[1:])).astype(np.float32) + 0.5


def _sqnr(model: ir.Model, other: ir.Model, x: Any) -> float:
    a, b = (
        np.concatenate(
            [next(iter(OrtRunner.from_model(m).run({"x": row[None]}).values())).ravel() for row in x]
        )
        for m in (model, other)
    )
    return float(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()))


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("case", BODIES)
def test_a_matrix_of_low_rank_is_found(parse: Any, case: str, weighted: bool) -> None:
    model, rank = _model(parse, case), BODIES[case][3]
    step = SplitGemm(energy=0.99, weighted=weighted, kernels="channel")
    made, log = Pipeline([step]).run(model, PassContext(data=_data(model)))
    assert log.records[0].rewritten == 1
    first = next(iter(made.graph))
    weight = ir.constant(first.inputs[1])
    assert weight is not None
    assert rank in weight.shape
    assert weight.dtype == np.float32
    assert total_macs(made) < total_macs(model)
    assert _sqnr(model, made, _data(model, 5, seed=9)) > 45
    _, again = Pipeline([step]).run(made, PassContext(data=_data(model)))
    assert again.records[0].rewritten == 0


def test_a_kernel_is_taken_apart(parse: Any) -> None:
    tall, flat = _random(4, 8, 3), _random(32, 4, 5, seed=1)
    weight = np.einsum("rip,orq->oipq", tall, flat) + 1e-3 * _random(32, 8, 3, 5, seed=2)
    text = "g (float[N,8,9,8] x) => (float[] y) { y = Conv<pads = [1, 2, 0, 1], strides = [2, 1]>(x, w, b) }"
    model = load(parse(text, 21, {"w": weight.astype(np.float32), "b": _random(32)}))
    made, _ = Pipeline([SplitGemm(energy=0.99)]).run(model, PassContext(data=_data(model)))
    kernels = [ir.static_dims(node.inputs[1]) for node in made.graph]  # type: ignore[arg-type]
    assert kernels == [(4, 8, 3, 1), (32, 4, 1, 5)]
    assert _sqnr(model, made, _data(model, 5, seed=9)) > 40


def _chain(parse: Any) -> ir.Model:
    layers = {f"w{i}": _random(64, 64, seed=i) / np.float32(8) for i in range(3)}
    body = "a = Gemm<transB = 1>(x, w0) r = Relu(a) b = Gemm<transB = 1>(r, w1) s = Relu(b) y = Gemm<transB = 1>(s, w2)"
    return load(parse(f"g (float[N,64] x) => (float[N,64] y) {{ {body} }}", 21, layers))


def _mixed(model: ir.Model, count: int, seed: int) -> Any:
    """Inputs of few directions, as data have."""
    mix = np.random.default_rng(1).standard_normal((64, 64)) * np.logspace(0, -2, 64)[:, None]
    return (_data(model, count, seed) @ mix).astype(np.float32)


def test_each_way_of_weighing_gains(parse: Any) -> None:
    model = _chain(parse)
    ways: list[dict[str, Any]] = [
        {"weighted": False}, {"onward": False, "sequential": False}, {"sequential": False},
    ]  # fmt: skip
    found = []
    for way in ways:
        step = SplitGemm(ratio=0.6, **way)
        made, _ = Pipeline([step]).run(model, PassContext(data=_mixed(model, 600, 2)))
        assert total_macs(made) <= 0.6 * total_macs(model)
        found.append(_sqnr(model, made, _mixed(model, 100, 3)))
    assert found[1] > found[0] + 3
    assert found[2] > found[1] + 0.5


@pytest.mark.parametrize("error", [0.1, 0.001])
def test_as_far_as_the_answers_allow(error: float) -> None:
    """The measured change of the answers is within the error; at half the ratio it is not."""
    model, _ = Pipeline([make_pass("fold_constants"), make_pass("fuse_gemm")]).run(
        load(MODELS / "digits_mlp.onnx")
    )
    images = np.load(MODELS / "digits_mlp_calib.npz")
    context = PassContext(data=images[images.files[0]])
    _, log = Pipeline([SplitGemm(error=error)]).run(model, context)
    effect = log.records[0].effect
    assert effect is not None
    assert 10 ** (-effect.sqnr_db / 10) <= error
    ratio = effect.macs[1] / effect.macs[0]
    _, log = Pipeline([SplitGemm(ratio=ratio / 2)]).run(model, context)
    assert log.records[0].effect is not None
    assert 10 ** (-log.records[0].effect.sqnr_db / 10) > error


def test_the_budget_is_of_the_whole_network(parse: Any) -> None:
    model = _chain(parse)
    limit = 0.7 * total_macs(model)
    made, _ = Pipeline([SplitGemm(max_macs=limit)]).run(model, PassContext(data=_mixed(model, 300, 2)))
    assert total_macs(made) <= limit


def test_the_factors_stay_two(parse: Any) -> None:
    """One layer would be slower: what splits knows the same costs as what fuses."""
    model, target = _chain(parse), edgecc.target("arm")
    context = PassContext(data=_mixed(model, 300, 2), target=target)
    made, log = Pipeline([SplitGemm(ratio=0.6), FuseDepthwisePointwise()]).run(model, context)
    assert log.records[0].rewritten
    assert log.records[1].rewritten == 0
    assert any("cycles in int8, the two" in refusal.reason for refusal in log.records[1].refused)
    assert made.graph.num_nodes() > model.graph.num_nodes()


REFUSED: dict[str, tuple[str, str, str]] = {
    "groups": ("float[N,8,6,6] x", "y = Conv<group = 2>(x, k)", "it has 2 groups"),
    "shared": (
        "float[N,64] x",
        "a = MatMul(x, w) r = Relu(a) y = MatMul(r, w)",
        "other nodes read its weights, too",
    ),
    "computed": ("float[N,64] x", "v = Relu(w) y = Gemm(x, v)", "are computed while running"),
    "automatic": ("float[N,4,6,6] x", 'y = Conv<auto_pad = "SAME_UPPER">(x, k)', "auto_pad"),
    "small": ("float[N,64] x", "y = MatMul(x, thin)", "no multiply-accumulates are saved"),
    "full": ("float[N,64] x", "y = MatMul(x, w)", "what it would lose"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_reason(parse: Any, case: str) -> None:
    shape, body, reason = REFUSED[case]
    held = {"w": _random(64, 64), "k": _random(8, 4, 3, 3), "thin": _random(64, 1)}
    used = {n: a for n, a in held.items() if f" {n})" in body or f"({n})" in body}
    model = load(parse(f"g ({shape}) => (float[] y) {{ {body} }}", 21, used))
    _, log = Pipeline([SplitGemm(energy=0.999)]).run(model, PassContext(data=_data(model, 300)))
    assert log.records[0].rewritten == 0
    assert any(reason in refusal.reason for refusal in log.records[0].refused), log.records[0].refused


def test_where_it_is_not_faster_it_is_refused(parse: Any) -> None:
    """Where an operator costs much, two are not faster than one."""
    from msgspec.structs import replace

    target = edgecc.target("arm")
    slow = replace(target, cost=replace(target.cost, operator=1e9))
    model = _model(parse, "gemm")
    _, log = Pipeline([SplitGemm(ratio=0.5)]).run(model, PassContext(data=_data(model), target=slow))
    assert log.records[0].rewritten == 0
    assert "predicted cycles do not fall" in log.records[0].refused[0].reason


@pytest.mark.parametrize(
    ("options", "data", "reason"),
    [
        ({}, True, "none of energy, ratio, max_macs and error"),
        ({"energy": 0.9, "ratio": 0.5}, True, "2 of energy"),
        ({"ratio": 1.5}, True, "at most 1"),
        ({"ratio": 0.5}, False, "needs calibration data"),
    ],
)
def test_wrong_use(parse: Any, options: dict[str, Any], data: bool, reason: str) -> None:
    model = _model(parse, "gemm")
    with pytest.raises(UsageError, match=reason):
        Pipeline([SplitGemm(**options)]).run(model, PassContext(data=_data(model) if data else None))


@pytest.mark.parametrize("precision", ["int8", "dynamic"])
def test_digits_to_both_formats(tmp_path: Path, precision: Any) -> None:
    calibration, test = (np.load(MODELS / f"digits_cnn_{part}.npz") for part in ("calib", "test"))
    result = edgecc.compile(
        MODELS / "digits_cnn.onnx", precision=precision, data=calibration[calibration.files[0]],
        eval_data=test[test.files[0]], passes=("split_gemm:ratio=0.6",), no_profile=True, output=tmp_path / "out",
    )  # fmt: skip
    assert set(result.artifacts) == {"tflite", "onnx"}
    for fidelity in result.fidelities.values():
        assert fidelity.agreement is not None
        assert fidelity.agreement > 0.97


def test_half_of_lenet(shared: Path) -> None:
    with np.load(shared / "data" / "mnist_test.npz", allow_pickle=False) as file:
        x, y = (file["x"] / np.float32(256))[:, None].astype(np.float32), file["y"]
    step = SplitGemm(ratio=0.5, operators="gemm")
    model = load(shared / "models" / "lenet_caffe.onnx")
    made, log = Pipeline([step]).run(model, PassContext(data=x[::20]))
    assert log.records[0].rewritten
    test = np.setdiff1d(np.arange(len(x)), np.arange(0, len(x), 20))[::4]
    scores = []
    for m in (model, made):
        runner = OrtRunner.from_model(m)
        name = runner.inputs[0].name
        right = [next(iter(runner.run({name: x[i][None]}).values())).argmax() == y[i] for i in test]
        scores.append(100 * np.mean(right))
    assert scores[1] >= scores[0] - 0.3


def test_half_of_dnn_l(shared: Path) -> None:
    """3 dB above the plain decomposition at equal multiply-accumulates, on other inputs than were calibrated with."""
    model = load(shared / "models" / "dnn_l.onnx")
    name = model.graph.inputs[0].name
    data, test = (_random(count, 250, seed=seed) for count, seed in ((2000, 7), (1000, 1)))
    found = []
    for weighted in (False, True):
        made, _ = Pipeline([SplitGemm(ratio=0.5, weighted=weighted)]).run(model, PassContext(data=data))
        gemms = [total_macs(m) for m in (model, made)]
        assert gemms[1] <= 0.5 * gemms[0]
        a, b = (_answers(m, str(name), test) for m in (model, made))
        found.append(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()))
    assert found[1] >= found[0] + 3


def _answers(model: ir.Model, name: str, x: Any) -> Any:
    runner = OrtRunner.from_model(model)
    return np.stack([next(iter(runner.run({name: row[None]}).values())) for row in x])
