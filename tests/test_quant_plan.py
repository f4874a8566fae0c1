"""Parameters, the table of rules, and the plan with its two specialisations."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgecc import ir
from edgecc.calibration.observers import Statistics, collect
from edgecc.errors import ModelError, UnsupportedError, UsageError
from edgecc.importer import load
from edgecc.quant import rules
from edgecc.quant.params import LIMITS, QuantParams, fixed, from_range, from_weights
from edgecc.quant.plan import QuantPlan, make_plan
from edgecc.quant.units import integer_units
from edgecc.target import CostSpec

UNSIGNED = SimpleNamespace(activation_dtype="uint8", cost=CostSpec())


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@pytest.mark.parametrize(
    "span", [(-1.0, 3.0), (0.0, 6.0), (2.0, 5.0), (-4.0, -1.0), (0.0, 0.0), (-1e-9, 1e-9), (0, 1e30)]
)
def test_ranges_are_covered_and_zero_is_exact(dtype: Any, span: tuple[float, float]) -> None:
    params = from_range(*span, dtype)
    low, high = params.range
    step = float(params.scale[0])
    assert low <= min(span[0], 0) + step / 2
    assert high >= max(span[1], 0) - step / 2
    zero = params.quantize(np.zeros(1, np.float32))
    assert zero[0] == params.zero_point[0]
    assert params.dequantize(zero)[0] == 0.0
    assert LIMITS[dtype][0] <= params.zero_point[0] <= LIMITS[dtype][1]


def test_relu_range_puts_zero_at_the_low_end() -> None:
    assert from_range(0.0, 5.3, "int8").zero_point[0] == -128
    assert from_range(0.0, 5.3, "uint8").zero_point[0] == 0
    assert from_range(0.0, 5.3, "int8").as_unsigned() == from_range(0.0, 5.3, "uint8")


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_weights_are_symmetric_and_within_half_a_step(axis: int | None) -> None:
    weights = np.random.default_rng(0).standard_normal((4, 3, 2)).astype(np.float32)
    weights[2] = 0.0
    params = from_weights(weights, axis)
    stored = params.quantize(weights)
    assert stored.dtype == np.int8
    assert stored.min() >= -127
    assert params.symmetric
    assert params.scale.size == (1 if axis is None else weights.shape[axis])
    assert np.abs(params.dequantize(stored) - weights).max() <= params.scale.max() / 2 * 1.001


def test_parameters_refuse_nonsense() -> None:
    for scale in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="positive"):
            fixed(scale, 0, "int8")
    with pytest.raises(ValueError, match="axis"):
        QuantParams(np.ones(2), np.zeros(2), "int8")


def test_every_fixed_scale_is_the_specification_s() -> None:
    """TFLite quantization specification; the zero points of uint8 are those of int8 plus 128."""
    want = {
        "Softmax": (1 / 256, -128),
        "Sigmoid": (1 / 256, -128),
        "Tanh": (1 / 128, 0),
        "LpNormalization": (1 / 128, 0),
        "LogSoftmax": (16 / 256, 127),
    }
    found = {}
    for op_type, rule in rules.RULES.items():
        for column in (rule.tflite, rule.onnx):
            if column is not None and column.fixed is not None:
                found[op_type] = column.fixed["int8"]
                assert column.fixed["uint8"] == (column.fixed["int8"][0], column.fixed["int8"][1] + 128)
                assert column.scale == "fixed"
    assert found == want


NETWORK = """
g (float[1,2,8,8] x) => (float[1,4,8,8] y, float[1,3] p)
<float[2,2,3,3] w, float[2] b, float[4,3] v> {
  c = Conv<pads = [1,1,1,1]>(x, w, b)
  r = Relu(c)
  s = Sigmoid(r)
  y = Concat<axis = 1>(r, s)
  h = HardSwish(y)
  g = GlobalAveragePool(h)
  f = Flatten(g)
  z = MatMul(f, v)
  p = Softmax(z)
}
"""


def constants(bias: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "w": rng.standard_normal((2, 2, 3, 3)).astype(np.float32),
        "b": np.full(2, bias, np.float32),
        "v": rng.standard_normal((4, 3)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def model(parse: Any) -> ir.Model:
    return load(parse(NETWORK, constants=constants()))


@pytest.fixture(scope="module")
def statistics(model: ir.Model) -> Statistics:
    rng = np.random.default_rng(1)
    return collect(model, [{"x": rng.standard_normal((1, 2, 8, 8)).astype(np.float32)} for _ in range(5)])


@pytest.fixture(scope="module")
def plan(model: ir.Model, statistics: Statistics) -> QuantPlan:
    return make_plan(model, statistics)


def test_weights_and_ranges_are_shared_by_the_runtimes(model: ir.Model, plan: QuantPlan) -> None:
    tflite, onnx = plan.for_runtime("tflite", model), plan.for_runtime("onnx", model)
    for name in ("w", "v"):
        assert tflite.tensors[name] == onnx.tensors[name] == plan.tensors[name]
    assert tflite.ranges == onnx.ranges == plan.ranges
    assert tflite.tensors["w"].axis == 0
    assert tflite.tensors["w"].scale.size == 2


def test_fixed_ranges(model: ir.Model, plan: QuantPlan) -> None:
    for runtime in ("tflite", "onnx"):
        special = plan.for_runtime(runtime, model)
        for name in ("s", "p"):
            assert special.tensors[name] == fixed(1 / 256, -128, "int8")


def test_same_scale_groups(model: ir.Model, plan: QuantPlan) -> None:
    """TFLite's Concat wants one scale, but a Sigmoid's is fixed and too small for the rest."""
    tflite, onnx = plan.for_runtime("tflite", model), plan.for_runtime("onnx", model)
    assert tflite.tensors["y"] == tflite.tensors["r"]
    assert tflite.tensors["s"] != tflite.tensors["y"]
    assert onnx.tensors["r"].zero_point[0] == -128
    assert onnx.tensors["f"] == onnx.tensors["g"]  # Flatten only moves


def test_values_of_float_operators_are_left_out(model: ir.Model, plan: QuantPlan) -> None:
    assert "h" in plan.for_runtime("tflite", model).tensors
    _, reasons = integer_units(model, "onnx", plan)
    assert list(reasons.values()) == ["ONNX Runtime has no integer kernel for it"]
    assert "c" not in plan.for_runtime("onnx", model).tensors  # the Relu replaces it


def test_unsigned_activations_are_a_shift(model: ir.Model, plan: QuantPlan) -> None:
    signed, unsigned = plan.for_runtime("onnx", model), plan.for_runtime("onnx", model, UNSIGNED)  # type: ignore[arg-type]
    for name, params in signed.tensors.items():
        assert unsigned.tensors[name] == (params if name in ("w", "v") else params.as_unsigned())
    assert plan.for_runtime("tflite", model, UNSIGNED) == plan.for_runtime("tflite", model)  # type: ignore[arg-type]


def test_json_round_trip_is_exact(model: ir.Model, plan: QuantPlan) -> None:
    for one in (plan, plan.for_runtime("tflite", model)):
        again = QuantPlan.from_json(one.to_json())
        assert again == one
        assert again.to_json() == one.to_json()
        assert one.diff(again) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "precision": "int8"}'])
def test_malformed_json(text: str) -> None:
    with pytest.raises(ModelError):
        QuantPlan.from_json(text)


def test_print_and_diff(model: ir.Model, plan: QuantPlan) -> None:
    assert "w: int8 axis 0, 2 scales" in str(plan)
    lines = plan.diff(plan.for_runtime("onnx", model))
    assert any(line.startswith("tensor p: int8") for line in lines)
    assert lines[-1] == "runtime: None -> onnx"


def test_a_bias_that_would_overflow_widens_its_channel(parse: Any, statistics: Statistics) -> None:
    values = constants()
    values["w"][1] *= 1e-9
    values["b"][1] = 3e4
    model = load(parse(NETWORK, constants=values))
    plan = make_plan(model, statistics)
    scale = plan.tensors["x"].scale[0] * plan.tensors["w"].scale
    assert np.abs(values["b"] / scale).max() <= 2**30 * 1.001
    assert plan.tensors["w"].scale[0] == np.float32(np.abs(values["w"][0]).max() / 127)


def test_dead_and_infinite_activations(parse: Any) -> None:
    model = load(parse("g (float[1,3] x) => (float[1,3] y) { r = Relu(x) y = Sigmoid(r) }"))
    dead = make_plan(model, Statistics({"x": (-1, 0), "r": (0, 0), "y": (0, 1)}, 1))
    assert dead.tensors["r"].scale[0] > 0
    with pytest.raises(UsageError, match="infinities") as caught:
        make_plan(model, Statistics({"x": (-1, np.inf)}, 1))
    assert caught.value.node == "x"


def test_kept_float_and_moves_between_floats(model: ir.Model, statistics: Statistics) -> None:
    keep = {ir.label(n): "asked for" for n in model.graph if n.op_type in ("GlobalAveragePool", "MatMul")}
    plan = make_plan(model, statistics, keep_float=keep).for_runtime("tflite", model)
    units, reasons = integer_units(model, "tflite", plan)
    assert not any(n.op_type in ("GlobalAveragePool", "Flatten", "MatMul") for n in units)
    assert sorted(reasons.values()) == [
        "asked for",
        "asked for",
        "it only moves values between float operators",
    ]


def test_int16_is_symmetric_and_fp32_is_no_plan(model: ir.Model, statistics: Statistics) -> None:
    plan = make_plan(model, statistics, precision="int16x8").for_runtime("tflite", model)
    activations = [p for n, p in plan.tensors.items() if n not in ("w", "v")]
    assert all(p.dtype == "int16" and p.symmetric for p in activations)
    assert plan.tensors["s"] == fixed(2.0**-15, 0, "int16")
    with pytest.raises(UsageError):
        make_plan(model, statistics, precision="fp32")  # type: ignore[arg-type]


def test_one_scale_a_tensor(model: ir.Model, statistics: Statistics) -> None:
    assert make_plan(model, statistics, per_channel=False).tensors["w"].axis is None


def units_of(parse: Any, text: str, runtime: str, **values: Any) -> tuple[list[str], dict[str, str]]:
    model = load(parse(text, constants=values))
    shape = tuple(d or 1 for d in ir.dims(model.graph.inputs[0]) or ())
    plan = make_plan(model, collect(model, [{"x": np.ones(shape, np.float32)}]))
    units, reasons = integer_units(model, runtime, plan)  # type: ignore[arg-type]
    return [node.op_type for node in units], reasons


@pytest.mark.parametrize("runtime", ["tflite", "onnx"])
def test_what_moves_the_result_of_a_fused_activation_is_computed_in_integers(
    parse: Any, runtime: str
) -> None:
    text = """g (float[1,2,8,8] x) => (float[1,2,4,4] y) {
        c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) y = Erf(m) }"""
    assert units_of(parse, text, runtime, w=constants()["w"])[0] == ["Conv", "MaxPool"]


def test_wrong_or_missing_kernels_stay_float(parse: Any) -> None:
    pool = """g (float[1,2,8,8] x) => (float[1,2,4,4] y) {
        c = Conv<pads=[1,1,1,1]>(x, w)
        y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1, count_include_pad=INCLUDED>(c) }"""
    for included, want in ((1, ["Conv"]), (0, ["Conv", "AveragePool"])):
        text = pool.replace("INCLUDED", str(included))
        assert units_of(parse, text, "onnx", w=constants()["w"])[0] == want
    grid = "g (float[1,3,4,4,2] x) => (float[1,3,4,4,2] y) { y = Mul(x, k) }"
    units, reasons = units_of(parse, grid, "tflite", k=np.ones((4, 4, 2), np.float32))
    assert not units
    assert "at most 4 axes, here are 5" in next(iter(reasons.values()))
    assert units_of(parse, grid.replace("Mul(x, k)", "Mul(x, x)"), "tflite")[0] == ["Mul"]


def test_where_operands_cancel_the_step_is_not_finer_than_they_can_fill(parse: Any) -> None:
    text = """g (float[1,3,8,8] x) => (float[1,3] y) {
        m = GlobalAveragePool(x) c = Sub(x, m) g = GlobalAveragePool(c) y = Flatten(g) }"""
    model = load(parse(text))
    ranges = {"x": (-3.0, 3.0), "m": (-0.2, 0.2), "c": (-3.0, 3.0), "g": (-1e-8, 1e-8), "y": (-1e-8, 1e-8)}
    for runtime in ("tflite", "onnx"):
        tensors = make_plan(model, Statistics(ranges, 1)).for_runtime(runtime, model).tensors
        read = tensors["c"].scale if "c" in tensors else tensors["x"].scale
        assert tensors["g"] == tensors["y"]
        assert read[0] / 64 / tensors["g"].scale[0] <= 128 * 1.01


def test_values_without_elements_have_a_range(parse: Any) -> None:
    text = "g (float[N,3,1] x) => (float[N,3,1] y) { e = Slice(x, a, b, c) z = Mul(e, k) y = Concat<axis=1>(z, x) }"
    values = {"a": [3], "b": [5], "c": [1], "k": np.ones(1, np.float32)}
    model = load(parse(text, constants={n: np.asarray(v) for n, v in values.items()}))
    found = collect(model, [{"x": np.ones((1, 3, 1), np.float32)}])
    assert found.ranges["z"] == (0.0, 0.0)
    make_plan(model, found)


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_networks_of_other_types_are_refused(parse: Any, kind: str) -> None:
    model = load(parse(f"g ({kind}[1,3] x) => ({kind}[1,3] y) {{ y = Relu(x) }}"))
    sample = np.ones((1, 3), "float16" if kind == "float16" else "float64")
    with pytest.raises(UnsupportedError, match="nothing to quantize"):
        make_plan(model, collect(model, [{"x": sample}]))
