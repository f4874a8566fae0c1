"""The network seen through its Q/DQ nodes: one `Site` an operator that does work.

`x -> QuantizeLinear -> DequantizeLinear -> node` is one edge that carries x in quantized form; an activation that its
producer absorbs is part of the producer. Layout analysis and lowering both read this view, so they agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgecc import ir
from edgecc.analysis import qdq
from edgecc.ir import Array
from edgecc.quant.params import QuantParams

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
        computed = [
            o for o in self.inputs if o is not None and o.array is None and (o.quant or _is_float(o.value))
        ]
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
        stored_outputs: type of each graph output that is what a QuantizeLinear stores, by name.
    """

    sites: tuple[Site, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[tuple[str, Operand], ...]
    readers: Mapping[ir.Value, tuple[Site, ...]] = field(default_factory=dict)
    input_quant: Mapping[ir.Value, QuantParams] = field(default_factory=dict)
    stored_outputs: Mapping[str, str] = field(default_factory=dict)


def site_graph(model: ir.Model) -> SiteGraph:
    """Collects the sites of a graph, with or without Q/DQ nodes.

    A Q/DQ node that is no part of an edge (see `qdq.absorbed`) is a site itself.
    """
    sites = tuple(_sites(model.graph))
    readers: dict[ir.Value, list[Site]] = {}
    for site in sites:
        for operand in site.inputs:
            if operand is not None and operand.array is None:
                readers.setdefault(operand.value, []).append(site)
    quants = {v: q for v in model.graph.inputs if (q := _input_quant(v)) is not None}
    return SiteGraph(
        sites,
        tuple(model.graph.inputs),
        tuple((str(out.name), read_operand(out)) for out in model.graph.outputs),
        {value: tuple(dict.fromkeys(found)) for value, found in readers.items()},
        quants,
        {str(out.name): str(out.dtype).lower() for out in model.graph.outputs if _is_stored(out)},
    )


def read_operand(value: ir.Value) -> Operand:
    """`value` seen through the Q/DQ nodes that make it; the last quantization counts (one pair may follow another)."""
    node = value.producer()
    half = None if node is None else _half(node)
    if half is not None:
        return Operand(value, None, half)
    if node is None or not qdq.absorbed(node):
        return Operand(value, None, ir.constant(value))
    source = node.inputs[0]
    assert source is not None
    if node.op_type == qdq.DEQUANTIZE and ir.constant(source) is not None:
        stored = qdq.stored_constant(node)
        return (
            Operand(value, None, qdq.real_constant(node))
            if stored is None
            else Operand(source, *stored[::-1])
        )
    quant = qdq.params(node)
    behind = read_operand(source)
    if node.op_type == qdq.DEQUANTIZE:
        return Operand(behind.value, behind.quant or quant, behind.array)
    array = None if behind.array is None else quant.quantize(behind.real())
    return Operand(behind.value, quant, array)


def _half(node: ir.Node) -> Array | None:
    """The float16 constant that `node` casts to float32, if that is what it does."""
    array = ir.constant(node.inputs[0]) if node.op_type == "Cast" else None
    return array if array is not None and array.dtype == np.float16 else None


def _sites(graph: ir.Graph) -> Iterator[Site]:
    absorbed: set[ir.Node] = set()
    for node in graph:
        if node in absorbed or qdq.absorbed(node) or _half(node) is not None:
            continue
        activation = _activation(node)
        last = node
        if activation is not None:
            last = activation[0]
            absorbed.add(last)
        yield Site(
            node,
            tuple(None if v is None else read_operand(v) for v in node.inputs),
            tuple(Result(v, qdq.wanted_by_readers(v)) for v in last.outputs),
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


def _is_stored(value: ir.Value) -> bool:
    maker = value.producer()
    return maker is not None and maker.op_type == qdq.QUANTIZE and qdq.absorbed(maker)


def _input_quant(value: ir.Value) -> QuantParams | None:
    """How a graph input is read quantized: one that holds integers, or one that its readers quantize alike."""
    return qdq.stored_input(value) or qdq.wanted_by_readers(value, one=True)


def _is_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()
