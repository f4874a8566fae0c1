"""Rounding with compensation, equalization, ranges of least error, and plans that keep what they made."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgecc
from edgecc import ir
from edgecc.analysis.scaling import scalable_groups
from edgecc.calibration.columns import groups, take_rows, take_windows, windows
from edgecc.calibration.least_error import LeastError, least_error
from edgecc.calibration.moments import Moments, collect_moments, spread
from edgecc.calibration.observers import collect
from edgecc.errors import ModelError, UsageError
from edgecc.importer import load
from edgecc.passes.equalize import Equalize
from edgecc.passes.round_weights import RoundWeights
from edgecc.pipeline import PassContext
from edgecc.quant.compensate import compensated, compensated_lanes
from edgecc.quant.constants import changed, restore
from edgecc.quant.plan import QuantPlan, make_plan
from edgecc.runtime.ort import OrtRunner

MODELS = Path(__file__).resolve().parents[1] / "models"
RNG = np.random.default_rng(0)


def held(value: ir.Value | None) -> ir.Array:
    """The array of a constant, which it must be."""
    array = ir.constant(value)
    assert array is not None
    return array


def normal(*shape: int) -> ir.Array:
    return RNG.standard_normal(shape).astype(np.float32)


def samples(*shape: int, count: int = 8) -> list[dict[str, ir.Array]]:
    mix = normal(shape[1], shape[1])  # channels that vary together: what compensation lives on
    return [{"x": np.einsum("ij,nj...->ni...", mix, normal(*shape)).astype(np.float32)} for _ in range(count)]


WEIGHTS = {
    "w": normal(8, 4, 3, 3), "b": normal(8), "d": normal(8, 1, 3, 3), "e": normal(8), "p": normal(6, 8, 1, 1),
    "q": normal(6), "g": normal(96, 5), "h": normal(5), "v": normal(8, 8, 1, 1), "u": normal(8),
    "six": np.array(6.0, np.float32), "zero": np.array(0.0, np.float32), "one": np.array(1.0, np.float32),
}  # fmt: skip
CONV = "Conv<pads = [1,1,1,1]>"


@pytest.fixture
def network(parse: Any) -> Any:
    """Makes a network of the body's text, with one input x and one output y, of those constants that it reads."""

    def make(body: str, shapes: dict[str, tuple[int, ...]], weights: dict[str, ir.Array]) -> ir.Model:
        words = set(re.findall(r"\w+", body))
        read = {name: array for name, array in weights.items() if name in words}
        size = ",".join(map(str, shapes["x"]))
        free = ",".join(f"d{i}" for i in range(len(shapes["x"])))
        return load(parse(f"g (float[{size}] x) => (float[{free}] y) {{ {body} }}", constants=read))

    return make


def test_compensated_rounding_errs_less_than_rounding_to_nearest() -> None:
    x = normal(500, 24) @ normal(24, 24)
    moments = (x.T @ x / len(x)).astype(np.float64) + 1e-3 * np.eye(24)
    weights = 20 * normal(7, 24).astype(np.float64)
    found = compensated(weights, moments, -127, 127)
    assert np.array_equal(found, np.rint(found))

    def error(rounded: ir.Array) -> ir.Array:
        lost = weights - rounded
        return np.asarray(np.einsum("oi,ij,oj->o", lost, moments, lost))

    assert (error(found) < error(np.rint(weights))).all()
    lanes = compensated_lanes(weights, np.repeat(moments[None], 7, axis=0), -127, 127)
    assert np.array_equal(lanes, found)
    assert np.abs(compensated(weights, moments, -8, 7)).max() <= 8


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        (f"y = {CONV}(x, w, b)", (1, 4, 6, 5)),
        ("y = Conv<pads = [1,0,2,1], strides = [2,1], dilations = [1,2]>(x, w, b)", (2, 4, 6, 7)),
        ("y = Conv<pads = [1,1,1,1], group = 8>(x, d, e)", (1, 8, 6, 5)),
        ("y = Gemm(x, g, h)", (3, 96)),
    ],
)
def test_columns_give_the_sums_that_the_runtime_computes(
    network: Any, body: str, shape: tuple[int, ...]
) -> None:
    model = network(body, {"x": shape}, WEIGHTS)
    node, feeds = next(iter(model.graph)), {"x": normal(*shape)}
    if node.op_type == "Conv":
        chosen = windows(node, shape[2:], 10_000, RNG)
        columns = np.concatenate([take_windows(one, groups(node), chosen) for one in feeds["x"]], axis=2)
        assert windows(node, shape[2:], 2, RNG).index.shape[1] == 2
    else:
        columns = take_rows(feeds["x"], 10_000, RNG)
        assert take_rows(feeds["x"], 2, RNG).shape[2] == 2
    weight, bias = held(node.inputs[1]), held(node.inputs[2])
    rows = (
        weight.reshape(columns.shape[0], -1, columns.shape[1]) if node.op_type == "Conv" else weight.T[None]
    )
    sums = (rows @ columns).reshape(len(bias), -1) + bias[:, None]
    (want,) = OrtRunner.from_model(model, optimize=False).run(feeds).values()
    want = np.moveaxis(want, 1, 0).reshape(len(bias), -1)
    assert np.allclose(sums, want, atol=1e-4)


