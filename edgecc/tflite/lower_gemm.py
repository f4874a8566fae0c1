"""Gemm and MatMul."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgecc import ir
from edgecc.analysis.layout import Flattened, matmul_orders
from edgecc.analysis.sites import Operand, Site
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder, NeedsFloat, Unservable
from edgecc.tflite.lower_conv import bias_tensor, fully_connected
from edgecc.tflite.lower_product import vector_matmul
from edgecc.tflite.options import ACTIVATIONS
from edgecc.tflite.weights import moved, stored_weight


@lowers("Gemm", int8=True)
def gemm(site: Site, b: Builder) -> None:
    """FULLY_CONNECTED: y = x W^T + bias with W (out, in), its columns permuted as the operand is flattened."""
    data, weight = site.inputs[0], site.inputs[1]
    assert data is not None and weight is not None
    offset = site.inputs[2] if len(site.inputs) > 2 else None
    if weight.array is None or site.attribute("transA", 0):
        _product(site, b, offset)
        return
    if (site.attribute("alpha", 1.0), site.attribute("beta", 1.0)) != (1.0, 1.0):
        raise Unservable("alpha and beta must be 1", "run the pass fuse_gemm")
    order = b.order(data.value) if data.array is None else (0, 1)
    source = b.read(data, order)
    columns = order.rows() if isinstance(order, Flattened) else None
    count = ir.static_dims(site.outputs[0].value)[-1]
    filters = _weights(b, weight, transposed=not site.attribute("transB", 0), columns=columns)
    if offset is not None and (offset.array is None or offset.array.size not in (1, count)):
        bare = b.temporary(source, "product", (b.shape(source)[0], count))
        options = {"fusedActivationFunction": ACTIVATIONS["NONE"], "keepNumDims": False}
        zeros = b.constant(np.zeros(count, np.float32), f"{site.name}/bias")
        _add(site, b, b.operator("FULLY_CONNECTED", [source, filters, zeros], [bare], options), offset)
        return
    bias = bias_tensor(b, site, data, weight, count)
    _fully_connected(site, b, [source, filters, bias], keep_dims=False)


def _product(site: Site, b: Builder, offset: Operand | None) -> None:
    """alpha * op(A) op(B) + beta * C with computed operands: BATCH_MATMUL, MUL and ADD as needed."""
    if b.quantized:
        raise NeedsFloat
    alpha, beta = (float(site.attribute(name, 1.0)) for name in ("alpha", "beta"))  # type: ignore[arg-type]
    if beta != 1.0 and offset is not None:
        raise Unservable(
            "beta must be 1 where the operands are computed", "scale the third operand with a Mul"
        )
    options = {"adjX": bool(site.attribute("transA", 0)), "adjY": bool(site.attribute("transB", 0))}
    sources = [b.input(0), b.input(1)]
    if alpha == 1.0 and offset is None:
        b.emit("BATCH_MATMUL", sources, options)
        return
    shape = ir.static_dims(site.outputs[0].value)
    result = b.operator("BATCH_MATMUL", sources, [b.temporary(sources[0], "product", shape)], options)
    if offset is None:
        factor = b.constant(np.array(alpha, np.float32), f"{site.name}/alpha")
        fused = {"fusedActivationFunction": ACTIVATIONS[site.activation]}
        b.operator("MUL", [result, factor], [b.output()], fused)
        return
    if alpha != 1.0:
        factor = b.constant(np.array(alpha, np.float32), f"{site.name}/alpha")
        result = b.operator("MUL", [result, factor], [b.temporary(result, "scaled")], {})
    _add(site, b, result, offset)


def _add(site: Site, b: Builder, product: int, offset: Operand) -> None:
    if b.quantized:
        raise NeedsFloat
    fused = {"fusedActivationFunction": ACTIVATIONS[site.activation]}
    b.operator("ADD", [product, b.read(offset)], [b.output()], fused)


def _weights(
    b: Builder,
    weight: Operand,
    *,
    transposed: bool,
    columns: np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None = None,
) -> int:
    array, quant = stored_weight(b, weight, "FULLY_CONNECTED", whole=columns is None)
    if transposed:
        quant = None if quant is None else moved(quant, array.shape, (1, 0))
        array = array.T
    if quant is not None and quant.axis == 1 and not quant.block_size:
        raise NeedsFloat
    return b.weight(array if columns is None else array[:, columns], str(weight.value.name), quant)


def _fully_connected(site: Site, b: Builder, inputs: list[int], *, keep_dims: bool) -> None:
    options = {"fusedActivationFunction": ACTIVATIONS[site.activation], "keepNumDims": keep_dims}
    target = b.output()
    if not keep_dims or b.graph.tensors[inputs[0]].dtype != "int16":
        fully_connected(b, inputs, target, options)
        return
    # With a scale a channel, int16 and three axes tflite-runtime 2.14 takes the second one for the channels'.
    columns, count = b.shape(inputs[0])[-1], b.shape(target)[-1]
    rows = int(np.prod(b.shape(target)[:-1]))
    flat = b.reshape(inputs[0], b.temporary(inputs[0], "rows", (rows, columns)))
    options["keepNumDims"] = False
    made = b.temporary(target, "product", (rows, count))
    b.operator("FULLY_CONNECTED", [flat, *inputs[1:]], [made], options)
    b.reshape(made, target)


@lowers("MatMul", int8=True)
def matmul(site: Site, b: Builder) -> None:
    """FULLY_CONNECTED where the second operand is a constant matrix, else BATCH_MATMUL."""
    left, right = site.inputs[0], site.inputs[1]
    assert left is not None and right is not None
    ranks = [len(ir.static_dims(o.value)) for o in (left, right)]
    if min(ranks) < 2:
        vector_matmul(site, b)
        return
    if right.array is not None and ranks[1] == 2 and left.array is None:
        count = ir.static_dims(site.outputs[0].value)[-1]
        filters = _weights(b, right, transposed=True)
        bias = bias_tensor(b, site, left, right, count)
        _fully_connected(site, b, [b.read(left), filters, bias], keep_dims=ranks[0] > 2)
        return
    if b.quantized and any(o.quant is not None and o.quant.axis is not None for o in (left, right)):
        raise NeedsFloat
    stored = b.order(right.value) if right.array is None else None
    swapped = stored in matmul_orders(site, 1)[1:]
    sources = [b.read(_whole(left)), b.read(_whole(right), stored if swapped else None)]
    b.emit("BATCH_MATMUL", sources, {"adjX": False, "adjY": swapped})


def _whole(operand: Operand) -> Operand:
    """A constant of float16 as float32: XNNPACK's BATCH_MATMUL cannot be set up behind a DEQUANTIZE."""
    if operand.array is None or operand.array.dtype != np.float16:
        return operand
    return replace(operand, array=operand.real())
