"""Writes a quantization plan into the graph as QuantizeLinear and DequantizeLinear nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from edgecc import ir
from edgecc.analysis.sites import FLOAT_MARK
from edgecc.errors import UsageError
from edgecc.passes._integer_ports import store_ports
from edgecc.passes._qdq_writer import QdqWriter, matches
from edgecc.pipeline import Pass, PassContext, PassResult, Refusal
from edgecc.quant import int4, rules
from edgecc.quant.params import QuantParams
from edgecc.quant.plan import QuantPlan
from edgecc.quant.units import integer_units, is_wide, unit_outputs, width


@dataclass(frozen=True, kw_only=True)
class InsertQDQ(Pass):
    """Stores activations, weights and biases as the plan says.

    From here on Q/DQ is the only truth about quantization (DESIGN §1).
    Activations: x -> QuantizeLinear -> `x_quantized` -> DequantizeLinear -> `x_dequantized`. Weights: an
    integer initializer `w_quantized` and a DequantizeLinear along the channel axis. Biases: int32 with scale
    s_in * s_w. Names of graph inputs and outputs stay; the float value behind an output is called
    `<output>_float`. Where operators of both widths read a value, a second pair stands behind the first.
    A node that computes in float is marked as such, with the reason, as it may stand between two pairs too.

    Attributes:
        io_dtype: how inputs and outputs are stored that integer operators read and write.
    """

    name: ClassVar[str] = "insert_qdq"
    exact: ClassVar[bool] = False
    io_dtype: Literal["float32", "int8", "uint8", "int16"] = "float32"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` by `ctx.plan`, which must be specialised for a runtime."""
        plan = ctx.plan
        if plan is None or plan.runtime is None:
            raise UsageError(
                "there is no quantization plan for a runtime",
                node=self.name,
                remedy="make one: make_plan(...).for_runtime(...)",
            )
        units, reasons = integer_units(model, plan.runtime, plan)
        wider = {ir.label(node): why for node in units if (why := _wider(node, plan)) is not None}
        writer = _Writer(model.graph, plan)
        for node in units:
            writer.constants(node)
        for node in [n for n in model.graph if ir.label(n) in reasons and _computes_in_float(n)]:
            node.metadata_props[FLOAT_MARK] = reasons[ir.label(node)]
            writer.weights_only(node)
        writer.activations(units)
        if self.io_dtype != "float32":
            store_ports(model.graph, plan, "int16" if self.io_dtype == "int16" else "int8", writer.q_dq)
        for value in [
            v for v in model.graph.initializers.values() if not v.uses() and not v.is_graph_output()
        ]:
            del model.graph.initializers[str(value.name)]
        refused = {**reasons, **wider}
        return PassResult(len(units), tuple(Refusal(label, why) for label, why in refused.items()))


def _wider(node: ir.Node, plan: QuantPlan) -> str | None:
    """Why the weights of a node are int8 under an int4 plan."""
    weight, chosen = rules.weight_of(node), plan.precisions.get(ir.label(node))
    asked = plan.precision_of(node) == "int4" or (plan.precision == "int4" and chosen == "int8")
    if not asked or weight is None or plan.tensors[str(weight.name)].dtype == "int4":
        return None
    why = int4.NOISY if chosen == "int8" else int4.SPARED
    return f"its weights are int8: {int4.objection(node, 'int8') or why}"


