"""The network seen through its Q/DQ nodes: one `Site` an operator that does work.

`x -> QuantizeLinear -> DequantizeLinear -> node` is one edge that carries x in quantized form; an activation that its
producer absorbs is part of the producer. Layout analysis and lowering both read this view, so they agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from edgecc import ir
from edgecc.errors import Finding, UnsupportedError
from edgecc.ir import Array
from edgecc.quant.params import LIMITS, DType, QuantParams

# Metadata of a node that computes in float though it may stand between quantized values; its text is the reason.
# (On the node, not the value: it survives the removal of Identity nodes and is written to ONNX files.)
FLOAT_MARK = "edgecc.float"

# Operators whose TFLite kernel has a fused activation.
_ABSORBING = frozenset({"Conv", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "MaxPool", "AveragePool"})


@dataclass(frozen=True)
class Operand:
    """What a site reads.

    Attributes:
        value: the float value behind Q/DQ, or the constant.
        quant: how it is read quantized; None: as real or index values.
        array: a constant's stored array (int8, int32, ... where `quant` is set); None if computed.
    """

    value: ir.Value
    quant: QuantParams | None = None
    array: Array | None = None

    def real(self) -> Array:
        """A constant's real values.

        Raises:
            ValueError: the operand is computed.
        """
        if self.array is None:
            raise ValueError(f"{self.value.name} is not a constant")
        if self.quant is not None:
            return self.quant.dequantize(self.array)
        return self.array.astype(np.float32) if self.array.dtype == np.float16 else self.array


@dataclass(frozen=True)
class Result:
    """What a site computes: the value after its absorbed activation, quantized where every reader wants it so."""

    value: ir.Value
    quant: QuantParams | None = None


@dataclass(frozen=True, eq=False)
class Site:
    """An operator with its operands, results and absorbed activation ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")."""

    node: ir.Node
    inputs: tuple[Operand | None, ...]
    outputs: tuple[Result, ...]
    activation: str = "NONE"

    @property
    def op_type(self) -> str:
        """The ONNX operator, with its domain where that is not the default one."""
        return self.node.op_type if self.node.domain == "" else f"{self.node.domain}::{self.node.op_type}"

    @property
    def name(self) -> str:
        """What messages call it."""
        return ir.label(self.node)

    @property
    def quantized(self) -> bool:
        """Whether every float operand that is computed and every result is quantized, and nothing marks it float."""
        if FLOAT_MARK in self.node.metadata_props:
            return False
        computed = [o for o in self.inputs if o is not None and o.array is None and _is_float(o.value)]
        return bool(computed) and all(o.quant for o in computed) and all(r.quant for r in self.outputs)

    def attribute(self, name: str, default: object = None) -> object:
        """See `ir.attribute`."""
        return ir.attribute(self.node, name, default)