def test_moments_are_the_means_of_products(network: Any) -> None:
    model, data = network("y = Gemm(x, g, h)", {"x": (1, 96)}, WEIGHTS), samples(1, 96, count=20)
    ((_, found),) = collect_moments(model, data, list(model.graph))
    x = np.concatenate([s["x"] for s in data]).astype(np.float64)
    assert isinstance(found, Moments)
    assert found.count == 20
    assert np.allclose(found.second[0], x.T @ x / 20, rtol=1e-3, atol=1e-3)
    assert np.allclose(found.mean[0], x.mean(axis=0), atol=1e-4)


def test_samples_are_spread_over_data_of_known_length() -> None:
    data: list[dict[str, ir.Array]] = [{"x": np.array([i])} for i in range(10)]
    assert [int(s["x"][0]) for s in spread(data, 4)] == [0, 3, 6, 9]
    assert len(list(spread(data, 100))) == 10
    assert len(list(spread(iter(data), 3))) == 3


def rounded(model: ir.Model, data: Any, **words: Any) -> tuple[ir.Model, QuantPlan, Any]:
    plan = make_plan(model, collect(model, data), **words)
    found = model.clone()
    return found, plan, RoundWeights().apply(found, PassContext(data=data, plan=plan))


@pytest.mark.parametrize("words", [{}, {"precision": "int4"}, {"per_channel": False}])
@pytest.mark.parametrize(
    ("body", "shape"),
    [
        (f"y = {CONV}(x, w, b)", (1, 4, 9, 9)),
        ("y = Conv<pads = [1,1,1,1], group = 8>(x, d, e)", (1, 8, 9, 9)),
        ("y = Gemm(x, g, h)", (1, 96)),
        ("y = MatMul(x, g)", (1, 96)),
    ],
)
def test_round_weights_errs_less(
    network: Any, body: str, shape: tuple[int, ...], words: dict[str, Any]
) -> None:
    model, data = network(body, {"x": shape}, WEIGHTS), samples(*shape, count=300 if len(shape) == 2 else 8)
    data = [{"x": np.cumsum(s["x"] + 1, axis=-1)} for s in data]  # neighbours are alike
    found, plan, result = rounded(model, data, **words)
    assert result.rewritten == 1
    weight = next(iter(model.graph)).inputs[1]
    name = str(weight.name)
    after = held(found.graph.initializers[name])
    params = plan.tensors[name]
    assert np.allclose(params.dequantize(params.quantize(after)), after, rtol=1e-6)  # on the grid
    nearest = model.clone()
    nearest.graph.initializers[name].const_value = ir.Tensor(params.dequantize(params.quantize(held(weight))))

    def error(other: ir.Model) -> float:
        a, b = OrtRunner.from_model(model), OrtRunner.from_model(other)
        return float(sum(np.square(a.run(s)["y"] - b.run(s)["y"]).sum() for s in data))

    assert error(found) < error(nearest)


def test_the_bias_takes_the_mean_error(network: Any) -> None:
    model = network("y = Gemm(x, g, h)", {"x": (1, 96)}, WEIGHTS)
    data = [{"x": s["x"] + 3} for s in samples(1, 96, count=60)]
    found, _, _ = rounded(model, data, precision="int4")
    a, b = OrtRunner.from_model(model), OrtRunner.from_model(found)
    gap = np.mean([a.run(s)["y"] - b.run(s)["y"] for s in data], axis=0)
    assert np.abs(gap).max() < 1e-3


