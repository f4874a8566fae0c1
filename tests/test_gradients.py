"""Derivatives of networks against differences of their answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgecc import ir
from edgecc.analysis.gradients import SEED, gradient_model
from edgecc.errors import UsageError
from edgecc.importer import load
from edgecc.pipeline import infer_shapes
from edgecc.runtime.ort import OrtRunner

IMAGE, MATRIX = "float[1,4,6,6] x", "float[3,4] x"
# Inputs, nodes from x to y.
CASES = {
    "Conv": (IMAGE, "y = Conv<strides=[2,1], pads=[1,0,0,2], dilations=[1,2]>(x, w)"),
    "Conv grouped": (IMAGE, "y = Conv<group=2, strides=[2,2]>(x, grouped)"),
    "Conv depthwise": (IMAGE, "y = Conv<group=4, pads=[1,1,1,1]>(x, depthwise)"),
    "MaxPool": (IMAGE, "y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)"),
    "AveragePool": (IMAGE, "y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)"),
    "AveragePool with padding": (IMAGE, "y = AveragePool<kernel_shape=[2,3], count_include_pad=1, pads=[1,1,1,1]>(x)"),
    "GlobalAveragePool": (IMAGE, "y = GlobalAveragePool(x)"),
    "GlobalMaxPool": (IMAGE, "y = GlobalMaxPool(x)"),
    "BatchNormalization": (IMAGE, "y = BatchNormalization(x, four, four, four, positive)"),
    "Resize": (IMAGE, "y = Resize<mode=\"nearest\">(x, , scales)"),
    "Pad and Slice": (IMAGE, "p = Pad(x, pads) y = Slice(p, zero, ten, axis, two)"),
    "Gather": (IMAGE, "y = Gather<axis=1>(x, some)"),
    "Concat": (IMAGE, "r = Neg(x) y = Concat<axis=2>(x, r, x)"),
    "Split": (IMAGE, "a, b = Split<axis=1, num_outputs=2>(x) c = Mul(a, b) y = Sub(c, b)"),
    "one part of a Split": (IMAGE, "a, y = Split<axis=1, num_outputs=2>(x)"),
    "shuffle": (IMAGE, "t = Transpose<perm=[0,2,3,1]>(x) f = Flatten(t) m = Mul(f, f) y = Reshape(m, shape)"),
    "Gemm": (MATRIX, "y = Gemm<alpha=0.5>(x, square, four)"),
    "Gemm transposed": (MATRIX, "y = Gemm<transA=1, transB=1>(x, three)"),
    "Gemm of products": (MATRIX, "a = Gemm<transB=1>(x, x) y = Gemm<transA=1>(a, x)"),
    "MatMul": (MATRIX, "a = MatMul(x, square) b = Transpose(x) y = MatMul(a, b)"),
    "MatMul stacked": (IMAGE, "b = Transpose<perm=[0,1,3,2]>(x) a = MatMul(x, b) y = MatMul(wide, a)"),
    "broadcast": (MATRIX, "a = Mul(x, four) b = Div(a, positive) c = Add(b, column) y = Sub(four, c)"),
    "Div by it": (MATRIX, "s = Mul(x, x) a = Add(s, positive) y = Div(four, a)"),
    "summed over": (IMAGE, "m = ReduceMean<keepdims=0>(x, axis) s = ReduceSum<keepdims=0>(x, axis) y = Mul(m, s)"),
    "mean over": (IMAGE, "m = ReduceMean(x, axis) y = Mul(m, x)"),
    "activations": (MATRIX, "a = Sigmoid(x) b = Tanh(a) c = HardSwish(b) d = Gelu(c) e = Exp(d) y = Sqrt(e)"),
    "kinks": (MATRIX, "a = Relu(x) b = Clip(x, low, high) c = LeakyRelu(x) d = Max(a, b, c) y = Min(d, x)"),
    "Softmax": (MATRIX, "y = Softmax(x)"),
    "LogSoftmax": (MATRIX, "y = LogSoftmax<axis=0>(x)"),
    "LayerNormalization": (MATRIX, "y = LayerNormalization(x, four, positive)"),
}  # fmt: skip


def _constants() -> dict[str, Any]:
    random = np.random.default_rng(0)
    floats = {
        "w": (5, 4, 3, 2), "grouped": (6, 2, 3, 3), "depthwise": (4, 1, 3, 3), "four": (4,), "square": (4, 4),
        "three": (5, 3), "column": (3, 1), "wide": (2, 4, 3, 6),
    }  # fmt: skip
    found: dict[str, Any] = {k: random.standard_normal(s).astype(np.float32) for k, s in floats.items()}
    return found | {
        "positive": np.abs(found["four"]) + 0.5, "scales": np.array([1, 1, 2, 3], np.float32),
        "pads": np.array([0, 0, 1, 2, 0, 0, 0, 1]), "zero": np.array([0]), "ten": np.array([10]),
        "axis": np.array([3]), "two": np.array([2]), "some": np.array([3, 0, 0]), "shape": np.array([12, 12]),
        "low": np.float32(-0.3), "high": np.float32(0.4),
    }  # fmt: skip


def _model(parse: Any, inputs: str, body: str) -> ir.Model:
    words = body.replace(",", " ").replace(")", " ").replace("(", " ").split()
    used = {k: v for k, v in _constants().items() if k in words}
    model = load(parse(f"g ({inputs}) => (float[] y) {{ {body} }}", 21, used))
    infer_shapes(model)
    from onnx_ir.passes.common import ShapeInferencePass

    ShapeInferencePass()(model)
    return model


@pytest.mark.parametrize("name", CASES)
def test_against_differences(parse: Any, name: str) -> None:
    inputs, body = CASES[name]
    model = _model(parse, inputs, body)
    random = np.random.default_rng(1)
    x = random.standard_normal(ir.static_dims(model.graph.inputs[0])).astype(np.float32)
    runner = OrtRunner.from_model(model, optimize=False)
    seed = random.standard_normal(runner.run({"x": x})["y"].shape).astype(np.float32)
    backward, names = gradient_model(model, ["x"])
    got = OrtRunner.from_model(backward, optimize=False).run({"x": x, f"{SEED}y": seed})[names["x"]]
    step = 1e-2
    differences = np.empty(x.size)
    for i in range(x.size):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved.reshape(-1)[i] += sign * step
            ends.append(float((runner.run({"x": moved})["y"].astype(np.float64) * seed).sum()))
        differences[i] = (ends[0] - ends[1]) / (2 * step)
    # Where a kink lies within the step, the difference is neither slope: few elements may differ.
    close = np.isclose(got.reshape(-1), differences, rtol=2e-2, atol=2e-2 * float(np.abs(differences).max()))
    assert got.shape == x.shape
    assert close.mean() > 0.93
    assert np.abs(got).max() > 0


def test_of_inner_values(parse: Any) -> None:
    model = _model(parse, MATRIX, "a = Mul(x, x) b = Neg(a) c = Add(a, b) y = Mul(b, four)")
    backward, names = gradient_model(model, ["a", "b", "c"])
    assert set(names) == {"a", "b"}  # nothing depends on c
    feeds = {"x": np.ones((3, 4), np.float32), f"{SEED}y": np.ones((3, 4), np.float32)}
    got = OrtRunner.from_model(backward).run(feeds)
    four = np.broadcast_to(_constants()["four"], (3, 4))
    np.testing.assert_allclose(got[names["b"]], four, rtol=1e-6)
    np.testing.assert_allclose(got[names["a"]], -four, rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y = LRN<size=3>(x)", "LRN cannot be differentiated"),
        ("y = Conv<auto_pad=\"SAME_UPPER\">(x, w)", "auto_pad"),
        ("y = Resize<mode=\"linear\">(x, , scales)", "interpolation"),
    ],
)  # fmt: skip
def test_what_has_no_rule(parse: Any, body: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gradient_model(_model(parse, IMAGE, body), ["x"])
