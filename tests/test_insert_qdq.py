"""What insert_qdq writes, read back from the nodes alone."""

from typing import Any

import numpy as np
import pytest

from edgecc import ir
from edgecc.calibration.observers import collect
from edgecc.errors import UsageError
from edgecc.importer import load
from edgecc.passes.insert_qdq import InsertQDQ
from edgecc.pipeline import PassContext, PassResult, validate
from edgecc.quant.plan import QuantPlan, make_plan
from edgecc.runtime.ort import OrtRunner

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.standard_normal((2, 2, 3, 3)).astype(np.float32),
    "b": RNG.standard_normal(2).astype(np.float32),
    "k": RNG.standard_normal((1, 2, 1, 1)).astype(np.float32),
}
BODY = {
    "conv_relu": "c = Conv<pads = [1,1,1,1]>(x, w, b) y = Relu(c)",
    "fork": "c = Conv<pads = [1,1,1,1]>(x, w, b) r = Relu(c) "
    "d = Conv<pads = [1,1,1,1]>(r, w, b) y = Add(r, d)",
    "constant_operand": "m = Mul(x, k) y = Add(m, k)",
    "island": "c = Conv<pads = [1,1,1,1]>(x, w, b) e = Erf(c) y = Conv<pads = [1,1,1,1]>(e, w, b)",
    "requantize": "c = Conv<pads = [1,1,1,1]>(x, w, b) s = Sigmoid(c) t = Concat<axis = 1>(c, s) "
    "y, z = Split<axis = 1, num_outputs = 2>(t)",
    "same_value_twice": "c = Conv<pads = [1,1,1,1]>(x, w, b) y = Add(c, c)",
    "float_reader": "c = Conv<pads = [1,1,1,1]>(x, w, b) e = Erf(x) y = Mul(c, e)",
    "input_is_output": "y = Identity(x)",
}
Quantized = tuple[ir.Model, ir.Model, QuantPlan, PassResult]


@pytest.fixture(params=[(body, runtime) for body in BODY for runtime in ("tflite", "onnx")], ids="-".join)
def quantized(parse: Any, request: pytest.FixtureRequest) -> Quantized:
    body, runtime = request.param
    return quantize(parse, BODY[body], runtime)


def quantize(parse: Any, body: str, runtime: Any) -> Quantized:
    outputs = "float[1,2,4,4] y" + (", float[1,2,4,4] z" if " z " in body or ", z" in body else "")
    text = (
        f"g (float[1,2,4,4] x) => ({outputs}) <float[2,2,3,3] w, float[2] b, float[1,2,1,1] k> {{ {body} }}"
    )
    model = load(parse(text, opset=18, constants=WEIGHTS))
    plan = make_plan(model, collect(model, samples())).for_runtime(runtime, model)
    copy = model.clone()
    result = InsertQDQ().apply(copy, PassContext(plan=plan))
    return model, copy, plan, result


def samples() -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 2, 4, 4)).astype(np.float32)} for _ in range(4)]


def nodes(model: ir.Model, op_type: str) -> list[ir.Node]:
    return [n for n in model.graph if n.op_type == op_type]


def producer(value: ir.Value | None) -> ir.Node:
    assert value is not None
    found = value.producer()
    assert found is not None
    return found


def test_graph_is_valid_and_answers_alike(quantized: Quantized) -> None:
    model, copy, _, _ = quantized
    validate(copy)
    assert [v.name for v in copy.graph.inputs] == [v.name for v in model.graph.inputs]
    assert [v.name for v in copy.graph.outputs] == [v.name for v in model.graph.outputs]
    want, got = (OrtRunner.from_model(m, optimize=False).run(samples()[0]) for m in (model, copy))
    for name in want:
        assert np.abs(want[name] - got[name]).max() <= 0.04 * np.abs(want[name]).max()


def test_scales_are_the_plan_s_and_activations_have_zero_points(quantized: Quantized) -> None:
    _, copy, plan, _ = quantized
    for q in nodes(copy, "QuantizeLinear"):
        name = str(q.inputs[0].name).removesuffix("_float").removesuffix("_dequantized")  # type: ignore[union-attr]
        scale, zero = ir.constant(q.inputs[1]), ir.constant(q.inputs[2])
        assert scale is not None
        assert zero is not None
        assert scale.dtype == np.float32
        assert zero.dtype == np.int8
        if "requantized" not in str(q.outputs[0].name):
            assert scale == plan.tensors[name].scale[0]
            assert zero == plan.tensors[name].zero_point[0]
        for dq in ir.consumers(q.outputs[0]):
            assert dq.op_type == "DequantizeLinear"
            assert list(dq.inputs[1:]) == list(q.inputs[1:])


