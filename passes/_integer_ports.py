"""Inputs and outputs in the integers that the user asked for, where the network stores them in another width."""

from __future__ import annotations

from collections.abc import Callable

from edgecc import ir
from edgecc.quant.params import QuantParams, from_range
from edgecc.quant.plan import QuantPlan
from edgecc.quant.units import Width

MakePair = Callable[[ir.Value, QuantParams, str, str | None], tuple[ir.Node, ir.Node]]


def store_ports(graph: ir.Graph, plan: QuantPlan, wanted: Width, make: MakePair) -> None:
    """Puts a pair of type `wanted` at each input that all readers quantize, and at each quantized output.

    Args:
        graph: with the pairs of the plan.
        plan: for the scales.
        wanted: type of the ports.
        make: a QuantizeLinear and a DequantizeLinear of a value: its parameters, a stem for names, the name of
            the result.
    """
    for value in graph.inputs:
        readers = ir.consumers(value)
        if readers and all(n.op_type == "QuantizeLinear" for n in readers) and not value.is_graph_output():
            _input(graph, value, _params(plan, str(value.name), wanted), readers, make)
    for position, value in enumerate(graph.outputs):
        maker = value.producer()
        if maker is None or maker.op_type != "DequantizeLinear" or _stored(maker.inputs[0]) == wanted:
            continue
        name = str(value.name)
        params = _params(plan, name, wanted)
        value.name = f"{name}_inner"
        pair = make(value, params, f"{name}_port", name)
        graph.insert_after(maker, pair)
        graph.outputs[position] = pair[1].outputs[0]


def _input(
    graph: ir.Graph, value: ir.Value, params: QuantParams, readers: list[ir.Node], make: MakePair
) -> None:
    """`value` -> Q -> DQ -> the pairs that its readers had, less the one that is the same."""
    others = [n for n in readers if _stored(n.outputs[0]) != params.dtype]
    if not others:
        return
    same = [n for n in readers if n not in others]
    if same:
        front = ir.consumers(same[0].outputs[0])[0].outputs[0]
    else:
        pair = make(value, params, f"{value.name}_port", None)
        graph.insert_before(next(iter(graph)), pair)
        front = pair[1].outputs[0]
    for node in others:
        node.replace_input_with(0, front)
        if same:  # the pair in front may stand behind
            after = ir.consumers(node.outputs[0])
            dequantize = front.producer()
            assert dequantize is not None
            graph.remove([node, *after])
            graph.insert_after(dequantize, [node, *after])


def _stored(value: ir.Value | None) -> str:
    return "" if value is None or value.dtype is None else str(value.dtype).lower()


def _params(plan: QuantPlan, name: str, wanted: Width) -> QuantParams:
    found = plan.stored(name, wanted)
    return found if found.dtype == wanted else from_range(*plan.range_of(name, wanted), wanted)