def test_what_cannot_be_rounded_says_why(network: Any) -> None:
    shared = "c = Conv<pads = [1,1,1,1], group = 8>(x, d, e) y = Conv<pads = [1,1,1,1], group = 8>(c, d, u)"
    model, data = network(shared, {"x": (1, 8, 6, 6)}, WEIGHTS), samples(1, 8, 6, 6)
    _, plan, result = rounded(model, data)
    assert {r.reason for r in result.refused} == {"other nodes read its weights, too"}
    large = network("y = Gemm(x, g, h)", {"x": (1, 96)}, WEIGHTS)
    data = samples(1, 96)
    plan = make_plan(large, collect(large, data))
    refused = RoundWeights(max_fan_in=50).apply(large, PassContext(data=data, plan=plan)).refused
    assert [r.reason for r in refused] == ["an output sums 96 inputs, more than max_fan_in (50)"]
    assert RoundWeights().apply(large, PassContext()).rewritten == 0


CHAIN = (
    f"a = {CONV}(x, w, b) r = Relu(a) s = Conv<pads = [1,1,1,1], group = 8>(r, d, e) t = {{act}} "
    "y = Conv(t, p, q)"
)


@pytest.mark.parametrize("act", ["Relu(s)", "Clip(s, zero, six)", "Identity(s)"])
def test_equalize_changes_scales_and_not_answers(network: Any, act: str) -> None:
    steps = np.logspace(-3, 1, 8, dtype=np.float32)
    weights = {**WEIGHTS, "w": WEIGHTS["w"] * steps[:, None, None, None], "b": 0.1 * steps}
    model, data = network(CHAIN.format(act=act), {"x": (1, 4, 9, 9)}, weights), samples(1, 4, 9, 9, count=20)
    other = model.clone()
    result = Equalize().apply(other, PassContext(data=data))
    assert result.rewritten >= 1
    a, b = OrtRunner.from_model(model, extra_outputs=["r"]), OrtRunner.from_model(other, extra_outputs=["r"])
    for sample in data:
        want, got = a.run(sample), b.run(sample)
        assert np.allclose(want["y"], got["y"], rtol=1e-3, atol=1e-4)

    def spread_of(runner: OrtRunner) -> float:
        peaks = np.max([runner.run(s)["r"].max(axis=(0, 2, 3)) for s in data], axis=0)
        return float(peaks.max() / peaks.min())

    assert spread_of(b) < spread_of(a) / 4


BOTTLENECKS = (
    "a = Conv(x, w, b) r = Relu(a) s = Conv(r, p, q) t = Conv(s, w3, b3) u = Relu(t) v = Conv(u, p2, q2) "
    "z = Add(s, v) {end}"
)
LINEAR = {
    "w": normal(8, 4, 1, 1), "b": normal(8), "w2": normal(8, 4, 1, 1), "b2": normal(8),
    "w3": normal(8, 4, 1, 1), "b3": normal(8), "p": normal(4, 8, 1, 1),
    "q": 9 * normal(4), "p2": normal(4, 8, 1, 1), "q2": 9 * normal(4), "k": normal(8, 4, 3, 3), "l": normal(8),
    "g": normal(5, 4), "h": normal(5),
}  # fmt: skip