@dataclass(frozen=True)
class SiteGraph:
    """All sites in execution order, with the ports.

    Attributes:
        inputs: graph inputs.
        outputs: ONNX name of each graph output, and what it reads.
        readers: the sites that read a value (through Q/DQ or not).
        input_quant: the quantization in which a graph input is read, where all its readers agree.
    """

    sites: tuple[Site, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[tuple[str, Operand], ...]
    readers: Mapping[ir.Value, tuple[Site, ...]] = field(default_factory=dict)
    input_quant: Mapping[ir.Value, QuantParams] = field(default_factory=dict)


def site_graph(model: ir.Model) -> SiteGraph:
    """Collects the sites of a graph, with or without Q/DQ nodes.

    Raises:
        UnsupportedError: a Q/DQ node stands where TFLite has nothing for it.
    """
    _check_pairs(model.graph)
    sites = tuple(_sites(model.graph))
    readers: dict[ir.Value, list[Site]] = {}
    for site in sites:
        for operand in site.inputs:
            if operand is not None and operand.array is None:
                readers.setdefault(operand.value, []).append(site)
    quants = {v: q for v in model.graph.inputs if (q := _readers_quant(v)) is not None}
    return SiteGraph(
        sites,
        tuple(model.graph.inputs),
        tuple((str(out.name), read_operand(out)) for out in model.graph.outputs),
        {value: tuple(dict.fromkeys(found)) for value, found in readers.items()},
        quants,
    )


def read_operand(value: ir.Value) -> Operand:
    """`value` seen through the Q/DQ nodes that make it; the last quantization counts (one pair may follow another)."""
    node = value.producer()
    half = None if node is None else _half(node)
    if half is not None:
        return Operand(value, None, half)
    if node is None or node.op_type not in ("DequantizeLinear", "QuantizeLinear"):
        return Operand(value, None, ir.constant(value))
    quant = params(node)
    source = node.inputs[0]
    assert source is not None
    stored = ir.constant(source)
    if node.op_type == "DequantizeLinear" and stored is not None:
        if stored.dtype == np.uint8:
            stored = (stored.astype(np.int16) - 128).astype(np.int8)
        return Operand(source, quant, stored)
    behind = read_operand(source)
    if node.op_type == "DequantizeLinear":
        return Operand(behind.value, behind.quant or quant, behind.array)
    array = None if behind.array is None else quant.quantize(behind.real())
    return Operand(behind.value, quant, array)


def _half(node: ir.Node) -> Array | None:
    """The float16 constant that `node` casts to float32, if that is what it does."""
    array = ir.constant(node.inputs[0]) if node.op_type == "Cast" else None
    return array if array is not None and array.dtype == np.float16 else None


def params(node: ir.Node) -> QuantParams:
    """Scale, zero point and axis of a Q or DQ node; uint8 as the int8 that means the same."""
    scale = ir.constant(node.inputs[1])
    assert scale is not None, "checked by site_graph"
    zero = ir.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    zeros = np.zeros(scale.shape, np.int64) if zero is None else zero.astype(np.int64)
    stored = _stored_type(node)
    if stored == "uint8":
        stored, zeros = "int8", zeros - 128
    axis = int(ir.attribute(node, "axis", 1)) if scale.size > 1 else None
    if axis is not None and axis < 0 and node.inputs[0] is not None:
        axis += len(ir.dims(node.inputs[0]) or ())
    return QuantParams(
        scale=scale.reshape(-1).astype(np.float32),
        zero_point=zeros.reshape(-1),
        dtype=cast(DType, stored),
        axis=axis,
    )


def _stored_type(node: ir.Node) -> str:
    stored = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    return "int8" if stored is None or stored.dtype is None else str(stored.dtype).lower()


# What activations are stored in; constants may be biases too.
_ACTIVATIONS = frozenset({"int8", "uint8", "int16"})


def _check_pairs(graph: ir.Graph) -> None:
    """Every Q/DQ node must be half of a pair, or make a constant real.

    Raises:
        UnsupportedError: naming each that is not, or that is stored in a way that TFLite does not have.
    """
    findings = []
    for node in graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.domain == "":
            reason = _pair_objection(node)
            if reason is not None:
                findings.append(Finding(ir.label(node), node.op_type, reason))
    if findings:
        raise UnsupportedError("these nodes cannot be compiled", findings)


def _pair_objection(node: ir.Node) -> str | None:
    if any(v is not None and ir.constant(v) is None for v in node.inputs[1:]):
        return "its scale or zero point is computed at run time"
    scale, source = ir.constant(node.inputs[1]), node.inputs[0]
    assert scale is not None and source is not None
    if scale.ndim > 1 or ir.attribute(node, "block_size", 0):
        return "blocks of one scale have no kernel"
    if node.op_type == "DequantizeLinear" and ir.constant(source) is not None:
        return None if _stored_type(node) in LIMITS else f"{_stored_type(node)} has no kernel"
    if scale.size > 1:
        return "activations with one scale a channel have no kernel"
    if _stored_type(node) not in _ACTIVATIONS:
        return f"activations stored in {_stored_type(node)} have no kernel"
    maker, made = source.producer(), node.outputs[0]
    if node.op_type == "DequantizeLinear" and (maker is None or maker.op_type != "QuantizeLinear"):
        return "no QuantizeLinear makes the integers that it reads"
    if node.op_type == "QuantizeLinear" and (
        made.is_graph_output() or any(u.node.op_type != "DequantizeLinear" or u.idx != 0 for u in made.uses())
    ):
        return "its integers are read by other nodes than a DequantizeLinear"
    return None


def _sites(graph: ir.Graph) -> Iterator[Site]:
    absorbed: set[ir.Node] = set()
    for node in graph:
        if (
            node in absorbed
            or node.op_type in ("QuantizeLinear", "DequantizeLinear")
            or _half(node) is not None
        ):
            continue
        activation = _activation(node)
        last = node
        if activation is not None:
            last = activation[0]
            absorbed.add(last)
        yield Site(
            node,
            tuple(None if v is None else read_operand(v) for v in node.inputs),
            tuple(Result(v, _readers_quant(v)) for v in last.outputs),
            "NONE" if activation is None else activation[1],
        )


def _activation(node: ir.Node) -> tuple[ir.Node, str] | None:
    """The activation that `node` absorbs: its only reader, of a kind that TFLite kernels fuse."""
    if node.op_type not in _ABSORBING or len(node.outputs) != 1 or node.domain != "":
        return None
    reader = ir.single_consumer(node.outputs[0])
    if reader is None or reader.domain != "":
        return None
    kind = fused_activation(reader)
    return None if kind is None else (reader, kind)


_CLIPS = {(0.0, float("inf")): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}


def fused_activation(node: ir.Node) -> str | None:
    """TFLite's name of an activation that a kernel can absorb, or None."""
    if node.op_type == "Relu":
        return "RELU"
    if node.op_type != "Clip":
        return None
    bounds = []
    for position, missing in ((1, -float("inf")), (2, float("inf"))):
        value = node.inputs[position] if len(node.inputs) > position else None
        array = ir.constant(value)
        if value is not None and array is None:
            return None
        bounds.append(missing if array is None else float(array.reshape(-1)[0]))
    return _CLIPS.get((bounds[0], bounds[1]))


def _readers_quant(value: ir.Value) -> QuantParams | None:
    """The quantization in which every reader takes `value`; None if one takes it as it is."""
    uses = tuple(value.uses())
    if value.is_graph_output() or not uses:
        return None
    if any(use.node.op_type != "QuantizeLinear" or use.idx != 0 for use in uses):
        return None
    return params(uses[0].node)


def _is_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()
