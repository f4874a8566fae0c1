"""Booleans and bits: numpy against LiteRT."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tflite_cases import Array, compiled

from edgecc.runtime.litert import LiteRtRunner


def _run(
    op: str, x: Array, *others: Array, constant: bool = True, result: type | None = None, **more: Any
) -> Array:
    """The node on `x` (computed) and `others` (constant, or computed)."""
    kinds = [helper.np_dtype_to_tensor_dtype(a.dtype) for a in (x, *others)]
    names = ["x", *(f"y{i}" for i in range(len(others)))]
    out = kinds[0] if result is None else helper.np_dtype_to_tensor_dtype(np.dtype(result))
    ports = [
        helper.make_tensor_value_info(n, k, a.shape)
        for n, k, a in zip(names, kinds, (x, *others), strict=True)
    ]
    shape = np.broadcast_shapes(x.shape, *(o.shape for o in others))
    graph = helper.make_graph(
        [helper.make_node(op, names, ["z"], **more)], "g", ports[:1] if constant else ports,
        [helper.make_tensor_value_info("z", out, shape)],
        [onnx.numpy_helper.from_array(o, n) for n, o in zip(names[1:], others, strict=True)] if constant else [],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 28)], ir_version=10)
    feeds = dict(zip(names, (x, *others), strict=True))
    runner = LiteRtRunner(compiled(made, "onnx").data, threads=1)
    return runner.run({name: feeds[name] for name in (v.name for v in graph.input)})["z"]


def _words(dtype: str, *shape: int, seed: int = 0) -> Array:
    limits = np.iinfo(dtype)
    random = np.random.default_rng((seed, *shape))
    array = random.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    array.reshape(-1)[:2] = limits.min, limits.max
    return array


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32"])
@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_bits(op: str, dtype: str, constant: bool) -> None:
    x, y = _words(dtype, 2, 3, 4, 5), _words(dtype, 4, 5, seed=1)
    function = {"And": np.bitwise_and, "Or": np.bitwise_or, "Xor": np.bitwise_xor}[op]
    np.testing.assert_array_equal(_run(f"Bitwise{op}", x, y, constant=constant), function(x, y))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32"])
def test_not(dtype: str) -> None:
    x = _words(dtype, 3, 4)
    np.testing.assert_array_equal(_run("BitwiseNot", x), ~x)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32"])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shifts(direction: str, dtype: str, constant: bool) -> None:
    x = _words(dtype, 5, 8)
    y = np.arange(8).astype(dtype)
    function = np.left_shift if direction == "LEFT" else np.right_shift
    got = _run("BitShift", x, y, constant=constant, direction=direction)
    np.testing.assert_array_equal(got, function(x, y))


def test_shifts_beyond_the_width_leave_the_sign_or_nothing() -> None:
    x, y = np.array([5, -5, 5, -5], np.int8), np.array([8, 100, -1, -1], np.int8)
    np.testing.assert_array_equal(_run("BitShift", x, y, direction="RIGHT"), [0, -1, 0, -1])
    np.testing.assert_array_equal(_run("BitShift", x, y, direction="LEFT"), [0, 0, 0, 0])


def test_exclusive_or() -> None:
    x, y = np.array([[True, False], [False, True]]), np.array([True, False])
    np.testing.assert_array_equal(_run("Xor", x, y), x ^ y)
    np.testing.assert_array_equal(_run("Xor", x, y, constant=False), x ^ y)


@pytest.mark.parametrize(
    ("x", "to"),
    [
        (np.linspace(-3, 3, 7, dtype=np.float32), np.int32),
        (np.arange(-3, 4, dtype=np.int32) << 24, np.float32),
        (np.arange(-3, 4, dtype=np.int8), np.uint8),
        (np.array([True, False]), np.uint8),
    ],
)
def test_the_same_bits_in_another_type(x: Array, to: type) -> None:
    got = _run("BitCast", x, result=to, to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))
    np.testing.assert_array_equal(got, x.view(to))


@pytest.mark.parametrize("constant", [True, False])
def test_long_integers_are_shifted_to_the_right(constant: bool) -> None:
    x = np.array([2**62 + 12345, -(2**62) - 1, 2**40, -1, 2**63 - 1, -(2**63) + 1, 5, 5])
    amount = np.array([3, 31, 39, 5, 62, 63, 64, 0])
    wanted = [int(v) >> min(int(a), 63) for v, a in zip(x, amount, strict=True)]
    np.testing.assert_array_equal(_run("BitShift", x, amount, constant=constant, direction="RIGHT"), wanted)