@pytest.mark.parametrize(
    "end",
    [
        "y = Conv(z, w2, b2)",
        "m = GlobalAveragePool(z) f = Flatten(m) y = Gemm<transB = 1>(f, g, h)",
        "m = MaxPool<kernel_shape = [3,3]>(z) y = Conv(m, k, l)",
    ],
)
def test_linear_values_are_moved_to_their_middle(network: Any, end: str) -> None:
    body = BOTTLENECKS.format(end=end)
    model, data = network(body, {"x": (1, 4, 9, 9)}, LINEAR), samples(1, 4, 9, 9, count=21)
    other = model.clone()
    assert Equalize(strength=0.0).apply(other, PassContext(data=data)).rewritten >= 1
    runners = [OrtRunner.from_model(m, extra_outputs=["s", "v"]) for m in (model, other)]

    def off_middle(runner: OrtRunner, name: str) -> float:
        answers = [runner.run(s)[name] for s in data]
        low, high = (np.median([f(a, axis=(0, 2, 3)) for a in answers], axis=0) for f in (np.min, np.max))
        return float(np.abs(low + high).max())

    for name in ("s", "v"):
        before, after = (off_middle(runner, name) for runner in runners)
        assert after < 1e-4 * before
    for sample in data:
        assert np.allclose(runners[0].run(sample)["y"], runners[1].run(sample)["y"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "end",
    [
        "y = Conv<pads = [1,1,1,1]>(z, k, l)",
        'y = Conv<auto_pad = "SAME_UPPER">(z, k, l)',
        "m = Relu(z) y = Conv(m, w2, b2)",
        "m = AveragePool<kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1>(z) y = Conv(m, k, l)",
        "y = Conv(z, w2)",
        "m = GlobalAveragePool(z) f = Flatten(m) y = Gemm<transB = 1, beta = 0.5>(f, g, h)",
    ],
)
def test_values_whose_readers_pad_or_bend_are_not_moved(network: Any, end: str) -> None:
    body = BOTTLENECKS.format(end=end)
    model = network(body, {"x": (1, 4, 9, 9)}, LINEAR)
    groups, _ = scalable_groups(model)
    (group,) = [g for g in groups if any(v.name == "z" for v in g.values)]
    assert not group.movable
    other, data = model.clone(), samples(1, 4, 9, 9, count=9)
    Equalize().apply(other, PassContext(data=data))
    a, b = OrtRunner.from_model(model), OrtRunner.from_model(other)
    for sample in data:
        assert np.allclose(a.run(sample)["y"], b.run(sample)["y"], rtol=1e-3, atol=1e-3)


def test_a_clip_still_cuts_off_above_twice_what_was_seen(network: Any) -> None:
    weights = {**WEIGHTS, "e": np.zeros(8, np.float32), "d": 0.02 * WEIGHTS["d"]}
    body = "s = Conv<pads = [1,1,1,1], group = 8>(x, d, e) t = Clip(s, zero, six) y = Conv(t, p, q)"
    model, data = network(body, {"x": (1, 8, 9, 9)}, weights), samples(1, 8, 9, 9, count=20)
    other = model.clone()
    Equalize(steady=0.0).apply(other, PassContext(data=data))
    a, b = OrtRunner.from_model(model, extra_outputs=["t"]), OrtRunner.from_model(other, extra_outputs=["t"])
    factors = np.max([b.run(s)["t"].max(axis=(0, 2, 3)) for s in data], axis=0) / np.max(
        [a.run(s)["t"].max(axis=(0, 2, 3)) for s in data], axis=0
    )
    assert factors.max() <= 2.001
    for s in data:
        twice = {"x": 1.9 * s["x"]}
        assert np.allclose(a.run(twice)["y"], b.run(twice)["y"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"a = {CONV}(x, w, b) r = Sigmoid(a) y = Conv(r, p, q)", "not linear"),
        (f"a = {CONV}(x, w, b) r = Clip(a, one, six) y = Conv(r, p, q)", "another number than 0"),
        (f"a = {CONV}(x, w, b) r = Add(a, one) y = Conv(r, p, q)", "adds a constant"),
        (f"a = {CONV}(x, w, b) m = Clip(a, zero, one) n = Clip(a, zero, six) r = Add(m, n) y = Conv(r, p, q)",
         "different limits"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_scaled_say_why(network: Any, body: str, reason: str) -> None:
    groups, refused = scalable_groups(network(body, {"x": (1, 4, 6, 6)}, WEIGHTS))
    assert groups == []
    assert any(reason in why for why in refused.values())


def test_the_range_of_least_error_lies_between_coarse_and_cut_off() -> None:
    limit = 8.0
    centres = (np.arange(512) + 0.5) * (2 * limit / 512) - limit
    weights = np.exp(-np.abs(centres) * 4)  # Laplace: few large values
    low, high = least_error(weights, limit, -limit, limit)
    assert -limit < low < -1
    assert 1 < high < limit
    uniform = np.where(np.abs(centres) < 6, 1.0, 0.0)
    low, high = least_error(uniform, limit, -6.0, 6.0)
    assert low < -5.5
    assert high > 5.5
    assert least_error(np.where(centres > 0, uniform, 0), limit, 0.0, 6.0)[0] == 0.0


@pytest.mark.parametrize("peak", [1.0, 0.1, 2.9037707, 3.3393114, 16.489704])
def test_zeros_are_not_counted(peak: float) -> None:
    watch = LeastError(["x"], (), fence=None, relative=False)
    for _ in range(9):
        watch.add({}, {"x": np.array([[[[0, 0, 0, -peak / 3, peak]]]], np.float32)})
    watch.ranges()
    weights = watch._seen["x"].weighted(relative=False)
    assert weights.sum() == 18
    assert weights.max() == 9


def test_counts_are_as_narrow_as_they_can_be_and_hold_everything() -> None:
    channels = 5000  # more than are counted at once
    watch = LeastError(["x"], (), fence=None, relative=False)
    random = np.random.default_rng(0)
    seen = [(random.random((1, channels, 1, 24)) * (1 + i // 16)).astype(np.float32) for i in range(32)]
    for number, x in enumerate(seen, 1):
        watch.add({}, {"x": x})
        if number == 8:
            assert watch._seen["x"].counts.dtype == np.uint8  # 192 columns
    watch.ranges()
    found = watch._seen["x"]
    assert found.counts.dtype == np.uint16
    every = np.concatenate(seen, axis=3)[0, :, 0]
    edges = np.linspace(-found.limit, found.limit, found.counts.shape[1] + 1)
    for channel in (0, 4095, 4096, channels - 1):
        expected = np.histogram(every[channel], edges)[0]
        assert np.abs(found.counts[channel].astype(int) - expected).sum() <= 4  # values on an edge
        assert found.counts[channel].sum() == every.shape[1]


def test_small_channels_count_as_much_as_large_ones(network: Any) -> None:
    x = normal(1, 2, 64, 64) * np.array([0.05, 1.0], np.float32)[:, None, None]
    x[0, 1, 0, 0] = 30
    found = {}
    for relative in (False, True):
        watch = LeastError(["x"], (), fence=None, relative=relative)
        for _ in range(40):
            watch.add({}, {"x": x})
        found[relative] = watch.ranges()["x"][1]
    assert found[True] < found[False] <= 30
    whole = LeastError(["x"], ["x"], fence=1.0, relative=True)
    whole.add({}, {"x": x})
    assert whole.ranges() == whole.extremes() == {"x": (float(x.min()), 30.0)}


def test_a_plan_keeps_the_weights_that_were_made_with_it(network: Any) -> None:
    model, data = network("y = Gemm(x, g, h)", {"x": (1, 96)}, WEIGHTS), samples(1, 96, count=20)
    found, plan, _ = rounded(model, data)
    texts = changed(model, found, plan)
    assert set(texts) == {"g", "h"}
    assert texts["g"].startswith("int8 ")
    again = restore(model, texts, plan.tensors)
    for name in texts:
        assert np.array_equal(held(again.graph.initializers[name]), held(found.graph.initializers[name]))
    assert changed(model, model.clone(), plan) == {}
    with pytest.raises(UsageError, match="which the network has not"):
        restore(model, {"strange": texts["g"]}, plan.tensors)
    for text in ("int8 !", "int8 " + texts["h"].split()[1], "float64 " + texts["h"].split()[1], "int8"):
        with pytest.raises(ModelError):
            restore(model, {"g": text}, plan.tensors)


@pytest.mark.parametrize("skipped", [(), ("round_weights",)])
@pytest.mark.parametrize("precision", ["int8", "int4", "mixed"])
def test_a_saved_plan_gives_the_same_artifacts_without_data(
    tmp_path: Path, precision: Any, skipped: tuple[str, ...]
) -> None:
    words: dict[str, Any] = {"precision": precision, "no_profile": True, "no_verify": True}
    words["skip_passes"] = skipped
    path = MODELS / "digits_cnn.onnx"
    first = edgecc.compile(path, data=MODELS / "digits_cnn_calib.npz", output=tmp_path / "a", **words)
    second = edgecc.compile(path, plan=tmp_path / "a" / "plan.json", output=tmp_path / "b", **words)
    assert {f: a.data for f, a in first.artifacts.items()} == {f: a.data for f, a in second.artifacts.items()}
    assert {r.name for r in first.report.passes} >= {"equalize", "round_weights"} - set(skipped)
    words["skip_passes"] = ("equalize", "round_weights")
    plain = edgecc.compile(path, data=MODELS / "digits_cnn_calib.npz", output=tmp_path / "c", **words)
    assert all(a.data != first.artifacts[form].data for form, a in plain.artifacts.items())
