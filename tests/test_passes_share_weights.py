"""share_weights: few values a tensor or channel, zeros among them, and integers that keep them few."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import edgecc
from edgecc import ir
from edgecc.errors import UsageError
from edgecc.importer import load
from edgecc.passes.equalize import Equalize
from edgecc.passes.round_weights import RoundWeights
from edgecc.passes.share_weights import ShareWeights, clustered
from edgecc.passes.sparsify import Sparsify
from edgecc.pipeline import PassContext, Pipeline
from edgecc.quant import int4
from edgecc.quant.params import from_weights
from edgecc.quant.shared_values import REASON, shares_steps, shares_values, stays_few

MODELS = Path(__file__).resolve().parents[1] / "models"
RNG = np.random.default_rng(0)


def normal(*shape: int) -> ir.Array:
    return RNG.standard_normal(shape).astype(np.float32)


WEIGHTS = {"w": normal(32, 64), "b": normal(32), "v": normal(32, 8), "c": normal(8)}


@pytest.fixture
def network(parse: Any) -> ir.Model:
    text = (
        "g (float[1,64] x) => (float[1,8] y) { h = Gemm<transB = 1>(x, w, b) r = Relu(h) y = Gemm(r, v, c) }"
    )
    return load(parse(text, constants=WEIGHTS))


def data(count: int = 40) -> list[dict[str, ir.Array]]:
    scale = np.geomspace(0.05, 5, 64).astype(np.float32)
    return [{"x": scale * normal(1, 64) + 1} for _ in range(count)]


def held(model: ir.Model, name: str) -> ir.Array:
    array = ir.constant(model.graph.initializers[name])
    assert array is not None
    return array


def test_clusters_are_means_and_as_many_as_wanted() -> None:
    values, importance = normal(5000).astype(np.float64), RNG.random(5000) + 0.1
    found = clustered(values, importance, 16)
    centres = np.unique(found)
    assert 12 <= centres.size <= 16  # evenly spaced to begin with: some may find nothing
    for centre in centres:
        chosen = found == centre
        assert centre == pytest.approx(np.average(values[chosen], weights=importance[chosen]), rel=1e-5)
    distance = np.abs(values[:, None] - centres)
    assert (np.abs(values - found) <= distance.min(axis=1) + 5e-2).all()


def test_zero_is_a_value_of_its_own() -> None:
    values = normal(1000).astype(np.float64)
    values[::3] = 0
    found = clustered(values, np.ones(1000), 8)
    assert np.array_equal(found == 0, values == 0)
    assert 6 <= np.unique(found).size <= 8
    assert not clustered(np.zeros(10), np.ones(10), 4).any()


def test_steps_of_the_largest_weight_are_kept_by_the_scale_of_each_channel(network: ir.Model) -> None:
    for name in "wv":
        old = held(network, name)
        scale = np.geomspace(0.001, 10, old.shape[name == "v"]).astype(np.float32)
        value = network.graph.initializers[name]
        value.const_value = ir.Tensor(old * (scale[:, None] if name == "w" else scale), name=name)
    before = held(network, "w").copy()
    made, log = Pipeline([ShareWeights(bits=4)]).run(network)
    assert log.records[0].rewritten == 2
    for name, axis in (("w", 0), ("v", 1)):
        array = held(made, name)
        assert shares_steps(array, axis)
        assert stays_few(array, axis)
        assert not shares_values(array)
        params = from_weights(array, axis)
        stored = int4.quantized(params, array)
        assert 8 <= np.unique(stored).size <= 16
        shape = [-1, 1] if axis == 0 else [1, -1]
        assert np.allclose(stored * params.scale.reshape(shape), array, rtol=1e-5, atol=0)
    array = held(made, "w")
    assert np.array_equal(np.abs(array).max(axis=1), np.abs(before).max(axis=1))
    lost = ((array - before) ** 2).sum(axis=1) / (before**2).sum(axis=1)
    assert lost.max() < 0.03  # 4 bits in every channel, however small its weights are
    again, log = Pipeline([ShareWeights(bits=4)]).run(made)
    assert log.records[0].rewritten == 0
    assert np.array_equal(held(again, "w"), array)


def test_weights_that_are_many_steps_do_not_share() -> None:
    codes = RNG.integers(-127, 128, (30, 40))
    codes[:, 0] = 127
    assert not shares_steps((codes / 127).astype(np.float32), 0)
    assert not shares_steps(normal(30, 40), 0)
    few = RNG.choice([-127, -3, 0, 50, 127], (30, 40))
    few[:, 0] = 127
    scale = np.geomspace(1e-4, 1, 30).astype(np.float32)[:, None]
    assert shares_steps((scale * few / 127).astype(np.float32), 0)
    assert shares_steps((scale * few / 127).astype(np.float32).T, 1)


def test_one_bit_beside_zeros_keeps_both_signs() -> None:
    values = np.array([0.0, 1.0, -1.0, 0.4, -0.3])
    assert clustered(values, np.ones(5), 2, True).tolist() == [0.0, 1.0, -1.0, 1.0, -1.0]


@pytest.mark.parametrize("scope", ["tensor", "channel"])
def test_layers_get_so_many_values(network: ir.Model, scope: Any) -> None:
    made, log = Pipeline([ShareWeights(bits=3, scope=scope)]).run(network)
    assert log.records[0].rewritten == 2
    rows = held(made, "w")
    parts = [rows] if scope == "tensor" else list(rows)
    assert all(5 <= np.unique(part).size <= 8 for part in parts)
    again, log = Pipeline([ShareWeights(bits=3, scope=scope)]).run(made)
    assert log.records[0].rewritten == 0
    assert np.array_equal(held(again, "w"), rows)


def test_data_say_which_errors_count(network: ir.Model) -> None:
    samples = data()
    x = np.concatenate([s["x"] for s in data(200)])
    want = x @ WEIGHTS["w"].T + WEIGHTS["b"]

    def error(given: Any) -> float:
        made, _ = Pipeline([ShareWeights(bits=3)]).run(network, PassContext(data=given))
        return float(((x @ held(made, "w").T + held(made, "b") - want) ** 2).sum())

    assert error(samples) < 0.95 * error(None)


def test_small_layers_are_refused(network: ir.Model) -> None:
    _, log = Pipeline([ShareWeights(min_elements=1000)]).run(network)
    assert [r.reason for r in log.records[0].refused] == ["its weights are 256 numbers, fewer than 1000"]
    with pytest.raises(UsageError, match="codebooks of 9 bits"):
        ShareWeights(bits=9)


def test_sharing_is_told_from_the_weights() -> None:
    assert shares_values(RNG.choice(normal(32), (20, 30)))
    assert not shares_values(normal(20, 30))
    assert not shares_values(RNG.choice(normal(200), (90, 90)))
    assert not shares_values(np.zeros((9, 9), np.float32))
    assert not shares_values(normal(3, 3))


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_integers_keep_values_few(dtype: Any) -> None:
    weights = RNG.choice(normal(12), (20, 30)).astype(np.float32)
    params = from_weights(weights, 0, dtype)
    assert params.scale.shape == (20,)
    assert np.unique(params.scale).size == 1
    stored = int4.quantized(params, weights).astype(np.int8)
    assert all(np.unique(stored[weights == value]).size == 1 for value in np.unique(weights))


@pytest.mark.parametrize(("scope", "one"), [("tensor", True), ("steps", False)])
def test_passes_on_the_way_to_integers_leave_shared_weights(parse: Any, scope: Any, one: bool) -> None:
    from edgecc.calibration.observers import collect
    from edgecc.quant.plan import make_plan

    text = """g (float[1,4,6,6] x) => (float[1,24,6,6] y) {
        h = Conv<pads = [1,1,1,1]>(x, w, b) r = Relu(h) y = Conv(r, v, c) }"""
    weights = {"w": normal(16, 4, 3, 3), "b": normal(16), "v": normal(24, 16, 1, 1), "c": normal(24)}
    network, samples = load(parse(text, constants=weights)), [{"x": normal(1, 4, 6, 6)} for _ in range(8)]
    _, log = Pipeline([Equalize()]).run(network, PassContext(data=samples))
    assert log.records[0].rewritten == 1
    made, _ = Pipeline([Sparsify(criterion="magnitude"), ShareWeights(bits=4, scope=scope)]).run(network)
    before = {n: held(made, n).copy() for n in "wv"}
    same, log = Pipeline([Equalize()]).run(made, PassContext(data=samples))
    assert log.records[0].rewritten == 0
    assert REASON in [r.reason for r in log.records[0].refused]
    plan = make_plan(same, collect(same, samples))
    rounded, log = Pipeline([RoundWeights()]).run(same, PassContext(data=samples, plan=plan))
    assert [r.reason for r in log.records[0].refused] == [REASON, REASON]
    for name, array in before.items():
        assert np.array_equal(held(rounded, name), array)
        assert bool(np.unique(plan.tensors[name].scale).size == 1) is one
        stored = int4.quantized(plan.tensors[name], array)
        assert np.unique(stored).size <= 16


def test_channels_of_unlike_size_do_not_share() -> None:
    """Filters made by hand have few values, too, but one scale for all of them would be none for most."""
    alike = np.repeat(np.array([[1.0, -1.0, 0.5, 0.0]], np.float32), 8, axis=0).repeat(8, axis=1)
    assert shares_values(alike)
    assert not shares_values(alike * np.array([300, 1, 1, 1, 1, 1, 1, 1], np.float32).reshape(8, 1))


@pytest.mark.parametrize("precision", ["int8", "dynamic", "int4"])
def test_artifacts_hold_few_integers(tmp_path: Path, precision: Any) -> None:
    calibrated: Any = {} if precision == "dynamic" else {"data": MODELS / "digits_mlp_calib.npz"}
    result = edgecc.compile(
        MODELS / "digits_mlp.onnx", output=tmp_path / "out", passes=("share_weights:bits=4",), precision=precision,
        no_verify=True, no_profile=True, threads=1, format="onnx", **calibrated,
    )  # fmt: skip
    model = onnx.load_from_string(next(iter(result.artifacts.values())).content())
    stored = [a for t in model.graph.initializer if (a := onnx.numpy_helper.to_array(t)).size > 2000]
    assert len(stored) == 3
    assert all(np.unique(a.astype(np.int8)).size <= 16 for a in stored)