def test_conv_weights_bias_and_fused_relu(parse: Any) -> None:
    _, copy, plan, result = quantize(parse, BODY["conv_relu"], "tflite")
    conv = nodes(copy, "Conv")[0]
    weight, bias = producer(conv.inputs[1]), producer(conv.inputs[2])
    stored = ir.constant(weight.inputs[0])
    assert stored is not None
    assert stored.dtype == np.int8
    assert ir.attribute(weight, "axis") == 0
    params = plan.tensors["w"]
    np.testing.assert_array_equal(stored, params.quantize(WEIGHTS["w"]))
    scale, integers = ir.constant(bias.inputs[1]), ir.constant(bias.inputs[0])
    assert scale is not None
    assert integers is not None
    np.testing.assert_array_equal(scale, plan.tensors["x"].scale * params.scale)
    assert integers.dtype == np.int32
    np.testing.assert_array_equal(integers, np.rint(WEIGHTS["b"].astype(np.float64) / scale))
    assert len(bias.inputs) == 2  # zero point 0 is left out
    assert ir.consumers(conv.outputs[0])[0].op_type == "Relu"  # nothing in between
    assert copy.graph.outputs[0].name == "y"
    assert producer(producer(copy.graph.outputs[0]).inputs[0]).inputs[0].name == "y_float"  # type: ignore[union-attr]
    assert result.rewritten == 1
    assert not result.refused


def test_names_of_quantized_values(parse: Any) -> None:
    _, copy, _, _ = quantize(parse, BODY["conv_relu"], "tflite")
    names = {out.name for node in copy.graph for out in node.outputs}
    assert {"x_quantized", "x_dequantized", "y_quantized", "w_dequantized", "b_dequantized", "c"} <= names


def test_one_weight_serves_two_layers(parse: Any) -> None:
    _, copy, _, _ = quantize(parse, BODY["fork"], "tflite")
    first, second = nodes(copy, "Conv")
    assert first.inputs[1] is second.inputs[1]
    assert first.inputs[2] is not second.inputs[2]  # the biases have scales of their own


def test_float_islands_read_and_write_real_values(parse: Any) -> None:
    _, copy, _, result = quantize(parse, BODY["island"], "onnx")
    island = nodes(copy, "Erf")[0]
    assert producer(island.inputs[0]).op_type == "DequantizeLinear"
    assert ir.consumers(island.outputs[0])[0].op_type == "QuantizeLinear"
    assert [r.reason for r in result.refused] == ["ONNX Runtime has no integer kernel for it"]


def test_float_readers_of_a_float_value_keep_it(parse: Any) -> None:
    _, copy, _, _ = quantize(parse, BODY["float_reader"], "onnx")
    assert nodes(copy, "Erf")[0].inputs[0] is copy.graph.inputs[0]


def test_operand_that_cannot_take_the_group_s_scale_is_requantized(parse: Any) -> None:
    _, copy, plan, _ = quantize(parse, BODY["requantize"], "tflite")
    concat = nodes(copy, "Concat")[0]
    scales = {float(ir.constant(producer(v).inputs[1])) for v in concat.inputs}  # type: ignore[arg-type]
    assert scales == {float(plan.tensors["t"].scale[0])}
    sigmoid = producer(producer(producer(producer(concat.inputs[1]).inputs[0]).inputs[0]).inputs[0])
    assert ir.constant(sigmoid.inputs[1]) == np.float32(1 / 256)


def test_a_plan_for_a_runtime_is_needed(parse: Any) -> None:
    model = load(parse("g (float[1,3] x) => (float[1,3] y) { y = Relu(x) }"))
    plan = make_plan(model, collect(model, [{"x": np.ones((1, 3), np.float32)}]))
    for context in (PassContext(), PassContext(plan=plan)):
        with pytest.raises(UsageError, match="plan for a runtime"):
            InsertQDQ().apply(model, context)


def test_node_names_stay_unique(parse: Any) -> None:
    model = load(parse("g (float[1,3] x) => (float[1,3] Tanh) { Tanh = Tanh(x) }"))
    for node in model.graph:
        node.name = "Tanh/DequantizeLinear"
    plan = make_plan(model, collect(model, [{"x": np.ones((1, 3), np.float32)}])).for_runtime("tflite", model)
    InsertQDQ().apply(model, PassContext(plan=plan))
    names = [n.name for n in model.graph]
    assert len(set(names)) == len(names)
