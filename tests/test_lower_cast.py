"""Casts, and what 16-bit floats hold."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tflite_cases import Array, compiled, seeded

from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner

HALVES: dict[int, Any] = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}


def network(nodes: list[onnx.NodeProto], kinds: tuple[int, int], shape: list[int | str]) -> onnx.ModelProto:
    ports = [helper.make_tensor_value_info(n, k, shape) for n, k in zip("xy", kinds, strict=True)]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def answer(made: onnx.ModelProto, x: Array) -> Array:
    return LiteRtRunner(compiled(made, "onnx").data, threads=1).run({"x": x})["y"]


EDGES = np.array(
    [0, 1 / 3, -1 / 3, 2049, 2051, -2051, 65504, 65519, 65520, -1e6, 1e-4, 3e-8, np.inf, -np.inf, 3e38],
    np.float32,
)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("shape", [(15,), (3, 5), (1, 3, 5, 1, 1)])
def test_a_cast_to_a_16_bit_float_rounds(half: int, shape: tuple[int, ...]) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=half), helper.make_node("Cast", ["h"], ["y"], to=1)]
    made = network(nodes, (1, 1), list(shape))
    x = EDGES.reshape(shape)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(answer(made, x), x.astype(HALVES[half]).astype(np.float32))


@pytest.mark.parametrize("half", HALVES)
def test_the_batch_stays_free(half: int) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=half), helper.make_node("Cast", ["h"], ["y"], to=1)]
    made = network(nodes, (1, 1), ["N", 3, 4])
    x = seeded(5, 3, 4)
    np.testing.assert_array_equal(answer(made, x), x.astype(HALVES[half]).astype(np.float32))


def test_whole_numbers_are_rounded_too() -> None:
    made = network([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)], (7, 10), [3])
    np.testing.assert_array_equal(answer(made, np.array([2048, 2049, -4099])), [2048, 2048, -4100])


def test_a_float16_output_holds_float16_numbers() -> None:
    """Computed in float32 and rounded once, as ONNX Runtime does it."""
    made = network([helper.make_node("Exp", ["x"], ["y"])], (10, 10), [16])
    x = seeded(16).astype(np.float16)
    wanted = OrtRunner.from_bytes(made.SerializeToString()).run({"x": x})["y"]
    got = answer(made, x)
    np.testing.assert_array_equal(got.astype(np.float16).astype(np.float32), got)
    np.testing.assert_allclose(got, wanted.astype(np.float32), rtol=2**-10)


def test_what_only_moves_is_not_rounded_again() -> None:
    made = network([helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])], (10, 10), [2, 3])
    assert "CAST" not in compiled(made, "onnx").notes["operators"]
