"""Copies of the bodies of control-flow operators, as ordinary nodes of the graph around them."""

from __future__ import annotations

from collections.abc import Sequence

from edgecc import ir


class Body:
    """The body of an If, Loop or Scan, copied as often as wanted; its constants are shared by all copies.

    Args:
        body: left as it is.
        graph: that receives the constants now, and the nodes from the caller.
    """

    def __init__(self, body: ir.Graph, graph: ir.Graph) -> None:
        self.body, self.graph = body, graph
        self.constants: dict[str, ir.Value] = {}

    def copy(self, inputs: Sequence[ir.Value]) -> tuple[list[ir.Node], list[ir.Value]]:
        """Nodes that read `inputs` in the place of the body's own, and what they return.

        Names are new in the graph around. Shapes are forgotten: those of one step, or branch, may be another's.
        A value returned may be one of `inputs`, a constant, or one that the graph around computes.
        """
        clone = self.body.clone(allow_outer_scope_values=True)
        outputs = list(clone.outputs)
        clone.outputs.clear()
        given: dict[ir.Value, ir.Value] = dict(zip(clone.inputs, inputs, strict=True))
        for name, value in list(clone.initializers.items()):
            del clone.initializers[name]
            given[value] = self._constant(name, value)
        for inner, outer in given.items():
            ir.convenience.replace_all_uses_with(inner, outer)
        nodes = list(clone)
        clone.remove(nodes)
        for node in nodes:
            for out in node.outputs:
                out.name = ir.fresh_name(self.graph, out.name or "value")
                out.shape = None
            self._rename_inside(node)
        return nodes, [given.get(value, value) for value in outputs]

    def _constant(self, name: str, value: ir.Value) -> ir.Value:
        if name not in self.constants:
            outer = ir.Value(
                name=ir.fresh_name(self.graph, name), shape=value.shape, type=value.type,
                const_value=value.const_value,
            )  # fmt: skip
            self.graph.register_initializer(outer)
            self.constants[name] = outer
        return self.constants[name]

    def _rename_inside(self, node: ir.Node) -> None:
        """Names must differ in the graphs inside, too: ONNX knows no shadowing."""
        for attribute in node.attributes.values():
            if attribute.type != ir.AttributeType.GRAPH:
                continue
            inner = attribute.as_graph()
            constants = list(inner.initializers.values())
            inner.initializers.clear()
            for value in (*inner.inputs, *constants, *(out for each in inner for out in each.outputs)):
                value.name = ir.fresh_name(self.graph, value.name or "value")
            for value in constants:
                inner.register_initializer(value)
            for each in inner:
                for out in each.outputs:
                    out.shape = None
                self._rename_inside(each)


def size(graph: ir.Graph) -> int:
    """The nodes of a body, those inside them included."""
    return sum(1 for _ in graph.all_nodes())
