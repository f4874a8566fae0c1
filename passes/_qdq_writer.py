"""Q/DQ nodes and the constants behind them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgecc import ir
from edgecc.quant import int4
from edgecc.quant.params import QuantParams

_DTYPES = {"int4": np.int8, "int8": np.int8, "uint8": np.uint8, "int16": np.int16, "int32": np.int32}


@dataclass
class QdqWriter:
    """Adds nodes to a graph; a constant is stored once a set of parameters."""

    graph: ir.Graph
    taken: set[str] = field(default_factory=set)
    stored: dict[tuple[str, QuantParams], ir.Value] = field(default_factory=dict)
    halves: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.taken = {str(v.name) for v in (*self.graph.inputs, *self.graph.initializers.values())}
        self.taken |= {str(out.name) for node in self.graph for out in node.outputs}

    def fresh(self, stem: str) -> str:
        """A name that no value has."""
        name, count = stem, 0
        while name in self.taken:
            count += 1
            name = f"{stem}_{count}"
        self.taken.add(name)
        return name

    def scale_and_zero(self, stem: str, params: QuantParams, *, zero: bool = True) -> tuple[ir.Value, ...]:
        """Initializers; a scalar each for per-tensor parameters."""
        shape = () if params.axis is None else params.scale.shape
        values = [ir.add_initializer(self.graph, params.scale.reshape(shape), self.fresh(f"{stem}_scale"))]
        if zero:
            points = int4.stored(params, params.zero_point.astype(_DTYPES[params.dtype]).reshape(shape))
            values.append(ir.add_initializer(self.graph, points, self.fresh(f"{stem}_zero_point")))
        return tuple(values)

    def constant(self, value: ir.Value, params: QuantParams, user: ir.Node, *, zero: bool = True) -> ir.Value:
        """The dequantized form of a constant; one a set of parameters, whoever uses it."""
        key = (str(value.name), params)
        if key in self.stored:
            return self.stored[key]
        array = ir.constant(value)
        assert array is not None
        if params.dtype == "int32" and params.axis is not None:
            array = array.reshape(-1)
        stored = ir.add_initializer(
            self.graph, int4.quantized(params, array), self.fresh(f"{value.name}_quantized")
        )
        more = self.scale_and_zero(str(value.name), params, zero=zero)
        attributes = {} if params.axis is None else {"axis": params.axis}
        node = _node("DequantizeLinear", (stored, *more), self.fresh(f"{value.name}_dequantized"), attributes)
        node.outputs[0].shape, node.outputs[0].type = ir.Shape(array.shape), ir.TensorType(ir.DataType.FLOAT)
        self.graph.insert_before(next(iter(self.graph)), node)
        self.stored[key] = node.outputs[0]
        return node.outputs[0]

    def half(self, weight: ir.Value, array: ir.Array) -> ir.Value:
        """A constant stored in float16 and cast to float32."""
        if weight not in self.halves:
            stored = ir.add_initializer(
                self.graph, array.astype(np.float16), self.fresh(f"{weight.name}_float16")
            )
            name = self.fresh(f"{weight.name}_widened")
            node = _node("Cast", (stored,), name, {"to": int(ir.DataType.FLOAT)})
            node.outputs[0].shape, node.outputs[0].type = weight.shape, ir.TensorType(ir.DataType.FLOAT)
            self.graph.insert_before(next(iter(self.graph)), node)
            self.halves[weight] = node.outputs[0]
        return self.halves[weight]

    def q_dq(
        self, value: ir.Value, params: QuantParams, stem: str, output: str | None
    ) -> tuple[ir.Node, ir.Node]:
        """A QuantizeLinear and a DequantizeLinear of `value`, not in the graph yet; the result is called `output`."""
        more = self.scale_and_zero(stem, params)
        q = _node("QuantizeLinear", (value, *more), self.fresh(f"{stem}_quantized"))
        dq = _node("DequantizeLinear", (q.outputs[0], *more), output or self.fresh(f"{stem}_dequantized"))
        q.outputs[0].shape = dq.outputs[0].shape = value.shape
        stored = {"int8": ir.DataType.INT8, "uint8": ir.DataType.UINT8, "int16": ir.DataType.INT16}[
            params.dtype
        ]
        q.outputs[0].type, dq.outputs[0].type = ir.TensorType(stored), ir.TensorType(ir.DataType.FLOAT)
        return q, dq


def matches(dq: ir.Node, params: QuantParams) -> bool:
    """Whether a DequantizeLinear reads what `params` say."""
    scale, zero = (
        ir.constant(dq.inputs[1]),
        ir.constant(dq.inputs[2]) if len(dq.inputs) > 2 else np.array(0),
    )
    assert scale is not None
    assert zero is not None
    if dq.inputs[0] is not None and str(dq.inputs[0].dtype).lower() != params.dtype:
        return False
    return bool(scale.reshape(-1)[0] == params.scale[0] and int(zero.reshape(-1)[0]) == params.zero_point[0])


def _node(
    op_type: str, inputs: tuple[ir.Value, ...], output: str, attributes: dict[str, int] | None = None
) -> ir.Node:
    made = ir.Node("", op_type, inputs)
    made.attributes.update({k: ir.Attr(k, ir.AttributeType.INT, v) for k, v in (attributes or {}).items()})
    made.outputs[0].name = output
    return made
