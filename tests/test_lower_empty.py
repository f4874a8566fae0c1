"""Axes of length 0, and axes that are computed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from tflite_cases import Array, seeded

from edgecc.compile import lower_float
from edgecc.errors import EdgeccError
from edgecc.importer import load
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner


def parsed(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]> g ' + body)


def same(made: onnx.ModelProto, feeds: dict[str, Array]) -> None:
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)
    got = LiteRtRunner(lower_float(made, io_layout="onnx").data, threads=1).run(feeds)
    for name, array in wanted.items():
        assert got[name].shape == array.shape
        np.testing.assert_allclose(got[name], array, rtol=1e-5)


EMPTY = [
    "(float[2,0,4] x) => (float[2,0,4] y) { z = Add (x, x)\n y = Exp (z) }",
    "(float[2,0,4] x) => (float[4,0,2] y) { y = Transpose <perm = [2, 1, 0]> (x) }",
    "(float[2,0,4] x) => (float[2,0] y) { a = Constant <value = int64[1] {2}> ()\n"
    " y = ReduceMean <keepdims = 0> (x, a) }",
    "(float[2,0,4] x) => (float[2,1,4] y) { a = Constant <value = int64[1] {1}> ()\n y = ReduceSum (x, a) }",
    "(float[2,0,4] x) => (float[2,1,4] y) { a = Constant <value = int64[1] {1}> ()\n y = ReduceMin (x, a) }",
    "(float[2,3,4] x) => (float[2,0,4] y) { s = Constant <value = int64[1] {3}> ()\n"
    " a = Constant <value = int64[1] {1}> ()\n y = Slice (x, s, s, a) }",
    "(float[2,3,4] x) => (float[2,0,4] y, float[2,3,4] z) { s = Constant <value = int64[2] {0, 3}> ()\n"
    " y, z = Split <axis = 1> (x, s) }",
    "(float[2,0,4] x, float[2,3,4] w) => (float[2,3,4] y) { y = Concat <axis = 1> (x, w) }",
    "(float[2,0,4] x) => (float[2,2,4] y) { p = Constant <value = int64[6] {0, 1, 0, 0, 1, 0}> ()\n y = Pad (x, p) }",
    "(float[2,0,4] x) => (float[8,0] y) { s = Constant <value = int64[2] {8, 0}> ()\n"
    " y = Reshape <allowzero = 1> (x, s) }",
]


@pytest.mark.parametrize("body", EMPTY)
def test_values_without_elements(body: str) -> None:
    made = parsed(body)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in made.graph.input}
    same(made, {name: seeded(*shape) for name, shape in shapes.items()})


def test_a_cache_that_is_empty_before_the_first_step() -> None:
    made = parsed("""
        (float[1,2,0,4] past, float[1,2,3,4] k, float[1,2,3,4] q) => (float[1,2,3,3] y, float[1,2,3,4] present) {
            present = Concat <axis = 2> (past, k)
            t = Transpose <perm = [0, 1, 3, 2]> (present)
            y = MatMul (q, t)
        }
    """)
    same(made, {"past": seeded(1, 2, 0, 4), "k": seeded(1, 2, 3, 4), "q": seeded(1, 2, 3, 4, seed=1)})


def test_a_zero_before_convolutions_is_a_length_that_is_not_known() -> None:
    made = parsed("(float[1,3,0,0] x, float[4,3,1,1] w) => (float[1,4,0,0] y) { y = Conv (x, w) }")
    with pytest.raises(EdgeccError, match="must be a number"):
        load(made)


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize(
    "op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceProd", "ReduceL2", "ReduceLogSumExp"]
)
def test_axes_that_are_computed(op: str, keep: int) -> None:
    shape = "2,1,1,5" if keep else "2,5"
    made = parsed(
        f"(float[2,4,3,5] x, int64[2] a) => (float[{shape}] y) {{ y = {op} <keepdims = {keep}> (x, a) }}"
    )
    feeds = {"x": seeded(2, 4, 3, 5), "a": np.array([1, -2])}
    same(made, feeds)
