"""One form for every product with constant weights: Gemm(x, W, bias, transB=1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgecc import ir
from edgecc.passes._rewrite import Tally, is_op, new_node
from edgecc.pipeline import Pass, PassContext, PassResult

# Weights that are made already, by what they are made of: many nodes may read the same.
Turned = dict[tuple[ir.Value | None, float, tuple[int, ...]], ir.Value]


@dataclass(frozen=True, kw_only=True)
class FuseGemm(Pass):
    """Makes MatMul (+ Add) with a constant matrix a Gemm, and takes alpha, beta and transB out of Gemms.

    What remains is y = x W^T + bias with W (out, in), the form of the kernels of TFLite and ONNX Runtime.
    """

    name: ClassVar[str] = "fuse_gemm"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites MatMul and Gemm nodes whose weights are constant."""
        tally, turned = Tally(), Turned()
        for node in list(model.graph):
            if is_op(node, "MatMul"):
                _fuse_matmul(model.graph, node, turned, tally)
            elif is_op(node, "Gemm"):
                _normalise(model.graph, node, turned, tally)
        return tally.result()


def _fuse_matmul(graph: ir.Graph, node: ir.Node, turned: Turned, tally: Tally) -> None:
    data, weight = node.inputs
    assert data is not None
    array = ir.constant(weight)
    if array is None or array.ndim != 2:
        return
    if len(ir.dims(data) or ()) != 2:
        tally.refuse(node, "Gemm takes a matrix, the operand has another rank")
        return
    bias, replaced = _bias(node, array.shape[1])
    weights = _turned(graph, weight, array.T, 1.0, turned)
    gemm = new_node(
        "Gemm", [data, weights, *([] if bias is None else [bias])], replaced.outputs[0], {"transB": 1},
        name=ir.label(node),
    )  # fmt: skip
    old = [node] if replaced is node else [replaced, node]
    ir.replace(old, [gemm], {replaced.outputs[0]: gemm.outputs[0]})
    tally.rewritten += 1


def _bias(node: ir.Node, count: int) -> tuple[ir.Value | None, ir.Node]:
    """The constant vector that the only reader of `node` adds, and that reader; (None, node) where there is none."""
    reader = ir.single_consumer(node.outputs[0])
    if not is_op(reader, "Add"):
        return None, node
    assert reader is not None
    other = next((v for v in reader.inputs if v is not node.outputs[0]), None)
    array = ir.constant(other)
    if array is None or array.size != count or array.shape[-1:] != (count,) or array.ndim > 2:
        return None, node
    return other, reader


def _normalise(graph: ir.Graph, node: ir.Node, turned: Turned, tally: Tally) -> None:
    """y = alpha x W + beta c: W' = alpha W^T, bias = beta c."""
    alpha, beta = ir.attribute(node, "alpha", 1.0), ir.attribute(node, "beta", 1.0)
    weight = ir.constant(node.inputs[1])
    if (alpha, beta) == (1.0, 1.0) and ir.attribute(node, "transB", 0):
        return
    offset = node.inputs[2] if len(node.inputs) > 2 else None
    bias = ir.constant(offset)
    if weight is None or ir.attribute(node, "transA", 0) or (offset is not None and bias is None):
        tally.refuse(node, "its weights or bias are computed, or its first operand is transposed")
        return
    matrix = weight if ir.attribute(node, "transB", 0) else weight.T
    weights = _turned(graph, node.inputs[1], matrix, alpha, turned)
    inputs = [node.inputs[0], weights]
    if bias is not None and offset is not None:
        scaled = offset
        if beta != 1.0:
            scaled = ir.add_initializer(
                graph, _scaled(bias, beta), ir.fresh_name(graph, f"{offset.name}_scaled")
            )
        inputs.append(scaled)
    gemm = new_node("Gemm", inputs, node.outputs[0], {"transB": 1}, name=node.name)
    ir.replace([node], [gemm], {node.outputs[0]: gemm.outputs[0]})
    tally.rewritten += 1


def _turned(
    graph: ir.Graph, weight: ir.Value | None, matrix: ir.Array, alpha: float, turned: Turned
) -> ir.Value:
    """The constant alpha * matrix, where `matrix` is `weight` or its transpose (told apart by its strides)."""
    key = (weight, alpha, matrix.strides)
    if key not in turned:
        stem = f"{weight.name if weight else 'w'}_t"
        turned[key] = ir.add_initializer(graph, _scaled(matrix, alpha), ir.fresh_name(graph, stem))
    return turned[key]


def _scaled(array: ir.Array, factor: float) -> ir.Array:
    return array if factor == 1.0 else (array.astype(np.float64) * factor).astype(array.dtype)