class _Writer(QdqWriter):
    def __init__(self, graph: ir.Graph, plan: QuantPlan) -> None:
        super().__init__(graph)
        self.plan = plan

    def constants(self, node: ir.Node) -> None:
        """Replaces the constant operands of an integer node: weights, bias, and quantized operands."""
        weight, bias = rules.weight_of(node), rules.bias_of(node)
        if weight is not None:
            rule = rules.RULES[node.op_type]
            assert rule.weight is not None
            params = self.plan.tensors[str(weight.name)]
            node.replace_input_with(rule.weight, self.constant(weight, params, node))
            if bias is not None and rule.bias is not None:
                source = node.inputs[0]
                assert source is not None
                read = self.plan.stored(str(source.name), width(self.plan, node))
                scale = read.scale * params.scale  # float32, as the kernels have it
                axis = 0 if params.axis is not None else None
                bias_params = QuantParams(scale, np.zeros(scale.shape), "int32", axis)
                node.replace_input_with(rule.bias, self.constant(bias, bias_params, node, zero=False))
        for i in rules.data_inputs(node):
            value = node.inputs[i]
            if value is not None and ir.constant(value) is not None:
                params = self.plan.stored(str(value.name), width(self.plan, node))
                column = rules.column(node, self.plan.runtime or "tflite", width(self.plan, node))
                if not isinstance(column, str) and column.scale == "same":
                    params = self.plan.tensors[str(unit_outputs(node)[0].name)]
                node.replace_input_with(i, self.constant(value, params, node))

    def weights_only(self, node: ir.Node) -> None:
        """Stores the weights of a node that computes in float as its precision says: in int8 or in float16."""
        weight, rule = rules.weight_of(node), rules.RULES.get(node.op_type)
        array, precision = ir.constant(weight), self.plan.precision_of(node)
        if (
            weight is None
            or array is None
            or rule is None
            or rule.weight is None
            or array.dtype != np.float32
        ):
            return
        params = self.plan.tensors.get(str(weight.name))
        fits = params is not None and params.axis in (None, rules.channel_axis(node))
        # TRANSPOSE_CONV takes no int8 weights with float data.
        if precision == "dynamic" and fits and params is not None and node.op_type != "ConvTranspose":
            made = self.constant(weight, params, node)
        elif precision == "fp16" and np.abs(array).max(initial=0) <= np.finfo(np.float16).max:
            made = self.half(weight, array)
        else:
            return
        node.replace_input_with(rule.weight, made)

    def activations(self, units: dict[ir.Node, rules.Column]) -> None:
        """Puts a pair behind every value that an integer node reads or writes."""
        inside = set(units)
        written = dict.fromkeys(out for node in units for out in unit_outputs(node))  # ordered: same bytes
        read: dict[ir.Value, None] = dict(written)
        for node in units:
            for i in rules.data_inputs(node):
                value = node.inputs[i]
                if value is not None and str(value.name) in self.plan.tensors:
                    read[value] = None
        for value in read:
            producer = value.producer()
            if ir.constant(value) is not None or (
                producer is not None and producer.op_type == "DequantizeLinear"
            ):
                continue
            self.pairs(value, inside, written=value in written)
        for node, column in units.items():
            if column.scale == "same":
                self.requantize(node)

    def pairs(self, value: ir.Value, inside: set[ir.Node], *, written: bool) -> None:
        """The pair behind a value, and a second one for integer readers of the other width.

        Args:
            value: read or written by integer nodes.
            inside: the integer nodes.
            written: by one of them: then everybody reads it behind the first pair, the graph output too.
        """
        name = str(value.name)
        home, other = self.plan.tensors[name], self.plan.seams.get(name)
        integer = [u for u in value.uses() if u.node in inside and self.quantizes(u.node, u.idx)]
        across = [u for u in integer if (width(self.plan, u.node) == "int16") != is_wide(home)]
        across = [] if other is None else across
        source = value
        if written or len(across) < len(integer):
            source = self.pair(value, home, [u for u in (value.uses() if written else integer) if u not in across],
                               name, output=written)  # fmt: skip
        if other is not None and across:
            self.pair(source if written else value, other, across, f"{name}_{other.dtype}")

    def pair(
        self,
        value: ir.Value,
        params: QuantParams,
        uses: Sequence[tuple[ir.Node, int]],
        stem: str,
        *,
        output: bool = False,
    ) -> ir.Value:
        """Value -> Q -> DQ; `uses` (and the graph output, if `output`) are moved behind it."""
        output = output and value.is_graph_output()
        after = value.producer()
        q, dq = self.q_dq(value, params, stem, str(value.name) if output else None)
        if output:
            value.name = self.fresh(f"{value.name}_float")
        for node, index in uses:
            node.replace_input_with(index, dq.outputs[0])
        if output:
            for i, out in enumerate(self.graph.outputs):
                if out is value:
                    self.graph.outputs[i] = dq.outputs[0]
        if after is None:
            self.graph.insert_before(next(iter(self.graph)), [q, dq])
        else:
            self.graph.insert_after(after, [q, dq])
        return dq.outputs[0]

    @staticmethod
    def quantizes(node: ir.Node, index: int) -> bool:
        """Whether an input is an activation (not, say, the shape that a Reshape reads)."""
        return index in rules.data_inputs(node)

    def requantize(self, node: ir.Node) -> None:
        """A second pair before a same-scale node whose input could not take the group's scale."""
        own = self.parameters(node)
        for i in rules.data_inputs(node):
            dq = node.inputs[i].producer() if node.inputs[i] is not None else None  # type: ignore[union-attr]
            source = node.inputs[i]
            if dq is None or source is None or dq.op_type != "DequantizeLinear" or matches(dq, own):
                continue
            stem = f"{source.name}_requantized"
            q, again = self.q_dq(source, own, stem, None)
            self.graph.insert_before(node, [q, again])
            node.replace_input_with(i, again.outputs[0])

    def parameters(self, node: ir.Node) -> QuantParams:
        name = str(unit_outputs(node)[0].name)
        return self.plan.tensors[name if name in self.plan.tensors else name.removesuffix("_float")]


def _computes_in_float(node: ir.Node) -> bool:
    return any(out.dtype in (None, ir.DataType.FLOAT) for out in node.outputs)
