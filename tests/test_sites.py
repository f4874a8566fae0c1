"""The network seen through its Q/DQ nodes."""

import numpy as np
import onnx
import pytest
from tflite_cases import Array, quantized, seeded

from edgecc import ir
from edgecc.analysis.sites import SiteGraph, fused_activation, site_graph
from edgecc.importer import load

SCALES: dict[str, Array] = {
    "s": np.array(0.1, np.float32),
    "t": np.array(0.2, np.float32),
    "z": np.array(3, np.int8),
}
QDQ = "a = QuantizeLinear({0}, {1}, z) {2} = DequantizeLinear(a, {1}, z)"


def sites(text: str, **constants: Array) -> SiteGraph:
    made = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g (float[2,3,4,4] x) => (float[2,3,4,4] y) {{ {text} }}'
    )
    arrays: dict[str, Array] = {**SCALES, "w": seeded(3, 3, 1, 1), **constants}
    names = set(text.replace(",", " ").replace("(", " ").replace(")", " ").split())
    made.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items() if n in names)
    return site_graph(load(made))


def test_float_network() -> None:
    graph = sites("c = Conv(x, w) r = Relu(c) y = Exp(r)")
    conv, exp = graph.sites
    assert (conv.op_type, conv.activation, conv.outputs[0].value.name) == ("Conv", "RELU", "r")
    assert conv.inputs[1] is not None
    assert conv.inputs[1].array is not None
    assert conv.inputs[0] is not None
    assert conv.inputs[0].array is None
    assert not conv.quantized
    assert graph.readers[conv.outputs[0].value] == (exp,)
    assert [name for name, _ in graph.outputs] == ["y"]


@pytest.mark.parametrize(
    ("text", "absorbed"),
    [
        ("c = Conv(x, w) y = Relu(c)", "RELU"),
        ("c = Add(x, x) y = Clip(c, zero, six)", "RELU6"),
        ("c = Mul(x, x) y = Clip(c, minus, one)", "RELU_N1_TO_1"),
        ("c = Mul(x, x) y = Clip(c, zero)", "RELU"),
        ("c = Mul(x, x) y = Clip(c, zero, one)", "NONE"),
        ("c = Exp(x) y = Relu(c)", "NONE"),
        ("c = Conv(x, w) r = Relu(c) y = Add(r, c)", "NONE"),
    ],
)
def test_absorbed_activations(text: str, absorbed: str) -> None:
    limits = {
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
        "minus": np.array(-1, np.float32),
        "one": np.array(1, np.float32),
    }
    assert sites(text, **limits).sites[0].activation == absorbed


def test_quantized_edges() -> None:
    graph = sites(
        f"{QDQ.format('x', 's', 'b')} r = Relu(b) {QDQ.replace('a', 'c', 1).replace('(a', '(c').format('r', 't', 'y')}"
    )
    (relu,) = graph.sites
    assert relu.quantized
    assert relu.inputs[0] is not None
    assert relu.inputs[0].quant is not None
    assert relu.outputs[0].quant is not None
    assert relu.inputs[0].value.name == "x"
    assert (relu.inputs[0].quant.scale[0], relu.inputs[0].quant.zero_point[0]) == (np.float32(0.1), 3)
    assert relu.outputs[0].quant.scale[0] == np.float32(0.2)
    assert graph.input_quant[graph.inputs[0]] == relu.inputs[0].quant
    name, operand = graph.outputs[0]
    assert (name, operand.value.name) == ("y", "r")


def test_a_reader_that_wants_real_values_keeps_the_result_real() -> None:
    graph = sites(f"r = Relu(x) {QDQ.format('r', 's', 'b')} y = Add(r, b)")
    relu, add = graph.sites
    assert relu.outputs[0].quant is None
    assert [None if o is None else o.quant is not None for o in add.inputs] == [False, True]
    assert not add.quantized


def test_weights_are_read_as_they_are_stored() -> None:
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"])], "g",
            [onnx.helper.make_tensor_value_info("x", 1, [1, 3, 4, 4])], [onnx.helper.make_tensor_value_info("y", 1,
            [1, 2, 4, 4])],
            [onnx.numpy_helper.from_array(seeded(2, 3, 1, 1), "w"), onnx.numpy_helper.from_array(seeded(2), "b")],
        ), opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10,
    )  # fmt: skip
    rewritten, _ = quantized(made)
    (conv,) = site_graph(rewritten).sites
    weight, bias = conv.inputs[1], conv.inputs[2]
    assert weight is not None
    assert bias is not None
    assert (weight.array.dtype, bias.array.dtype) == (np.int8, np.int32)  # type: ignore[union-attr]
    assert weight.quant is not None
    assert weight.quant.axis == 0
    np.testing.assert_allclose(
        weight.real(), seeded(2, 3, 1, 1), atol=float(weight.quant.scale.max()) / 2 + 1e-7
    )
    with pytest.raises(ValueError, match="not a constant"):
        conv.inputs[0].real()  # type: ignore[union-attr]


def test_a_pair_with_a_computed_scale_is_two_operators() -> None:
    graph = sites("m = ReduceMax<keepdims=0>(x) b = QuantizeLinear(x, m, z) y = DequantizeLinear(b, m, z)")
    assert [site.op_type for site in graph.sites] == ["ReduceMax", "QuantizeLinear", "DequantizeLinear"]
    assert graph.outputs[0][1].quant is None


def test_readers_that_want_different_scales() -> None:
    """The widest is stored, the others are made from it."""
    pairs = " ".join(
        f"a{i} = QuantizeLinear(r, {s}, z) b{i} = DequantizeLinear(a{i}, {s}, z)" for i, s in enumerate("st")
    )
    relu = sites(f"{QDQ.format('x', 's', 'b')} r = Relu(b) {pairs} y = Add(b0, b1)").sites[0]
    assert relu.outputs[0].quant is not None
    assert relu.outputs[0].quant.scale[0] == np.float32(0.2)


def test_fused_activation_needs_constant_limits() -> None:
    made = load(
        onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["": 21]> g (float[2] x, float l) => (float[2] y) { y = Clip(x, l) }'
        )
    )
    assert [fused_activation(node) for node in made.graph] == [None]
    assert ir.label(next(iter(made.graph)))
