"""sparsify: which weights go, what the others make up for, and that int8 leaves zeros zero."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import edgecc
from edgecc import ir
from edgecc.calibration.moments import collect_moments
from edgecc.errors import UsageError
from edgecc.importer import load
from edgecc.passes import _obs as obs
from edgecc.passes.sparsify import Sparsify
from edgecc.pipeline import PassContext, PassRecord, Pipeline
from edgecc.quant.compensate import compensated, compensated_lanes
from edgecc.runtime.ort import OrtRunner

MODELS = Path(__file__).resolve().parents[1] / "models"
RNG = np.random.default_rng(0)
CRITERIA: tuple[Any, ...] = ("magnitude", "gradient", "entropy", "hessian")


def normal(*shape: int) -> ir.Array:
    return RNG.standard_normal(shape).astype(np.float32)


WEIGHTS = {
    "w": normal(8, 4, 3, 3), "b": normal(8), "d": normal(8, 1, 3, 3), "e": normal(8), "p": normal(6, 8, 1, 1),
    "q": normal(6), "t": normal(6, 5, 2, 2),
}  # fmt: skip
MIX = normal(4, 4)  # channels vary together
BODY = """g (float[1,4,6,6] x) => (float[1,6,6,6] y) {
    c = Conv<pads = [1,1,1,1]>(x, w, b) r = Relu(c)
    s = Conv<pads = [1,1,1,1], group = 8>(r, d, e) y = Conv(s, p, q) }"""


def data(count: int = 24) -> list[dict[str, ir.Array]]:
    return [
        {"x": np.einsum("ij,njhw->nihw", MIX, normal(1, 4, 6, 6)).astype(np.float32)} for _ in range(count)
    ]


@pytest.fixture
def network(parse: Any) -> ir.Model:
    return load(parse(BODY, constants={k: v for k, v in WEIGHTS.items() if k != "t"}))


def run(model: ir.Model, step: Sparsify, samples: Any = None) -> tuple[ir.Model, PassRecord]:
    made, log = Pipeline([step]).run(model, PassContext(data=samples))
    return made, log.records[0]


def weights(model: ir.Model) -> dict[str, ir.Array]:
    found = {n: ir.constant(v) for n, v in model.graph.initializers.items()}
    return {n: a for n, a in found.items() if a is not None and a.ndim > 1}


def zeros(model: ir.Model) -> float:
    arrays = weights(model).values()
    return sum(int((a == 0).sum()) for a in arrays) / sum(a.size for a in arrays)


def noise(model: ir.Model, made: ir.Model, samples: Any) -> float:
    """Power of the change of the answers, as a share of theirs."""
    a, b = OrtRunner.from_model(model), OrtRunner.from_model(made)
    pairs = [(a.run(s), b.run(s)) for s in samples]
    change = sum(float(((p[n] - q[n]) ** 2).sum()) for p, q in pairs for n in p)
    return change / sum(float((p[n] ** 2).sum()) for p, _ in pairs for n in p)


def test_the_cost_of_a_removal_is_what_the_best_refit_leaves() -> None:
    x = normal(300, 12).astype(np.float64) @ normal(12, 12)
    second = x.T @ x / 300 + 1e-3 * np.eye(12)
    rows = normal(5, 12).astype(np.float64)
    price = obs.costs(rows, second, obs.Pattern())
    assert np.isfinite(price).all()
    for row, cost in zip(rows, price, strict=True):
        order = np.argsort(cost)
        for count in range(1, 12):
            mask = np.ones(12, bool)
            mask[order[:count]] = False
            kept = obs.refitted(row[None], second, mask[None])[0]
            assert not kept[~mask].any()
            gradient = (kept - row) @ second
            assert np.abs(gradient[mask]).max() < 1e-8  # nothing better with these weights
        first = order[0]
        alone = row[first] ** 2 / np.linalg.inv(second)[first, first]
        assert cost[first] == pytest.approx(alone)
        assert alone == pytest.approx(min(row**2 / np.diag(np.linalg.inv(second))))


@pytest.mark.parametrize("size", [48, 96])  # the second is computed in float32, and refitted row by row
def test_the_costs_add_up_to_the_error(size: int) -> None:
    x = normal(900, size).astype(np.float64) @ (normal(size, size) / 8 + np.eye(size))
    second = x.T @ x / 900 + 1e-2 * np.eye(size)
    rows = normal(3, size).astype(np.float64)
    price = obs.costs(rows, second, obs.Pattern())
    limit = np.quantile(price, 0.4, axis=1, keepdims=True)
    mask = price > limit
    kept = obs.refitted(rows, second, mask)
    lost = np.einsum("oi,ij,oj->o", rows - kept, second, rows - kept)
    assert lost == pytest.approx(np.where(mask, 0, price).sum(axis=1), rel=0.35)  # prices never fall: bounds
    naive = np.argsort(np.argsort(np.abs(rows), axis=1), axis=1) >= np.count_nonzero(~mask, axis=1)[:, None]
    plain = np.einsum("oi,ij,oj->o", rows * ~naive, second, rows * ~naive)
    assert (lost < 0.7 * plain).all()


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_it_removes_the_ratio_and_nothing_the_second_time(
    network: ir.Model, criterion: Any, scope: Any
) -> None:
    step, samples = Sparsify(criterion=criterion, scope=scope, ratio=0.4), data()
    once, record = run(network, step, samples)
    assert record.rewritten == 3
    assert record.refused == ()
    assert zeros(once) == pytest.approx(0.4, abs=0.01)
    if scope == "layer":
        assert all(abs(float((a == 0).mean()) - 0.4) < 0.02 for a in weights(once).values())
    twice, record = run(once, step, samples)
    assert record.rewritten == 0
    assert all(np.array_equal(a, weights(once)[n]) for n, a in weights(twice).items())
    assert zeros(network) == 0


def test_compensation_keeps_the_answers_best(network: ir.Model) -> None:
    samples, fresh = data(), data()
    lost: dict[Any, float] = {
        c: noise(network, run(network, Sparsify(criterion=c, ratio=0.5, scope="layer"), samples)[0], fresh)
        for c in CRITERIA
    }
    assert lost["hessian"] < 0.9 * min(lost[c] for c in CRITERIA if c != "hessian")


def test_the_bias_takes_the_mean_of_what_is_lost(network: ir.Model) -> None:
    samples = data()
    for criterion in CRITERIA:
        made, _ = run(network, Sparsify(criterion=criterion, ratio=0.5), samples)
        want, got = (
            np.concatenate([OrtRunner.from_model(m, extra_outputs=["c"]).run(s)["c"] for s in samples])
            for m in (network, made)
        )
        error = (got - want).mean(axis=(0, 2, 3))
        assert np.abs(error).max() < 0.05 * want.std()


def test_a_threshold_of_magnitude_is_that(network: ir.Model) -> None:
    made, record = run(network, Sparsify(criterion="magnitude", threshold=0.3))
    assert record.rewritten == 3
    for name, array in weights(network).items():
        assert np.array_equal(weights(made)[name], np.where(np.abs(array) < 0.3, 0, array))
    assert run(made, Sparsify(criterion="magnitude", threshold=0.3))[1].rewritten == 0


def test_a_threshold_of_hessian_bounds_the_error(network: ir.Model) -> None:
    samples = data(60)
    spent = []
    for allowed in (1e-3, 1e-2, 1e-1):
        made, _ = run(network, Sparsify(threshold=allowed), samples)
        measured = noise(network, made, samples)
        assert measured < 3 * allowed  # a forecast of small errors that are taken to be independent
        spent.append((zeros(made), measured))
    assert spent == sorted(spent)
    assert spent[0][0] < spent[-1][0]


@pytest.mark.parametrize("criterion", ["magnitude", "hessian"])
def test_patterns(network: ir.Model, criterion: Any) -> None:
    made, record = run(network, Sparsify(criterion=criterion, pattern="2:4"), data())
    assert [r.reason for r in record.refused] == ["its 1 input channels are no multiple of 4"]
    groups = weights(made)["p"].reshape(6, 2, 4)
    assert (np.count_nonzero(groups, axis=2) == 2).all()
    taps = weights(made)["w"].transpose(0, 2, 3, 1)
    assert (np.count_nonzero(taps, axis=3) == 2).all()
    assert run(made, Sparsify(criterion=criterion, pattern="2:4"), data())[1].rewritten == 0
    made, _ = run(network, Sparsify(criterion=criterion, pattern="1x4", ratio=0.5, scope="layer"), data())
    blocks = weights(made)["p"].reshape(6, 2, 4).any(axis=2)
    assert blocks.sum() == 6
    assert (np.count_nonzero(weights(made)["p"].reshape(6, 2, 4), axis=2)[blocks] == 4).all()


def test_refusals_name_the_reason(parse: Any) -> None:
    body = """g (float[1,4,6,6] x) => (float[1,5,7,7] z) {
        c = Conv<pads = [1,1,1,1]>(x, w, b) d = Conv<pads = [1,1,1,1]>(x, w, b) s = Add(c, d)
        y = Conv(s, p, q) z = ConvTranspose(y, t) }"""
    model = load(parse(body, constants={k: WEIGHTS[k] for k in "wbpqt"}))
    _, record = run(model, Sparsify(criterion="magnitude"))
    assert record.rewritten == 1
    assert [r.reason for r in record.refused] == [
        "other nodes read its weights, too",
        "other nodes read its weights, too",
        "ConvTranspose is not supported",
    ]


@pytest.mark.parametrize("criterion", CRITERIA[1:])
def test_measured_criteria_say_that_they_need_data(network: ir.Model, criterion: Any) -> None:
    with pytest.raises(UsageError, match="calibration data") as caught:
        run(network, Sparsify(criterion=criterion))
    assert "--data" in str(caught.value.remedy)


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.5, "threshold": 0.1}, {"ratio": 1.0}, {"ratio": -0.1}, {"pattern": "4:4"}, {"pattern": "1x1"},
        {"pattern": "4x4"}, {"pattern": "2:4", "ratio": 0.5}, {"pattern": "2:4", "threshold": 0.5},
    ],
)  # fmt: skip
def test_options_that_contradict_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Sparsify(**options)


def test_rounding_keeps_zeros_and_what_is_left_compensates() -> None:
    x = normal(500, 24) @ normal(24, 24)
    second = (x.T @ x / len(x)).astype(np.float64) + 1e-3 * np.eye(24)
    wanted = 20 * normal(7, 24).astype(np.float64)
    wanted[RNG.random(wanted.shape) < 0.5] = 0
    found = compensated(wanted, second, -127, 127)
    assert not found[wanted == 0].any()
    assert np.array_equal(compensated_lanes(wanted, np.repeat(second[None], 7, axis=0), -127, 127), found)
    lost, plain = (np.einsum("oi,ij,oj->o", e, second, e) for e in (wanted - found, wanted - np.rint(wanted)))
    assert lost.sum() < 0.9 * plain.sum()


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_zeros_stay_zero_in_integers(tmp_path: Path, precision: Any) -> None:
    result = edgecc.compile(
        MODELS / "digits_cnn.onnx", data=MODELS / "digits_cnn_calib.npz", output=tmp_path / "out",
        passes=("sparsify:ratio=0.6,samples=32",), precision=precision,
        no_verify=True, no_profile=True, threads=1, format="onnx",
    )  # fmt: skip
    model = onnx.load_from_string(next(iter(result.artifacts.values())).content())
    arrays = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer]
    stored = [a for a in arrays if a.dtype.itemsize == 1 and a.ndim > 1]
    count = sum(int((a.astype(np.int8) == 0).sum()) for a in stored)
    assert count >= 0.6 * sum(a.size for a in stored) - 1


def test_digits_lose_little_at_half_the_weights(tmp_path: Path) -> None:
    result = edgecc.compile(
        MODELS / "digits_cnn.onnx", data=MODELS / "digits_cnn_calib.npz", eval_data=MODELS / "digits_cnn_test.npz",
        output=tmp_path / "out", passes=("sparsify:ratio=0.5",), format="onnx", no_profile=True, threads=1,
    )  # fmt: skip
    assert result.fidelity is not None
    assert result.fidelity.agreement is not None
    assert result.fidelity.agreement > 0.97
    assert result.fidelity.sqnr_db > 15


def test_moments_of_the_answers_are_what_the_refit_uses(network: ir.Model) -> None:
    """With all weights kept, a refit changes nothing."""
    from edgecc.passes import _rewrite as rw
    from edgecc.passes._scores import refit
    from edgecc.passes._weights import layers

    made = network.clone()
    keep = {layer: np.ones(layer.matrix().shape, bool) for layer in layers(made, rw.Tally())}
    refit(made, PassContext(data=data()), keep, damping=0.01, samples=8, columns=49)
    for name, array in weights(network).items():
        np.testing.assert_allclose(weights(made)[name], array, rtol=1e-4, atol=1e-5)
    assert [n for n, _ in collect_moments(made, data(2), [layer.node for layer in keep])]
