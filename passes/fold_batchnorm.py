"""Folds BatchNormalization, and Mul, Div, Add, Sub by constants, into the weights of a layer beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgecc import ir
from edgecc.ir import Array
from edgecc.passes import _rewrite as rw
from edgecc.passes._linear_layer import LINEAR, Layer, layer_that_computes, layer_that_reads, per_channel
from edgecc.pipeline import Pass, PassContext, PassResult


@dataclass(frozen=True, kw_only=True)
class FoldBatchNorm(Pass):
    """Folds per-channel scales and shifts into the Conv, ConvTranspose, Gemm or MatMul before or after them.

    After a layer: scale * (W x + b) + shift = (scale * W) x + (scale * b + shift). Before one:
    W (scale * x + shift) + b = (W * scale) x + (W shift + b), which zero padding allows only if shift is 0.
    (Jacob et al. 2018, section 3.2.) Computed in float64, stored in the type of the weights.
    """

    name: ClassVar[str] = "fold_batchnorm"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        tally = rw.Tally()
        for node in model.graph:
            if not rw.is_op(node, "BatchNormalization", *_ARITHMETIC):
                continue
            source = _data(node)
            if source is None:
                continue
            after = _fold_after(node, source)
            before = _fold_before(node, source) if after is not None else None
            reasons = [reason for reason in (after, before) if reason]
            if after is None or before is None:
                tally.rewritten += 1
            elif reasons:
                tally.refuse(node, "; ".join(reasons))
            elif rw.is_op(node, "BatchNormalization"):
                tally.refuse(node, "no layer with constant weights stands before it or after it")
        return tally.result()


@dataclass(frozen=True)
class _Affine:
    """scale * x + shift, each (channels,) float64."""

    scale: Array
    shift: Array


# x with the constant c: what x is multiplied with, and what is added. The flag: c is the first operand.
_ARITHMETIC: dict[str, Callable[[Array, bool], tuple[Array, Array] | None]] = {
    "Add": lambda c, first: (np.ones_like(c), c),
    "Div": lambda c, first: None if first else (1 / c, np.zeros_like(c)),
    "Mul": lambda c, first: (c, np.zeros_like(c)),
    "Sub": lambda c, first: (-np.ones_like(c), c) if first else (np.ones_like(c), -c),
}


def _data(node: ir.Node) -> ir.Value | None:
    """The operand that is computed; None unless the others are constant."""
    if node.op_type == "BatchNormalization":
        return node.inputs[0]
    computed = [v for v in node.inputs if v is None or v.const_value is None or v.is_graph_input()]
    return computed[0] if len(computed) == 1 and len(node.inputs) == 2 else None


def _affine(node: ir.Node, source: ir.Value, layer: Layer, channels: int) -> _Affine | str:
    """What `node` does to every channel; the reason if it is not that."""
    if node.op_type == "BatchNormalization":
        return _batchnorm(node, layer, channels)
    first = node.inputs[0] is not source
    array = ir.constant(node.inputs[0 if first else 1])
    count, shape = rw.rank(source), ir.dims(source)
    if array is None or count is None or array.dtype.kind != "f" or shape != ir.dims(node.outputs[0]):
        return "it changes the shape of what it reads"
    vector = per_channel(array, count, layer.axis, channels)
    if vector is None:
        return f"its constant of shape {array.shape} is not one number a channel"
    with np.errstate(divide="ignore"):
        pair = _ARITHMETIC[node.op_type](vector, first)
    return "it divides by what is computed" if pair is None else _Affine(*pair)


def _batchnorm(node: ir.Node, layer: Layer, channels: int) -> _Affine | str:
    if ir.attribute(node, "training_mode", 0) or len(node.outputs) > 1:
        return "it is in training mode"
    arrays = [ir.constant(v) for v in node.inputs[1:5]]
    if any(array is None for array in arrays):
        return "its statistics are computed while running"
    if layer.axis != 1:
        return f"it normalises axis 1, but {ir.label(layer.node)} has its channels on axis {layer.axis}"
    gamma, beta, mean, variance = (array.astype(np.float64) for array in arrays if array is not None)
    if gamma.shape != (channels,):
        return f"it has {gamma.size} channels, but {ir.label(layer.node)} has {channels}"
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(variance + ir.attribute(node, "epsilon", 1e-5))
    return _Affine(scale, beta - mean * scale)


def _fold_after(node: ir.Node, source: ir.Value) -> str | None:
    """Folds `node` into the layer before it; the reason if it does not, empty where none stands there."""
    layer = layer_that_computes(source)
    if layer is None or isinstance(layer, str):
        return layer or ""
    if layer.bias_node is None and layer.node.op_type == "MatMul" and rw.is_op(node, "Add"):
        return ""  # this is how the bias of a MatMul is written
    if ir.single_consumer(source) is None:
        return _shared(source)
    affine = _affine(node, source, layer, layer.outputs)
    if isinstance(affine, str):
        return affine
    # scale * (W x + b) + shift: W' = scale * W, b' = scale * b + shift
    weight = layer.weight.astype(np.float64) * layer.spread_outputs(affine.scale * layer.weight_scale)
    bias = affine.shift if layer.bias is None else layer.bias * affine.scale + affine.shift
    return _rebuild(node, layer, weight, bias)


def _fold_before(node: ir.Node, source: ir.Value) -> str | None:
    """Folds `node` into the layer after it; the reason if it does not, empty where none stands there."""
    out = node.outputs[0]
    layer = layer_that_reads(out)
    if layer is None or isinstance(layer, str):
        several = any(rw.is_op(reader, *LINEAR) for reader in ir.consumers(out))
        return layer or (_shared(out) if several else "")
    affine = _affine(node, source, layer, layer.inputs)
    if isinstance(affine, str):
        return affine
    shifts = bool(affine.shift.any())
    if shifts and layer.node.op_type == "ConvTranspose":
        return "a shift before a ConvTranspose reaches its border otherwise than its middle"
    if shifts and _pads(layer.node):
        return f"{ir.label(layer.node)} pads with zeros, to which its shift is not added"
    # W (scale * x + shift) + b: W' = W * scale, b' = W shift + b
    weight = layer.weight.astype(np.float64) * layer.weight_scale
    bias = layer.bias
    if shifts:
        added = layer.sum_inputs(weight * layer.spread_inputs(affine.shift))
        bias = added if bias is None else bias + added
    return _rebuild(node, layer, weight * layer.spread_inputs(affine.scale), bias)


def _pads(node: ir.Node) -> bool:
    automatic = ir.attribute(node, "auto_pad", "NOTSET") not in {"NOTSET", "VALID"}
    return node.op_type == "Conv" and (automatic or any(ir.attribute(node, "pads", ())))


def _shared(value: ir.Value) -> str:
    return f"{value.name} is also {'a graph output' if value.is_graph_output() else 'read by another node'}"


def _rebuild(node: ir.Node, layer: Layer, weight: Array, bias: Array | None) -> str | None:
    """Puts the layer with its new weights in place of the layer and `node`; the reason if it does not."""
    if not np.isfinite(weight).all() or (bias is not None and not np.isfinite(bias).all()):
        return "the folded weights would not be finite"
    if bias is not None and layer.bias is None and not bias.any():
        bias = None
    after = _data(node) is layer.out
    source, out = (layer.node.inputs[0], node.outputs[0]) if after else (_data(node), layer.out)
    old = [layer.node, node] if layer.bias_node is None else [layer.node, layer.bias_node, node]
    constants = [v for n in old for v in n.inputs if v is not None and v.const_value is not None]
    new = layer.rebuild(weight, bias, source, out)
    ir.replace(old, new, {out: new[-1].outputs[0]})
    for value in constants:
        rw.drop_unused(value)
    return None
