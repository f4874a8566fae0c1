"""64-bit integers: exact where the kernels know only 32 bits, and narrowed only where they are known to fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tflite_cases import Array, compiled

from edgecc.analysis.bounds import bounds, fits
from edgecc.importer import load
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner

TOP = 2**63 - 1
WIDE = np.array(
    [0, 1, -1, 7, -7, 2**31, -(2**31) - 1, 2**32 + 1, 2**40 + 5, -(2**40) - 5, 2**53 + 1, 10**18 + 7, -(10**18),
     TOP, -TOP], np.int64,
)  # fmt: skip
LONG = np.concatenate([WIDE, np.random.default_rng(0).integers(-TOP, TOP, 49)])
DIVISORS = np.array([1, -1, 2, 3, -3, 7, 10, 640, 2**31, -(2**32) - 1, 10**12 + 39, TOP], np.int64)


def node(
    op: str, operands: dict[str, Array], constant: str | None = None, **attributes: Any
) -> onnx.ModelProto:
    """One node over 64-bit integers."""
    kinds = {n: helper.np_dtype_to_tensor_dtype(a.dtype) for n, a in operands.items()}
    inputs = [
        helper.make_tensor_value_info(n, kinds[n], a.shape) for n, a in operands.items() if n != constant
    ]
    held = [numpy_helper.from_array(a, n) for n, a in operands.items() if n == constant]
    result = helper.make_tensor_value_info("y", TensorProto.INT64, None)
    graph = helper.make_graph(
        [helper.make_node(op, list(operands), ["y"], **attributes)], "g", inputs, [result], held
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def answer(made: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    given = {i.name: feeds[i.name] for i in made.graph.input}
    return LiteRtRunner(compiled(made, "onnx").data, threads=1).run(given)["y"]


def truncated(x: Array, y: Array) -> Array:
    """Of Python's own integers, which have no limit."""
    pairs = zip(x.astype(object).reshape(-1), y.astype(object).reshape(-1), strict=True)
    return np.array(
        [abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) for a, b in pairs], np.int64
    ).reshape(x.shape)


@pytest.mark.parametrize("constant", [None, "b"])
def test_division_is_exact(constant: str | None) -> None:
    x, y = (a.reshape(-1) for a in np.meshgrid(LONG, DIVISORS))
    feeds = {"a": x, "b": y}
    np.testing.assert_array_equal(answer(node("Div", feeds, constant), feeds), truncated(x, y))


@pytest.mark.parametrize("fmod", [0, 1])
def test_remainders_are_exact(fmod: int) -> None:
    x, y = (a.reshape(-1) for a in np.meshgrid(LONG, DIVISORS))
    feeds = {"a": x, "b": y}
    wanted = np.mod(x, y) if not fmod else x - truncated(x, y) * y
    np.testing.assert_array_equal(answer(node("Mod", feeds, fmod=fmod), feeds), wanted)


@pytest.mark.parametrize("constant", [None, "b"])
def test_powers_are_exact(constant: str | None) -> None:
    x = np.array([3, -3, 10, 2, -2, 1, -1, 0, 7, 2, -1], np.int64)
    y = np.array([39, 39, 18, 62, 63, 1000, 999, 5, 0, -3, -5], np.int64)
    wanted = [0 if b < 0 and abs(a) > 1 else int(a) ** abs(int(b)) for a, b in zip(x, y, strict=True)]
    feeds = {"a": x, "b": y}
    np.testing.assert_array_equal(answer(node("Pow", feeds, constant), feeds), wanted)


@pytest.mark.parametrize("op", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
def test_bits(op: str) -> None:
    feeds = {"a": LONG, "b": LONG[::-1].copy()}
    wanted = {"BitwiseAnd": np.bitwise_and, "BitwiseOr": np.bitwise_or, "BitwiseXor": np.bitwise_xor}[op](
        *feeds.values()
    )
    np.testing.assert_array_equal(answer(node(op, feeds), feeds), wanted)


def test_the_largest_of_long_integers() -> None:
    x = np.array([[2**40, 2**40 + 1, 5], [-(2**33), -(2**34), -(2**33)]])
    for op, wanted in (("ArgMax", [1, 0]), ("ArgMin", [2, 1])):
        np.testing.assert_array_equal(answer(node(op, {"a": x}, axis=1, keepdims=0), {"a": x}), wanted)


def test_an_index_beyond_32_bits_is_outside() -> None:
    """2^32 + 1 is not 1."""
    made = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        g (int64[3] a) => (float[3,4] y) <int64 depth = {4}, float[2] values = {0, 1}> {
            y = OneHot (a, depth, values)
        }
    """)
    feeds = {"a": np.array([1, 2**32 + 1, -1])}
    wanted = OrtRunner.from_bytes(made.SerializeToString()).run(feeds)["y"]
    np.testing.assert_array_equal(answer(made, feeds), wanted)


def test_what_is_known_to_fit_is_divided_in_32_bits() -> None:
    made = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        g (float[1,40] x) => (int64[1,3] y) <int64[1] k = {3}, int64 classes = {8}> {
            v, i = TopK (x, k)
            y = Div (i, classes)
        }
    """)
    model = load(made)
    assert fits(model.graph[0].outputs[1])
    assert bounds(model.graph.outputs[0])[1] < 2**31
    operators = compiled(made, "onnx").notes["operators"]
    assert operators["DIV"] == 1
    assert sum(operators.values()) <= 5


@pytest.mark.parametrize(
    ("expression", "known"),
    [
        ("y = Cast <to = 7> (c)", True),
        ("y = Identity (a)", False),
        ("i = Cast <to = 7> (c)\n y = Mul (i, i)", True),
        ("i = Cast <to = 7> (d)\n y = Mul (i, i)", False),
        ("y = Mod (a, k)", True),
        ("i = Mod (a, k)\n j = Sub (i, k)\n y = Concat <axis = 0> (i, j)", True),
        ("y = Shape (a)", True),
    ],
)
def test_bounds(expression: str, known: bool) -> None:
    text = (
        '<ir_version: 10, opset_import: ["": 21]>'
        + f"""
        g (int64[3] a, int8[3] c, int32[3] d) => (int64[N] y) <int64 k = {{7}}> {{ {expression} }}
    """.replace("(i, k)\n y", "(i, i)\n y")
    )
    assert fits(load(onnx.parser.parse_model(text)).graph.outputs[0]) is known
